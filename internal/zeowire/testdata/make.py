"""Golden messages of ZEO's own marshalling, and what it says of ours.

    python make.py > messages.jsonl
    python make.py decode

Needs ZEO, msgpack and ZopeUndo. Each line of messages.jsonl is an object with name,
encoding (Z or M), frame (the body: hex or, if it is long, zlib, in base64) and text,
the decoded message as text() below writes it, or if that is long its SHA-256. An
exception is shown as data. The second form reads
lines "ENCODING ROLE HEX" from its input, decodes each as ZEO does in that role (client
or server), and prints the text, or "error: " and the exception.
"""
import base64
import hashlib
import json
import struct
import sys
import zlib

from ZEO.asyncio.marshal import decoder
from ZEO.asyncio.marshal import encoder
from ZEO.asyncio.marshal import reduce_exception
from ZEO.asyncio.marshal import server_decoder
from ZODB import POSException as pe
from ZopeUndo.Prefix import Prefix

OID, OID2, Z64 = b'\0\0\0\0\0\0\0\1', b'\0\0\0\0\0\0\1\2', b'\0' * 8
TID, TID2 = b'\x03\xfb{\0\0\0\0\0', b'\x03\xfb{\1\0\0\0\xff'
MAXTID = b'\x7f' + b'\xff' * 7
DATA = b'\x80\x03cpersistent.mapping\nPersistentMapping\nq\1.' + bytes(range(256)) * 2
EXT = {'request_type': 'GET', 'n': 7, 'é': (1.5, None, True, [-1, {'a': b'b'}])}
TXN = 140234567890123


def text(v):
    if v is None or isinstance(v, (bool, int)):
        return repr(v)
    if isinstance(v, float):
        return 'float(%s)' % struct.pack('>d', v).hex()
    if isinstance(v, str):
        return 'str(%s)' % v.encode('utf-8', 'surrogatepass').hex()
    if isinstance(v, bytes):
        return 'bytes(%s)' % v.hex()
    if isinstance(v, tuple):
        return 'tuple(%s)' % ' '.join(map(text, v))
    if isinstance(v, list):
        return 'list(%s)' % ' '.join(map(text, v))
    if isinstance(v, dict):
        return 'dict(%s)' % ' '.join(text(k) + '=' + text(x) for k, x in v.items())
    if isinstance(v, Prefix):
        return 'prefix(%s)' % '/'.join(v.path).encode().hex()
    if isinstance(v, Exception):
        c = type(v)
        attrs = {k: x for k, x in v.__dict__.items() if k != 'args'}
        return 'exception(%s %s %s)' % (c.__module__ + '.' + c.__name__, text(v.args), text(attrs))
    raise TypeError(type(v))


def calls():
    def sync(name, *args):
        return name, 5, False, name, args

    def async_(name, *args):
        return name, 0, True, name, args

    yield sync('register', '1', False)
    yield sync('register', 'störage', True)
    for name in 'get_info', 'lastTransaction', 'server_status', 'ping', 'new_oids', 'new_oid':
        yield sync(name)
    yield sync('new_oids', 100)
    yield sync('getInvalidations', TID)
    yield async_('set_client_label', 'läbel')
    yield 'loadBefore', (OID, MAXTID), False, 'loadBefore', (OID, MAXTID)
    yield 'loadBefore of an old revision', (OID2, TID), False, 'loadBefore', (OID2, TID)
    yield sync('loadSerial', OID, TID)
    yield sync('getTid', OID)
    yield sync('pack', 1700000000.25, True)
    yield sync('history', OID, 20)
    yield sync('undoLog', 0, -20)
    yield sync('undoInfo', 0, -(1 << 40), None)
    yield sync('undoInfo', 0, 2 ** 63 - 1, {'user_name': b'joe'})
    yield sync('record_iternext', None)
    yield sync('record_iternext', OID)
    yield sync('sendBlob', OID, TID)
    yield sync('iterator_start', None, None)
    yield sync('iterator_start', TID, TID2)
    yield sync('iterator_next', 3)
    yield sync('iterator_record_start', 3, TID)
    yield sync('iterator_record_next', 300)
    yield async_('iterator_gc', [0, 1, 70000])
    yield async_('tpc_begin', TXN, b'user', b'', EXT, None, ' ')
    yield async_('tpc_begin', TXN, b'', b'd' * 65535, {}, TID, 'p')
    yield async_('storea', OID, Z64, DATA, TXN)
    yield async_('storea', OID, TID, b'x' * 70000, TXN)
    yield async_('restorea', OID, TID, None, None, TXN)
    yield async_('restorea', OID, TID2, DATA, TID, TXN)
    yield async_('checkCurrentSerialInTransaction', OID, TID, TXN)
    yield async_('deleteObject', OID, TID, TXN)
    yield async_('undoa', 'A/t7AAAAAAA=', TXN)
    yield async_('storeBlobStart')
    yield async_('storeBlobChunk', b'\xff' * 59000)
    yield async_('storeBlobEnd', OID, TID, DATA, TXN)
    yield async_('storeBlobShared', OID, TID, DATA, 'x.tmp', TXN)
    for name in 'vote', 'tpc_finish', 'tpc_abort':
        yield sync(name, TXN)
    yield 'keep-alive', -1, 0, '.reply', None
    # from the server
    yield async_('invalidateTransaction', TID, [])
    yield async_('invalidateTransaction', TID, [OID])
    yield async_('invalidateTransaction', TID, [OID, OID2, OID])
    yield async_('invalidateTransaction', TID, [struct.pack('>Q', i) for i in range(2001)])
    yield async_('info', {'length': 10, 'size': 1 << 40})
    yield async_('receiveBlobStart', OID, TID)
    yield async_('receiveBlobChunk', OID, TID, b'blob')
    yield async_('receiveBlobStop', OID, TID)


def replies():
    def reply(name, value, id=5):
        return 'reply of ' + name, id, 0, '.reply', value

    load = OID, MAXTID
    yield reply('register', Z64)
    yield reply('lastTransaction', TID)
    yield reply('ping', None)
    yield reply('get_info', {
        'length': 3, 'size': 4096, 'name': 'Data.fs', 'supportsUndo': True, 'supports_record_iternext': True,
        'interfaces': (('ZODB.interfaces', 'IStorageRestoreable'), ('ZODB.interfaces', 'IBlobStorage'))})
    yield reply('new_oids', [OID, OID2])
    yield reply('getInvalidations', (TID, [OID, OID2]))
    yield reply('getInvalidations, too old', None)
    yield reply('loadBefore', (DATA, TID, None), load)
    yield reply('loadBefore of an old revision', (b'', TID, TID2), load)
    yield reply('loadBefore before creation', None, load)
    yield reply('loadSerial', DATA)
    entry = {'time': 1700000000.125, 'user_name': b'u', 'description': b'd', 'size': 99}
    yield reply('history', [dict(entry, tid=TID, **EXT), dict(entry, tid=TID2)])
    yield reply('undoLog', [dict(entry, id=b'A/t7AAAAAAA=')])
    yield reply('undoLog, empty', [])
    yield reply('record_iternext', (OID, TID, DATA, None))
    yield reply('iterator_start', 0)
    yield reply('iterator_next', (TID, ' ', b'u', b'd', EXT))
    yield reply('iterator_record_next', (OID, TID, None, TID2))
    yield reply('vote', [OID])
    yield reply('vote with conflicts', [{'oid': OID, 'serials': (TID2, TID), 'data': DATA}])
    yield reply('tpc_finish', TID2)
    yield reply('server_status', {
        'connections': 1, 'loads': 65536, 'lock_time': None, 'start': 'Tue Nov 14 22:13:20 2023',
        'last-transaction': TID.hex(), 'timeout-thread-is-alive': 'stub', 'waiting': 0})
    yield reply('anything', (-1, -32, -33, -128, -129, -32769, -2 ** 31, -2 ** 31 - 1, -2 ** 63, 127, 128, 255, 256,
                             65535, 65536, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 63 - 1))
    yield reply('texts', ['', 'a' * 31, 'a' * 32, 'a' * 255, 'a' * 256, 'a' * 65536, '\0\n"\U0001f600'])
    yield reply('bytes', [b'', b'a' * 255, b'a' * 256, b'a' * 65536])
    yield reply('tuples', [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), (0,) * 15, (0,) * 16, (0,) * 65536])
    yield reply('dicts', [{}, {'a': 1}, {str(i): i for i in range(16)}, {str(i): i for i in range(1001)}])
    yield reply('floats', [0.0, -0.0, float('inf'), 5e-324, 1e300])
    for other in [True, 2 ** 40, (OID, TID, 1), 'id', ()]:
        yield reply('another id', 1, other)


def errors():
    reason = 'Data were modified by a later transaction'
    undo = pe.UndoError(reason, OID)
    btrees = pe.BTreesConflictError(-1, 2, 3, 10)
    conflict = pe.ConflictError(oid=OID, serials=(TID2, TID))
    named = pe.ConflictError(oid=OID, serials=(TID2, TID))
    named.class_name = 'BTrees.OOBTree.OOBTree'
    for e in (pe.ReadOnlyError(), pe.POSKeyError(OID), pe.POSKeyError('No blob file', OID, TID),
              pe.StorageTransactionError(None, TXN), pe.StorageTransactionError(1, TXN), KeyError(7),
              ValueError('unknown storage: nö'), TypeError('missing'), AttributeError('new_oid'),
              AssertionError(), Exception(), conflict, named, btrees, undo, pe.UndoError('pack in progress'),
              pe.ReadConflictError(oid=OID, serials=(TID2, TID)),
              pe.MultipleUndoErrors([(OID, undo), (OID2, pe.UndoError('other', OID2))]),
              pe.DanglingReferenceError(OID, OID2), pe.StorageError('disk full')):
        yield type(e).__name__, 5, 2, '.reply', reduce_exception(e)


def make():
    noted = ValueError('x', 1)
    noted.note = [b'y']
    # Requests and replies, and exceptions within values, that only pickle can have
    pickles = [
        ('undoInfo with a prefix', 5, False, 'undoInfo', (0, -20, {'user_name': Prefix('/a/b')})),
        ('an exception within', 5, 0, '.reply', [noted, KeyError('k'), pe.UndoError('r')]),
        ('a lone surrogate', 5, 0, '.reply', 'a\udcffb'),
    ]
    for encoding in 'Z', 'M':
        encode = encoder((encoding + '5').encode(), True)
        for name, *message in [*calls(), *replies(), *errors()] + (pickles if encoding == 'Z' else []):
            frame = encode(*message)
            shown = text(tuple(message) if encoding == 'Z' else decoder(b'M5')(frame))
            short = {'name': name, 'encoding': encoding, 'frame': frame.hex(), 'text': shown}
            if len(frame) > 1000:
                short['frame'] = base64.b64encode(zlib.compress(frame, 9)).decode()
            if len(shown) > 3000:
                short['text'] = 'sha256:' + hashlib.sha256(shown.encode()).hexdigest()
            print(json.dumps(short))


def decode():
    for line in sys.stdin:
        encoding, role, frame = line.split()
        try:
            d = {'client': decoder, 'server': server_decoder}[role]((encoding + '5').encode())
            print(text(d(bytes.fromhex(frame))))
        except Exception as e:
            print('error:', type(e).__name__, str(e).replace('\n', ' '))


if __name__ == '__main__':
    decode() if sys.argv[1:] == ['decode'] else make()
