"""Make a Data.fs with Python's FileStorage, or check that another one begins with it.

    database.py make FILE
    database.py check FILE COPY
"""

import sys

import transaction
from persistent.mapping import PersistentMapping
from ZODB import DB
from ZODB.FileStorage import FileStorage


def make(path):
    """Write commits, a pack, and an undo."""
    db = DB(FileStorage(path, create=True))
    root = db.open().root()
    for i in range(120):
        root["key %d" % i] = PersistentMapping(number=i, text="x" * 100)
        if i % 3 == 0:
            root["key 0"]["number"] = i
        transaction.get().note("step %d" % i)
        transaction.commit()
        if i == 60:
            db.pack()
    db.undo(db.undoLog(0, 1)[0]["id"])
    transaction.commit()
    db.close()


def log(path):
    """Yield a tuple for each transaction of a file, with all that is in it."""
    storage = FileStorage(path, read_only=True)
    for t in storage.iterator():
        yield (t.tid, t.status, t.user, t.description, t.extension_bytes,
               [(r.oid, r.tid, r.data) for r in t])
    storage.close()


def check(path, copy):
    """Compare the logs, and open the copy as a database."""
    old, new = list(log(path)), list(log(copy))
    if not old or len(new) <= len(old) or new[:len(old)] != old:
        sys.exit("%s does not begin with the %d transactions of %s" % (copy, len(old), path))
    db = DB(FileStorage(copy))
    root = db.open().root()
    numbers = sorted(v["number"] for v in root.values())
    if len(numbers) != 119:  # the last one of 120 is undone
        sys.exit("%s has %d objects in its root, not 119" % (copy, len(numbers)))
    db.close()
    print("%s: %d transactions, the first %d of them as they were" % (copy, len(new), len(old)))


{"make": make, "check": check}[sys.argv[1]](*sys.argv[2:])
