"""Makes databases and packs them, for the tests of Pack.

usage: python pack.py DIR FIRST N
       python pack.py time FILE

The second packs FILE to now, with garbage collection, and prints the seconds, and
the KiB of memory at most before and afterwards. The first writes for each seed from FIRST to FIRST+N-1 into DIR/SEED:

Data.fs         a random history, sometimes with a pack in it
plan            lines "TID GC": packs to do one after the other
N.plain.fs      what Python makes of Data.fs with the first N packs of the plan,
                missing if it fails at one of them
N.keep.fs       the same by the rules of raidstorage.Packer: garbage that a later
                record refers to stays, dangling references do not matter
"""
import io
import os
import random
import resource
import shutil
import sys
import time

from persistent.mapping import PersistentMapping
from persistent.TimeStamp import TimeStamp
from ZODB._compat import Pickler
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import fspack
from ZODB.FileStorage import FileStorage
from ZODB.POSException import UndoError
from ZODB.serialize import referencesf
from ZODB.utils import p64
from ZODB.utils import u64
from ZODB.utils import z64

# 2024-01-01; the transactions are a minute apart
BASE = u64(bytes.fromhex('03fb7b0000000000'))


class Ref:
    """A reference; kind is a letter."""

    def __init__(self, kind, oid):
        self.kind = kind
        self.oid = oid


def persistent_id(obj):
    if not isinstance(obj, Ref):
        return None
    oid = p64(obj.oid)
    return {'s': (oid, PersistentMapping), 'o': oid, 'w': ['w', (oid,)],
            'x': ['w', (oid, 'other')], 'm': ['m', ('other', oid, PersistentMapping)],
            'n': ['n', ('other', oid)]}[obj.kind]


def record(state):
    f = io.BytesIO()
    p = Pickler(f, 3)
    p.persistent_id = persistent_id
    p.dump(PersistentMapping)
    p.dump(state)
    return f.getvalue()


class History:
    def __init__(self, path, seed):
        self.path = path
        self.rnd = random.Random(seed)
        self.fs = FileStorage(path, create=True)
        self.n = 0
        self.tids = []
        self.oids = [0]
        self.refs = {0: []}

    def serial(self, oid):
        pos = self.fs._index.get(p64(oid))
        return self.fs._read_data_header(pos).tid if pos else z64

    def commit(self, change):
        self.n += 1
        tid = p64(BASE + (self.n << 32))
        meta = self.rnd.choice([(b'', b'', {}), (b'', b'', {}), (b'jim', b'change', {'n': self.n})])
        t = TransactionMetaData(*meta)
        self.fs.tpc_begin(t, tid)
        try:
            change(t)
        except UndoError:
            self.fs.tpc_abort(t)
            return
        self.fs.tpc_vote(t)
        self.fs.tpc_finish(t)
        self.tids.append(tid)

    def store(self, t, oid):
        size = 300000 if self.rnd.random() < .01 else self.rnd.randrange(200)
        data = record({'refs': self.refs[oid], 'data': self.rnd.randbytes(size)})
        self.fs.store(p64(oid), self.serial(oid), data, '', t)

    def change(self, t):
        for oid in self.rnd.sample(self.oids, min(len(self.oids), self.rnd.randrange(1, 4))):
            refs = self.refs[oid]
            what = self.rnd.random()
            if what < .4:  # a new object, sometimes two that refer to each other
                new = max(self.oids) + self.rnd.choice([1, 1, 1, 300])
                self.oids.append(new)
                self.refs[new] = [Ref(self.rnd.choice('so'), oid)] if self.rnd.random() < .3 else []
                refs.append(Ref(self.rnd.choice('ssssowxmn'), new))
                self.store(t, new)
            elif what < .6 and refs:
                refs.pop(self.rnd.randrange(len(refs)))
            elif what < .75:  # to any object, be it garbage
                refs.append(Ref(self.rnd.choice('ssow'), self.rnd.choice(self.oids)))
            self.store(t, oid)

    def delete(self, t):
        oid = self.rnd.choice(self.oids[1:] or [None])
        pos = oid and self.fs._index.get(p64(oid))
        if pos and self.fs._read_data_header(pos).plen:
            self.fs.deleteObject(p64(oid), self.serial(oid), t)

    def undo(self, t):
        recent = self.fs.undoLog(0, 6)
        if recent:
            self.fs.undo(self.rnd.choice(recent)['id'], t)

    def run(self, length):
        self.commit(lambda t: self.store(t, 0))
        while len(self.tids) < length:
            what = self.rnd.random()
            if what < .7:
                self.commit(self.change)
            elif what < .9:
                self.commit(self.undo)
            elif what < .97:
                self.commit(self.delete)
            else:
                self.commit(lambda t: None)
            if self.rnd.random() < .03:
                self.pack(self.rnd.choice(self.tids), self.rnd.random() < .5)
        self.fs.close()

    def pack(self, tid, gc):
        self.fs.close()
        pack(self.path, tid, gc)
        self.fs = FileStorage(self.path)


def seconds(tid):
    return TimeStamp(tid).timeTime() + 1


def pack(path, tid, gc):
    """Pack path, or leave it as it is and return False if that fails."""
    shutil.copy(path, path + '.before')
    fs = FileStorage(path)
    try:
        fs.pack(seconds(tid), referencesf, gc=gc)
    except (KeyError, AssertionError, fspack.PackError):
        fs._file.close()
        fs._lock_file.close()
        os.replace(path + '.before', path)
        for suffix in '.index', '.pack':
            if os.path.exists(path + suffix):
                os.remove(path + suffix)
        return False
    fs.close()
    os.remove(path + '.before')
    return True


class KeepGC(fspack.GC):
    """Follows all later references, and passes over dangling ones."""

    def isReachable(self, oid, pos):
        return self.reachable.get(oid) == pos or pos in self.reach_ex.get(oid, ())

    def findReachableAtPacktime(self, roots):
        todo = list(roots)
        if z64 in todo and len(self.oid2curpos) and z64 not in self.oid2curpos:
            raise KeyError(z64)
        while todo:
            oid = todo.pop()
            pos = self.oid2curpos.get(oid)
            if pos is not None and oid not in self.reachable:
                self.reachable[oid] = pos
                todo.extend(self.findrefs(pos))

    def findReachableFromFuture(self):
        roots = []
        pos = self.packpos
        while pos < self.eof:
            th = self._read_txn_header(pos)
            at = pos + th.headerlen()
            while at < pos + th.tlen:
                dh = self._read_data_header(at)
                if dh.back and dh.back < self.packpos:
                    self.reach_ex.setdefault(dh.oid, []).append(dh.back)
                roots.extend(self.findrefs(at))
                at += dh.recordlen()
            pos += th.tlen + 8
        self.findReachableAtPacktime(roots)


def main(directory, first, n):
    plain = fspack.GC
    for seed in range(int(first), int(first) + int(n)):
        d = os.path.join(directory, str(seed))
        os.mkdir(d)
        path = os.path.join(d, 'Data.fs')
        h = History(path, seed)
        h.run(h.rnd.randrange(5, 40))
        plan = [(h.rnd.choice(h.tids), h.rnd.random() < .7)
                for _ in range(h.rnd.randrange(1, 4))]
        if h.rnd.random() < .5:
            plan.sort()
        with open(os.path.join(d, 'plan'), 'w') as f:
            for tid, gc in plan:
                print(tid.hex(), int(gc), file=f)
        for name, gc_class in ('plain', plain), ('keep', KeepGC):
            fspack.GC = gc_class
            work = os.path.join(d, 'work.fs')
            shutil.copy(path, work)
            for i, (tid, gc) in enumerate(plan):
                if not pack(work, tid, gc):
                    break
                shutil.copy(work, os.path.join(d, '%d.%s.fs' % (i + 1, name)))
            for f in os.listdir(d):
                if f.startswith('work.fs'):
                    os.remove(os.path.join(d, f))
        fspack.GC = plain


def peak_memory():
    with open('/proc/self/status') as f:
        return next(line.split()[1] for line in f if line.startswith('VmHWM:'))


def time_pack(path):
    fs = FileStorage(path)
    before = peak_memory()
    start = time.perf_counter()
    fs.pack(time.time() + 60, referencesf, gc=True)
    print(time.perf_counter() - start, before, peak_memory())
    fs.close()


if __name__ == '__main__':
    if sys.argv[1] == 'time':
        time_pack(sys.argv[2])
    else:
        main(*sys.argv[1:])
