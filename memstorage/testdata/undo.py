"""Write undo.txt: random stores, deletions and undos, and what FileStorage makes of them.

    python undo.py > undo.txt

Needs ZODB. Each line has what one transaction does, whether it was committed ("ok" or
"refused"), and the data of objects 1 to 3 afterwards ("-" where there is none):

    store OID DATA / delete OID / undo N...    (N: the number of a committed transaction)
    reset                                      (a new, empty storage)
"""

import logging
import os
import random
import tempfile
from base64 import encodebytes

from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError
from ZODB.POSException import UndoError
from ZODB.utils import load_current
from ZODB.utils import p64

OIDS = (1, 2, 3)


def current(storage, oid):
    try:
        return load_current(storage, p64(oid))
    except POSKeyError:
        return None


def serial(storage, oid):
    """The current serial, of a deletion too; 0 for an unknown object."""
    try:
        return storage.history(p64(oid), 1)[0]["tid"]
    except (KeyError, POSKeyError):
        return p64(0)


def commit(storage, act):
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    try:
        act(txn)
    except UndoError:
        storage.tpc_abort(txn)
        return None
    storage.tpc_vote(txn)
    return storage.tpc_finish(txn)


def run(path, rng, steps):
    print("reset")
    storage = FileStorage(path)
    tids = []
    for _ in range(steps):
        choice, oid = rng.random(), rng.choice(OIDS)
        if choice < 0.4 or not tids:
            data = rng.choice("ab")
            words = f"store {oid} {data}"

            def act(txn):
                storage.store(p64(oid), serial(storage, oid), data.encode(), "", txn)
        elif choice < 0.5:
            if current(storage, oid) is None:
                continue
            words = f"delete {oid}"

            def act(txn):
                storage.deleteObject(p64(oid), serial(storage, oid), txn)
        else:
            recent = range(max(0, len(tids) - 6), len(tids))
            chosen = rng.sample(recent, min(len(recent), rng.choice((1, 1, 1, 2, 3))))
            chosen.sort(reverse=rng.random() < 0.8)
            words = "undo " + " ".join(map(str, chosen))

            def act(txn):
                for number in chosen:
                    storage.undo(encodebytes(tids[number]).rstrip(), txn)
        tid = commit(storage, act)
        if tid is not None:
            tids.append(tid)
        state = [current(storage, oid) for oid in OIDS]
        shown = " ".join("-" if data is None else data[0].decode() for data in state)
        print(words, "ok" if tid else "refused", shown, sep="\t")
    storage.close()


# Data that is no pickle makes the attempt at conflict resolution complain.
logging.disable()
with tempfile.TemporaryDirectory() as directory:
    for seed in range(40):
        run(os.path.join(directory, f"{seed}.fs"), random.Random(seed), 40)
