"""What the tests of Check and Recover ask of Python's ZODB.

usage: python check.py COMMAND [FILE]

make    writes FILE, a database of persistent mappings, and its index
judge   reads names of files from its input, and prints a JSON list with what
        fstest and fsrefs say of each, and what is wrong when all its records are
        read, and how many these are
"""
import contextlib
import io
import json
import logging
import sys

import transaction
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.scripts import fsrefs
from ZODB.scripts.fstest import check
from ZODB.utils import load_current
from ZODB.utils import p64
from ZODB.utils import u64

# A time in 2024, and the minutes after it
BASE = u64(bytes.fromhex('03fb7b0000000000'))


class Fixed(FileStorage):
    """A FileStorage whose tids are always the same."""

    n = 0

    def tpc_begin(self, t, tid=None, status=' '):
        self.n += 1
        FileStorage.tpc_begin(self, t, p64(BASE + (self.n << 32)), status)


def make(path):
    fs = Fixed(path)
    db = DB(fs)
    conn = db.open()
    root = conn.root()

    def commit(user, note):
        t = transaction.get()
        t.setUser(user)
        t.note(note)
        t.setExtendedInfo('n', fs.n)
        transaction.commit()

    def undo_last():
        db.undo(db.undoLog(0, 1)[0]['id'])
        transaction.get().note('undo')
        transaction.commit()

    root['a'] = PersistentMapping(text='first' * 20)
    root['b'] = PersistentMapping(text='second' * 20)
    commit('jim', 'a and b')
    root['a']['text'] = 'changed' * 30
    commit('joe', 'change a')
    undo_last()
    root['c'] = PersistentMapping(a=root['a'], b=root['b'])
    commit('jim', 'c refers to a and b')
    t = TransactionMetaData('nobody', 'nothing')
    fs.tpc_begin(t)
    fs.tpc_vote(t)
    fs.tpc_finish(t)
    root['d'] = PersistentMapping(text='never mind')
    commit('jim', 'd')
    undo_last()
    root['e'] = PersistentMapping(text='large' * 600)
    root['c']['e'] = root['e']
    commit('eve', 'e is large')
    for i in range(6):
        root['b']['text'] = 'b%d' % i * 40
        root['e']['n%d' % i] = PersistentMapping(n=i, of=root['e'])
        commit('loop', 'number %d' % i)
    db.close()


def fstest(path):
    check(path)


def refs(path):
    fsrefs.main(path)


def read(path):
    fs = FileStorage(path, read_only=True)
    n = 0
    for t in fs.iterator():
        n += sum(1 for r in t)
    for oid in list(fs._index.keys()):
        try:
            load_current(fs, oid)
        except KeyError:  # deleted
            pass
    fs.close()
    return n


def complaints(function, path):
    """Call a function; return its result, and what it printed or raised."""
    out = io.StringIO()
    result = 0
    try:
        with contextlib.redirect_stdout(out):
            result = function(path) or 0
    except Exception as err:
        print('%s: %s' % (type(err).__name__, err), file=out)
    return result, out.getvalue()


def judge():
    logging.disable(logging.CRITICAL)
    verdicts = []
    for path in sys.stdin.read().split('\n'):
        records, reading = complaints(read, path)
        verdicts.append(dict(
            FSTest=complaints(fstest, path)[1],
            FSRefs=complaints(refs, path)[1],
            Read=reading, Records=records))
    json.dump(verdicts, sys.stdout)


if __name__ == '__main__':
    commands = dict(make=make, judge=judge)
    commands[sys.argv[1]](*sys.argv[2:])
