"""Makes logs for the tests of iteration, and iterates with ZEO's own client.

iterate.py make FILE TRANSACTIONS RECORDS writes a FileStorage.
iterate.py walk ADDRESS prints how many transactions and records a server has, and
how many seconds it took to see them all.
"""
import sys
import time

from ZEO.ClientStorage import ClientStorage
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import p64


def make(path, transactions, records):
    storage = FileStorage(path)
    serials = {}
    for n in range(transactions):
        txn = TransactionMetaData()
        storage.tpc_begin(txn)
        for i in range(records):
            oid = p64(n % 100 * records + i)
            storage.store(oid, serials.get(oid, p64(0)), b'%8d/%8d' % (n, i) * 10, '', txn)
        storage.tpc_vote(txn)
        tid = storage.tpc_finish(txn)
        for i in range(records):
            serials[p64(n % 100 * records + i)] = tid
    storage.close()


def walk(address):
    storage = ClientStorage(address, wait_timeout=30)
    began = time.perf_counter()
    transactions = records = 0
    for txn in storage.iterator():
        transactions += 1
        for _ in txn:
            records += 1
    print(transactions, records, time.perf_counter() - began)
    storage.close()


if sys.argv[1] == 'make':
    make(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
else:
    walk(sys.argv[2])
