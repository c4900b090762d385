"""A small application of ZODB, as a client of a ZEO server.

  client.py fill ADDRESS COUNT   commits COUNT transactions, each with a new object, with
                                 a change of the root that makes an old object garbage,
                                 and with a blob
  client.py check ADDRESS COUNT  checks that all is there
  client.py file PATH COUNT      the same, in a storage's file with its blobs in PATH-blobs,
                                 or in X-blobs-b if PATH is X-b
  client.py digest PATH          prints a digest of all transactions in a storage's file
"""
import hashlib
import sys
import tempfile

import transaction
import ZEO
import ZODB
import ZODB.blob
import ZODB.FileStorage
from persistent.mapping import PersistentMapping


def address(text):
    host, _, port = text.rpartition(":")
    return (host, int(port)) if port.isdigit() else text


def check(db, count):
    root = db.open().root()
    for number in range(count):
        assert root["kept"][number]["number"] == number, number
        with root["kept"][number]["blob"].open() as f:
            assert f.read() == b"%d" % number * 1000, number
    assert len(root["kept"]) == count, len(root["kept"])
    assert root["latest"]["text"] == "x" * 1000


def fill(db, count):
    connection = db.open()
    root = connection.root()
    kept = root.setdefault("kept", PersistentMapping())
    for _ in range(count):
        number = len(kept)
        kept[number] = PersistentMapping(number=number, blob=ZODB.blob.Blob(b"%d" % number * 1000))
        root["latest"] = PersistentMapping(text="x" * 1000)
        transaction.get().note("number %d" % number)
        transaction.commit()
    connection.close()


def digest(path):
    storage, h = ZODB.FileStorage.FileStorage(path, read_only=True), hashlib.sha256()
    for t in storage.iterator():
        h.update(repr((t.tid, t.status, t.user, t.description, t.extension)).encode())
        for r in t:
            h.update(repr((r.oid, r.tid, r.data)).encode())
    print(h.hexdigest())
    storage.close()


def main(command, where, count="0"):
    if command == "digest":
        return digest(where)
    with tempfile.TemporaryDirectory() as blobs:
        if command == "file":
            directory = where[:-2] + "-blobs-b" if where.endswith("-b") else where + "-blobs"
            storage = ZODB.FileStorage.FileStorage(where, read_only=True, blob_dir=directory)
        else:
            storage = ZEO.client(address(where), blob_dir=blobs, wait_timeout=20)
        db = ZODB.DB(storage)
        (fill if command == "fill" else check)(db, int(count))
        db.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
