"""What compare_test.go measures of Python's FileStorage.

usage: python compare.py build FILE    creates the file of the comparison
       python compare.py serve FILE    answers questions, one a line, until its
                                       input ends; each answer is a number

scan            seconds that opening without an index file takes
open            seconds that opening with one takes
iterate         records per second, all transactions
load THREADS    loads of random objects per second, the file in memory
commit FILE     commits of one object per second, synced, in FILE
"""
import os
import random
import sys
import threading
import time

from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import maxtid
from ZODB.utils import p64
from ZODB.utils import z64

OBJECTS = 1000000
PER_TRANSACTION = 100
UPDATES = 3000


def record(oid, rng):
    """Return two pickles: a class, and ten references with 150 random bytes."""
    state = b''.join(b'C\x08' + p64((10 * oid + i) % OBJECTS) + b'Q'
                     for i in range(1, 11))
    return (b'\x80\x03cpersistent.mapping\nPersistentMapping\n.'
            b'\x80\x03(' + state + b'C' + bytes([150])
            + rng.randbytes(150) + b't.')


def commit(fs, changes):
    t = TransactionMetaData()
    fs.tpc_begin(t)
    for oid, serial, data in changes:
        fs.store(p64(oid), serial, data, '', t)
    fs.tpc_vote(t)
    return fs.tpc_finish(t)


def build(path):
    fs = FileStorage(path, create=True)
    rng = random.Random(1)
    serials = [z64] * OBJECTS
    for first in range(0, OBJECTS, PER_TRANSACTION):
        oids = range(first, first + PER_TRANSACTION)
        tid = commit(fs, [(o, z64, record(o, rng)) for o in oids])
        for o in oids:
            serials[o] = tid
    for _ in range(UPDATES):
        oids = rng.sample(range(OBJECTS), PER_TRANSACTION)
        tid = commit(fs, [(o, serials[o], record(o, rng)) for o in oids])
        for o in oids:
            serials[o] = tid
    fs.close()


class Server:

    def __init__(self, path):
        self.path = path
        self.fs = None

    def opened(self):
        if self.fs is None:
            self.fs = FileStorage(self.path, read_only=True)
        return self.fs

    def timed_open(self):
        start = time.perf_counter()
        fs = FileStorage(self.path, read_only=True)
        seconds = time.perf_counter() - start
        fs.close()
        return seconds

    def open(self):
        return self.timed_open()

    def scan(self):
        index, aside = self.path + '.index', self.path + '.aside'
        os.rename(index, aside)
        try:
            return self.timed_open()
        finally:
            os.rename(aside, index)

    def iterate(self):
        n, start = 0, time.perf_counter()
        for t in self.opened().iterator():
            for r in t:
                r.data
                n += 1
        return n / (time.perf_counter() - start)

    def load(self, threads):
        fs, n = self.opened(), 200000
        rng = random.Random(7)
        oids = [p64(rng.randrange(OBJECTS)) for _ in range(n)]

        def run(mine):
            load = fs.loadBefore
            for oid in mine:
                load(oid, maxtid)

        running = [threading.Thread(target=run, args=(oids[i::int(threads)],))
                   for i in range(int(threads))]
        start = time.perf_counter()
        for t in running:
            t.start()
        for t in running:
            t.join()
        return n / (time.perf_counter() - start)

    def commit(self, path):
        fs, n, data = FileStorage(path), 1000, b'x' * 300
        tid = commit(fs, [(1, z64, data)])
        start = time.perf_counter()
        for _ in range(n):
            tid = commit(fs, [(1, tid, data)])
        seconds = time.perf_counter() - start
        fs.close()
        return n / seconds


def serve(path):
    server = Server(path)
    for line in sys.stdin:
        name, *args = line.split()
        print(getattr(server, name)(*args), flush=True)


if __name__ == '__main__':
    {'build': build, 'serve': serve}[sys.argv[1]](sys.argv[2])
