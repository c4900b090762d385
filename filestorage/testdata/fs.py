"""What the tests of package filestorage ask of Python's FileStorage.

usage: python fs.py COMMAND FILE

make    writes the golden files; FILE is a directory: python fs.py make testdata
write   creates FILE with stores, undos, deletions and a pack
more    undoes the last transaction of FILE and commits another one
dump    prints all transactions and all revisions, first checking FILE as fstest does
index   prints the oids and positions in FILE.index
open    opens FILE for writing and prints "open", or "locked" if it cannot
hold    opens FILE for writing, prints "open" and waits until its input ends
"""
import base64
import os
import shutil
import sys
import tempfile

from persistent.TimeStamp import TimeStamp
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.fsIndex import fsIndex
from ZODB.POSException import POSKeyError
from ZODB.scripts.fstest import check
from ZODB.utils import p64
from ZODB.utils import u64
from ZODB.utils import z64
from zc.lockfile import LockError

# 2024-01-01, and the seconds of the following transactions
BASE = u64(bytes.fromhex('03fb7b0000000000'))


def references(data, oids=None):
    """Return the oids that data, which is no pickle, is said to refer to."""
    return [p64(n) for n in (1, 2, 4)] if data.startswith(b'root') else []


class Writer:
    """Commits transactions with tids that are always the same."""

    def __init__(self, path):
        self.fs = FileStorage(path)
        self.n = 0

    def commit(self, *changes, user=b'', description=b'', extension=None):
        self.n += 1
        tid = p64(BASE + (self.n << 32))
        t = TransactionMetaData(user, description, extension or {})
        self.fs.tpc_begin(t, tid)
        for name, *args in changes:
            getattr(self, name)(t, *args)
        self.fs.tpc_vote(t)
        self.fs.tpc_finish(t)
        return tid

    def serial(self, oid):
        pos = self.fs._index.get(p64(oid))
        return self.fs._read_data_header(pos).tid if pos else z64

    def store(self, t, oid, data):
        self.fs.store(p64(oid), self.serial(oid), data, '', t)

    def delete(self, t, oid):
        self.fs.deleteObject(p64(oid), self.serial(oid), t)

    def undo(self, t, tid):
        self.fs.undo(base64.encodebytes(tid).rstrip(), t)

    def pack(self, tid):
        self.fs.pack(TimeStamp(tid).timeTime() + 1, references)


def write(path):
    w = Writer(path)
    w.commit(('store', 0, b'root'), ('store', 1, b'one'),
             ('store', 4, b'four'), user=b'jim', description=b'first',
             extension={'why': 'a test', 'n': 1})
    four = w.commit(('store', 4, b'four again'))
    w.commit(('store', 1, b'one again'), ('store', 0x10002, b'far' * 500))
    w.commit(description=b'nothing')
    undone = w.commit(('store', 2, b'created'), ('store', 1, b'changed'))
    undo = w.commit(('undo', undone), user='\u00e9'.encode())
    w.commit(('undo', undo))
    pack = w.commit(('store', 0, b'root 2'), ('delete', 0x10002))
    # Points back to a revision that is not current at the time of the pack.
    w.commit(('undo', four))
    a = w.commit(('store', 1, b'a'))
    b = w.commit(('store', 1, b'b'))
    w.pack(pack)
    # Two records of one object in one transaction.
    both = w.commit(('undo', b), ('undo', a))
    w.commit(('undo', both))
    w.commit(('store', 3, b'three'))
    w.fs.close()


def more(path):
    fs = FileStorage(path)
    last = fs.undoLog(0, 1)[0]['id']
    for change in (lambda t: fs.undo(last, t),
                   lambda t: fs.store(p64(77777), z64, b'from Python', '', t)):
        t = TransactionMetaData(b'python', b'more')
        fs.tpc_begin(t)
        change(t)
        fs.tpc_vote(t)
        fs.tpc_finish(t)
    fs.close()


def load(fs, oid, before):
    try:
        found = fs.loadBefore(oid, before)
    except POSKeyError:
        return 'L %s %s missing' % (oid.hex(), before.hex())
    if found is None:
        return 'L %s %s later' % (oid.hex(), before.hex())
    data, serial, end = found
    return 'L %s %s %s %s %s' % (
        oid.hex(), before.hex(), serial.hex(), (end or z64).hex(), data.hex())


def dump(path):
    check(path)
    fs = FileStorage(path, read_only=True)
    print('index used' if fs._used_index else 'index not used')
    records = []
    for t in fs.iterator():
        print('T', t.tid.hex(), t.status, t.user.hex() or '-',
              t.description.hex() or '-', t.extension_bytes.hex() or '-')
        for r in t:
            prev = r.data is not None and r.data_txn or None
            print('R', r.oid.hex(), r.tid.hex(),
                  '-' if r.data is None else r.data.hex(),
                  prev.hex() if prev else '-')
            records.append((r.oid, r.tid))
    for oid, tid in records:
        print(load(fs, oid, p64(u64(tid) + 1)))
        print(load(fs, oid, tid))
    fs.close()


def index(path):
    info = fsIndex.load(path + '.index')
    print('end', info['pos'])
    for oid, pos in info['index'].iteritems():
        print(oid.hex(), pos)


def open_(path):
    try:
        FileStorage(path).close()
        print('open')
    except LockError:
        print('locked')


def hold(path):
    fs = FileStorage(path)
    print('open', flush=True)
    sys.stdin.read()
    fs.close()


def make(directory):
    temp = tempfile.mkdtemp()
    path = os.path.join(temp, 'Data.fs')
    w = Writer(path)
    w.commit(('store', 0, b'root'), user=b'jim', description=b'first',
             extension={'n': 1})
    created = w.commit(('store', 1, b'one'), ('store', 2, b'two'))
    w.commit(('undo', created))
    w.commit(('store', 0, b'root 2'))
    w.fs.close()
    shutil.copy(path, os.path.join(directory, 'undone.fs'))
    shutil.copy(path + '.index', os.path.join(directory, 'undone.fs.index'))
    with open(path, 'rb') as f:
        old = b'FS21' + f.read()[4:]
    with open(os.path.join(directory, 'python2.fs'), 'wb') as f:
        f.write(old)
    path = os.path.join(temp, 'packed.fs')
    write(path)
    shutil.copy(path, directory)
    shutil.copy(path + '.index', os.path.join(directory, 'packed.fs.index'))
    sys.stdout = open(os.path.join(directory, 'packed.dump'), 'w')
    dump(path)
    sys.stdout.close()
    sys.stdout = open(os.path.join(directory, 'undone.dump'), 'w')
    dump(os.path.join(temp, 'Data.fs'))
    sys.stdout.close()
    sys.stdout = sys.__stdout__
    shutil.rmtree(temp)


if __name__ == '__main__':
    commands = dict(make=make, write=write, more=more, dump=dump, index=index,
                    open=open_, hold=hold)
    commands[sys.argv[1]](sys.argv[2])
