"""Compares databases after the demonstration, with ZODB's own code.

usage: compare.py RESULT DATABASE_DIRECTORY ...

RESULT is what the application printed. Each directory holds a Data.fs and its blobs. All
must hold the same transactions, with the same records and blobs, and each must have what
the application counted.
"""
import json
import os
import sys

import ZODB
import ZODB.scripts.fstest
from ZODB.blob import is_blob_record
from ZODB.FileStorage import FileStorage


def transactions(storage):
    for txn in storage.iterator():
        records = []
        for record in txn:
            blob = None
            if record.data is not None and is_blob_record(record.data):
                with open(storage.loadBlob(record.oid, record.tid), "rb") as file:
                    blob = file.read()
            records.append((record.oid, record.tid, record.data, blob))
        yield (txn.tid, txn.user, txn.description, txn.extension, sorted(records))


def main(result, *directories):
    result = json.load(open(result))
    logs = []
    for directory in directories:
        path = os.path.join(directory, "Data.fs")
        ZODB.scripts.fstest.check(path)
        storage = FileStorage(path, read_only=True, blob_dir=os.path.join(directory, "blobs"))
        logs.append(list(transactions(storage)))
        db = ZODB.DB(storage)
        root = db.open(transaction_manager=None).root()
        counts = [root["counters"][i] for i in range(len(result["counts"]))]
        assert counts == result["counts"], "%s: %r, want %r" % (directory, counts, result["counts"])
        assert sorted(root["blobs"]) == sorted(result["blobs"]), directory
        for name, text in result["blobs"].items():
            with root["blobs"][name].open() as file:
                assert file.read().decode() == text, (directory, name)
        db.close()
    for directory, log in zip(directories, logs):
        assert len(log) == len(logs[0]), "%s has %d transactions, not %d" % (directory, len(log), len(logs[0]))
        for a, b in zip(log, logs[0]):
            assert a == b, "%s differs in transaction %s" % (directory, a[0].hex())
    print("%d transactions in each of %d databases, %d commits, %d blobs"
          % (len(logs[0]), len(logs), result["commits"], len(result["blobs"])))


if __name__ == "__main__":
    main(*sys.argv[1:])
