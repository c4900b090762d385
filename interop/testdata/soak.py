"""What the soak test needs of Python.

  soak.py setup ADDRESS COUNT             makes so many objects, and prints their oids
  soak.py files ACCOUNTS DIRECTORY ...    checks the members' files; ACCOUNTS are those of
                                          the clients of failover.py
"""
import json
import sys

import transaction
import ZODB
from persistent.mapping import PersistentMapping
from ZEO.ClientStorage import ClientStorage
from ZODB.utils import u64

import failover


def setup(where, count):
    db = ZODB.DB(ClientStorage(failover.address(where), wait_timeout=30))
    connection = db.open()
    objects = [PersistentMapping() for _ in range(int(count))]
    connection.root()["soak"] = PersistentMapping(enumerate(objects))
    transaction.commit()
    print(*(u64(o._p_oid) for o in objects))
    connection.close()
    db.close()


def files(result, *directories):
    accounts = json.load(open(result))
    for directory in directories:
        print(directory, "has", failover.check_database(accounts, directory), "objects that can be reached")


if __name__ == "__main__":
    {"setup": setup, "files": files}[sys.argv[1]](*sys.argv[2:])
