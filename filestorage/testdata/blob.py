"""What the tests of blobs ask of Python's ZODB.

usage: python blob.py COMMAND FILE

The blob directory is FILE.blobs.

write   commits blobs to a new FILE, changes one, and undoes that
more    changes the blobs in FILE, adds one, and undoes a transaction
undo    undoes the last transaction of FILE
pack    packs FILE to now, without what cannot be reached
dump    prints all records of FILE, with the contents of their blobs, and the current
        blobs as an application reads them
"""
import sys
import time

import transaction
from ZODB import DB
from ZODB.blob import Blob
from ZODB.blob import is_blob_record
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError


def open_db(path):
    return DB(FileStorage(path, blob_dir=path + '.blobs'))


def change(root, **blobs):
    for name, content in blobs.items():
        if name not in root:
            root[name] = Blob()
        with root[name].open('w') as f:
            f.write(content)
    transaction.commit()


def undo(db):
    db.undo(db.undoInfo()[0]['id'])
    transaction.commit()


def write(db):
    root = db.open().root()
    change(root, one=b'one', two=b'two' * 100000)
    change(root, one=b'uno')
    undo(db)
    change(root, empty=b'')


def more(db):
    conn = db.open()
    root = conn.root()
    for name in sorted(root):
        change(root, **{name: b'changed by Python: ' + name.encode()})
    undo(db)
    conn.sync()
    change(root, python=b'new')
    change(root, garbage=b'garbage')
    del root['garbage']
    transaction.commit()


def pack(db):
    time.sleep(0.01)  # the pack time must be later than the last commit
    db.pack(time.time())


def dump(db):
    storage = db.storage
    for t in storage.iterator():
        for r in t:
            blob = '-'
            if r.data and is_blob_record(r.data):
                try:
                    with open(storage.loadBlob(r.oid, r.tid), 'rb') as f:
                        blob = f.read()
                    blob = '%d:%s' % (len(blob), blob[:40].decode())
                except POSKeyError:
                    blob = 'missing'
            print(r.tid.hex(), r.oid.hex(), blob)
    root = db.open().root()
    for name in sorted(root):
        with root[name].open() as f:
            content = f.read()
        print(name, '%d:%s' % (len(content), content[:40].decode()))


def main():
    command, path = sys.argv[1:]
    db = open_db(path)
    {'write': write, 'more': more, 'undo': undo, 'pack': pack,
     'dump': dump}[command](db)
    db.close()


if __name__ == '__main__':
    main()
