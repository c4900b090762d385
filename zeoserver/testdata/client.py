"""ZEO's own client against the server that listens on the port of argument 2.

Each scenario is a function; argument 1 names it. A failed assertion is a failed test.
Argument 3 is a directory of the test's own.
"""
import os
import sys
import time

import persistent.mapping
import transaction
import ZODB
import ZODB.blob
from ZEO.ClientStorage import ClientStorage
from ZEO.Exceptions import ClientDisconnected
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError, POSKeyError, ReadConflictError
from ZODB.POSException import ReadOnlyError, UndoError
from ZODB.utils import maxtid, p64, u64, z64

PORT = int(sys.argv[2]) if len(sys.argv) > 2 else 0
DIR = sys.argv[3] if len(sys.argv) > 3 else '.'


def storage(**kw):
    blobs = os.path.join(DIR, 'blobs%d' % len(os.listdir(DIR)))
    return ClientStorage(('127.0.0.1', PORT), wait_timeout=20, blob_dir=blobs, **kw)


def mapping(**kw):
    return persistent.mapping.PersistentMapping(kw)


def raises(kind, f, *args):
    try:
        f(*args)
    except kind as e:
        return e
    raise AssertionError('%s was not raised' % kind)


def refresh(c):
    """Let c see what was committed: the invalidations come before the answer."""
    c.db().storage._call('ping')
    c.sync()


def commits():
    db, db2 = ZODB.DB(storage()), ZODB.DB(storage())
    tm, tm2 = transaction.TransactionManager(), transaction.TransactionManager()
    one, two = db.open(tm), db2.open(tm2)
    one.root()['m'] = mapping(n=0)
    tm.commit()
    for n in range(20):
        for c, t in ((one, tm), (two, tm2)):
            refresh(c)
            c.root()['m']['n'] += 1
            t.commit()
    refresh(one)
    assert one.root()['m']['n'] == 40
    # Snapshots stay what they are.
    refresh(two)
    one.root()['m']['n'] = 100
    tm.commit()
    assert two.root()['m']['n'] == 40
    refresh(two)
    assert two.root()['m']['n'] == 100
    db.close()
    db2.close()


def conflicts():
    db = ZODB.DB(storage())
    tm, tm2 = transaction.TransactionManager(), transaction.TransactionManager()
    one, two = db.open(tm), db.open(tm2)
    one.root()['m'] = mapping(n=0)
    tm.commit()
    refresh(two)
    m1, m2 = one.root()['m'], two.root()['m']
    m1['n'], m2['n'] = 1, 2
    old = m2._p_serial
    tm.commit()
    e = raises(ConflictError, tm2.commit)
    assert type(e) is ConflictError, type(e)
    assert e.oid == m1._p_oid and e.serials == (m1._p_serial, old), e
    assert e.class_name == 'persistent.mapping.PersistentMapping', e.class_name
    tm2.abort()
    two.readCurrent(m2)
    two.root()['other'] = 1
    m1['n'] = 5
    tm.commit()
    e = raises(ReadConflictError, tm2.commit)
    assert e.oid == m1._p_oid, e
    tm2.abort()
    db.close()


def undo():
    s = storage()
    db = ZODB.DB(s)
    c = db.open()
    c.root()['m'] = mapping(n=1)
    transaction.get().note('first')
    transaction.get().setUser('alice')
    transaction.get().setExtendedInfo('k', 'v')
    transaction.commit()
    c.root()['m']['n'] = 2
    transaction.get().note('second')
    transaction.commit()
    log = db.undoInfo(0, 20)
    assert [d['description'] for d in log[:2]] == ['second', 'first'], log
    assert log[1]['user_name'] == '/ alice' and log[1]['k'] == 'v', log
    assert [d['description'] for d in db.undoInfo(specification={'k': 'v'})] == ['first']
    db.undo(log[1]['id'])
    raises(UndoError, transaction.commit)
    transaction.abort()
    db.undo(log[0]['id'])
    transaction.commit()
    c.sync()
    assert c.root()['m']['n'] == 1
    h = s.history(c.root()['m']._p_oid, 10)
    assert len(h) == 3 and h[0]['tid'] == s.lastTransaction(), h
    db.close()


def iteration():
    s = storage()
    db = ZODB.DB(s)
    c = db.open()
    for n in range(5):
        c.root()[n] = mapping(n=n)
        transaction.get().note('txn %d' % n)
        transaction.commit()
    txns = [(t.tid, t.description, [r.oid for r in t]) for t in s.iterator()]
    assert [d for _, d, _ in txns[1:]] == [b'txn %d' % n for n in range(5)], txns
    assert all(len(o) == 2 for _, _, o in txns[1:]), txns
    assert [t.tid for t in s.iterator(txns[2][0], txns[3][0])] == [txns[2][0], txns[3][0]]
    oid, seen = None, []
    while True:
        oid2, tid, data, oid = s.record_iternext(oid)
        assert data == s.loadBefore(oid2, maxtid)[0]
        seen.append(oid2)
        if oid is None:
            break
    assert sorted(seen) == seen and len(seen) == 6, seen
    oid = seen[-1]
    serial = s.getTid(oid)
    assert s.loadBefore(oid, serial) is None
    raises(POSKeyError, s.loadBefore, p64(u64(oid) + 1000), maxtid)
    t = TransactionMetaData()
    s.tpc_begin(t)
    s.deleteObject(oid, serial, t)
    s.tpc_vote(t)
    s.tpc_finish(t)
    raises(POSKeyError, s.loadBefore, oid, maxtid)
    assert s.loadSerial(oid, serial)
    db.close()


def copies():
    s = storage()
    t = TransactionMetaData('u', 'd', {'x': [1, 'two', {'y': None}]})
    tid = p64(0x0300000000000000)
    s.tpc_begin(t, tid, 'p')
    s.restore(p64(1), tid, b'one', '', None, t)
    s.tpc_vote(t)
    s.tpc_finish(t)
    [txn] = list(s.iterator())
    assert (txn.tid, txn.status, txn.user, txn.description) == (tid, 'p', b'u', b'd')
    assert txn.extension == {'x': [1, 'two', {'y': None}]} or txn.extension == {'x': (1, 'two', {'y': None})}
    s.close()


def blobs():
    db, db2 = ZODB.DB(storage()), ZODB.DB(storage())
    c = db.open()
    data = os.urandom(3000000)
    c.root()['b'], c.root()['e'] = ZODB.blob.Blob(data), ZODB.blob.Blob(b'')
    transaction.commit()
    c2 = db2.open(transaction.TransactionManager())
    refresh(c2)
    with c2.root()['b'].open() as f:
        assert f.read() == data
    with c2.root()['e'].open() as f:
        assert f.read() == b''
    with c.root()['b'].open('w') as f:
        f.write(b'new')
    transaction.commit()
    refresh(c2)
    with c2.root()['b'].open() as f:
        assert f.read() == b'new'
    raises(POSKeyError, db2.storage.loadBlob, c.root()['b']._p_oid, p64(1))
    db.close()
    db2.close()


def cache_fill():
    """The first part: a client with a cache on the disk sees something, and goes."""
    s = storage(client='c', var=DIR)
    db = ZODB.DB(s)
    c = db.open()
    c.root()['kept'], c.root()['changed'] = mapping(n=1), mapping(n=1)
    transaction.commit()
    c.cacheMinimize()
    assert c.root()['kept']['n'] == c.root()['changed']['n'] == 1
    db.close()
    other = ZODB.DB(storage())
    c2 = other.open()
    refresh(c2)
    c2.root()['changed']['n'] = 2
    transaction.commit()
    other.close()


def cache_verify():
    """The second part: it comes back, to a server that was started anew."""
    s = storage(client='c', var=DIR)
    assert len(s._cache) > 0, 'the cache was dropped'
    db = ZODB.DB(s)
    c = db.open()
    assert c.root()['changed']['n'] == 2
    assert c.root()['kept']['n'] == 1
    loads = s.server_status()['loads']
    c.cacheMinimize()
    assert c.root()['kept']['n'] == 1
    assert s.server_status()['loads'] == loads
    db.close()


def read_only():
    """To a server that is read-only."""
    raises(ClientDisconnected, lambda: ClientStorage(('127.0.0.1', PORT), wait_timeout=1))
    s = storage(read_only_fallback=True)
    assert s.isReadOnly()
    t = TransactionMetaData()
    raises(ReadOnlyError, s.tpc_begin, t)
    raises(ReadOnlyError, s.new_oid)
    s.pack(time.time(), None, True)
    s.close()


def resolution():
    """With client-side conflict resolution."""
    import BTrees.Length
    db = ZODB.DB(storage())
    tm, tm2 = transaction.TransactionManager(), transaction.TransactionManager()
    one, two = db.open(tm), db.open(tm2)
    one.root()['n'] = BTrees.Length.Length(0)
    one.root()['m'] = BTrees.Length.Length(0)
    one.root()['p'] = mapping(n=1)
    tm.commit()
    tm2.begin()
    for name in ('n', 'm'):
        one.root()[name].change(1)
        two.root()[name].change(2)
    tm.commit()
    tm2.commit()
    tm.begin()
    assert one.root()['n']() == 3 and one.root()['m']() == 3
    tm2.begin()
    one.root()['p']['n'], two.root()['p']['n'] = 2, 3
    tm.commit()
    raises(ConflictError, tm2.commit)
    tm2.abort()
    one.root()['p']['n'] = 4
    tm.commit()
    db.close()


if __name__ == '__main__':
    globals()[sys.argv[1]]()
