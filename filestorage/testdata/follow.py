"""A writer for the tests of Follow.

usage: python follow.py FILE

commits transactions to FILE, in which oid 0 counts them, as its input says: each
line is a number of transactions, or "pack"; the answer is the last tid in hex.
"""
import sys
import time

from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import p64
from ZODB.utils import z64


def main(path):
    fs, n, serial = FileStorage(path), 0, z64
    for line in sys.stdin:
        if line.strip() == 'pack':
            fs.pack(time.time() + 1, lambda data, oids=None: [])
        else:
            for _ in range(int(line)):
                n += 1
                t = TransactionMetaData(b'python')
                fs.tpc_begin(t)
                fs.store(z64, serial, b'%d.' % n, '', t)
                fs.store(p64(n), z64, b'x' * (n % 5000 + 1), '', t)
                fs.tpc_vote(t)
                serial = fs.tpc_finish(t)
        print(fs.lastTransaction().hex(), flush=True)
    fs.close()


main(sys.argv[1])
