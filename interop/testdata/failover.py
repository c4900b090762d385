"""Applications that count together while their servers are killed, and who checks them.

  failover.py setup ADDRESS NAMES          makes the objects; NAMES are separated by commas
  failover.py client ADDRESS NAME DIR ACKS SEED SYNC SECONDS
                                           commits until it is told to stop, with SECONDS between
                                           two transactions
  failover.py dump ADDRESS FILE            writes what the server says of all objects
  failover.py files RESULT DIRECTORY ...   compares the members' files

A client increments a counter in a BTree and enters that in a ledger of its own, with the
number of its commit as the key. After a commit that failed it looks for its entry before
it tries again. With every transaction it checks what it reads:

- the sum of all counters is the number of all entries: a transaction is seen whole;
- no number of entries goes back;
- its own entries are those that were acknowledged, no more and no less;
- with SYNC 1 it sees what others had acknowledged before it began, which they tell in
  the file ACKS.
"""
import collections
import hashlib
import json
import logging
import mmap
import os
import queue
import random
import struct
import sys
import tempfile
import threading
import time

import transaction
import ZODB
import ZODB.blob
import ZODB.scripts.fstest
from BTrees.LLBTree import LLBTree
from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping
from ZEO.ClientStorage import ClientStorage
from ZODB.blob import is_blob_record
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError
from ZODB.serialize import referencesf
from ZODB.utils import maxtid, p64, u64, z64

COUNTERS = 400
BLOB_EVERY = 7


def address(text):
    host, _, port = text.rpartition(":")
    return host, int(port)


def blob_text(name, seq):
    return b"blob %d of %s, " % (seq, name.encode()) * 50


def say(**message):
    print(json.dumps(message), flush=True)


def setup(where, names):
    with tempfile.TemporaryDirectory() as blobs:
        db = ZODB.DB(ClientStorage(address(where), wait_timeout=30, blob_dir=blobs))
        connection = db.open()
        root = connection.root()
        root["counters"] = LLBTree({i: 0 for i in range(COUNTERS)})
        root["entries"] = PersistentMapping()
        for name in names.split(","):
            root["entries"][name] = PersistentMapping(number=0, keys=LLBTree(), blobs=OOBTree())
        transaction.commit()
        connection.close()
        db.close()


class Pause:
    """A data manager that votes after the storage, and stays there until it may go on."""

    def __init__(self, manager, orders, wanted):
        self.transaction_manager, self.orders, self.wanted = manager, orders, wanted

    def sortKey(self):
        return "~"

    def tpc_vote(self, txn):
        self.wanted.clear()  # not earlier: the storage's vote may find a conflict
        say(voted=True)
        self.orders.get(timeout=60)

    def abort(self, txn):
        pass

    tpc_begin = commit = tpc_finish = tpc_abort = abort


class Client:
    def __init__(self, where, name, directory, acks, seed, sync):
        self.name, self.sync = name, sync == "1"
        self.random = random.Random(seed)
        self.acks = mmap.mmap(os.open(acks, os.O_RDWR), 0)
        self.orders, self.stopped, self.pause = queue.Queue(), threading.Event(), threading.Event()
        self.ended = False
        self.acked, self.unknown, self.keys, self.seen, self.wrong = 0, False, [], {}, []
        self.conflicts, self.found, self.failures = 0, 0, collections.Counter()
        self.last, self.standstill = time.monotonic(), 0.0
        # wait_timeout is for the connection alone.
        self.storage = ClientStorage(
            address(where), client=name, var=directory, wait_timeout=60, client_label=name,
            blob_dir=os.path.join(directory, name + "-blobs"), server_sync=self.sync)
        self.db = ZODB.DB(self.storage)
        self.manager = transaction.TransactionManager()
        self.connection = self.db.open(self.manager)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in sys.stdin:
            order = line.split()
            if order[0] == "stop":
                self.stopped.set()
            elif order[0] == "pause":
                self.pause.set()
            else:
                self.orders.put(order)
        if not self.ended:
            os._exit(1)  # the test has died

    def ack(self, name, value=None):
        offset = 8 * self.names.index(name)
        if value is None:
            return struct.unpack_from("<q", self.acks, offset)[0]
        struct.pack_into("<q", self.acks, offset, value)

    def resume(self):
        """Begin with what the database says: this is not the first process of that name."""
        self.manager.begin()
        entries = self.connection.root()["entries"]
        self.names = sorted(entries)
        self.keys = list(entries[self.name]["keys"].values())
        self.acked = len(self.keys)
        if self.acked < self.ack(self.name):
            self.wrong.append("%d entries, %d were acknowledged" % (self.acked, self.ack(self.name)))
        self.manager.abort()

    def run(self, seconds):
        while not self.stopped.is_set() and len(self.wrong) < 20:
            committing = False
            self.stopped.wait(seconds)
            try:
                acknowledged = {n: self.ack(n) for n in self.names}
                self.manager.begin()
                root = self.connection.root()
                self.look(root, acknowledged)
                if self.unknown and root["entries"][self.name]["number"] > self.acked:
                    self.found += 1
                    self.acknowledge(root["entries"][self.name]["keys"][self.acked])
                    continue
                self.unknown = False
                key = self.change(root)
                committing = True
                self.manager.commit()
                self.acknowledge(key)
            except ConflictError:
                self.conflicts += 1
                self.manager.abort()
            except Exception as error:
                self.unknown = self.unknown or committing
                self.failures["%s: %s" % (type(error).__name__, str(error)[:200])] += 1
                self.recover()
        self.manager.abort()

    def recover(self):
        try:
            self.manager.abort()
            self.storage.getTid(z64)  # waits for the connection
        except Exception as error:
            self.failures["afterwards, %s: %s" % (type(error).__name__, str(error)[:200])] += 1

    def look(self, root, acknowledged):
        numbers = {n: e["number"] for n, e in root["entries"].items()}
        total = sum(root["counters"].values())
        if total != sum(numbers.values()):
            self.wrong.append("counters are %d, entries %r" % (total, numbers))
        if numbers[self.name] - self.acked not in ((0, 1) if self.unknown else (0,)):
            self.wrong.append("%d entries of mine, not %d" % (numbers[self.name], self.acked))
        for n, number in numbers.items():
            if number < self.seen.get(n, 0):
                self.wrong.append("%s went back from %d to %d" % (n, self.seen[n], number))
            if self.sync and number < acknowledged[n]:
                self.wrong.append("%s is %d, %d was acknowledged" % (n, number, acknowledged[n]))
        self.seen = numbers
        if self.random.random() < 0.1:
            self.connection.cacheMinimize()

    def change(self, root):
        mine, seq, key = root["entries"][self.name], self.acked, self.random.randrange(COUNTERS)
        root["counters"][key] += 1
        mine["number"] = seq + 1
        mine["keys"][seq] = key
        if seq % BLOB_EVERY == 0:
            mine["blobs"][seq] = ZODB.blob.Blob(blob_text(self.name, seq))
        self.manager.get().note("%s %d" % (self.name, seq))
        if self.pause.is_set():
            self.manager.get().join(Pause(self.manager, self.orders, self.pause))
        return key

    def acknowledge(self, key):
        self.acked += 1
        self.unknown = False
        self.keys.append(key)
        self.ack(self.name, self.acked)
        now = time.monotonic()
        self.standstill, self.last = max(self.standstill, now - self.last), now
        say(commit=self.acked)

    def compare(self, path):
        """Compare what is cached here with what the server told somebody without a cache."""
        self.storage.getTid(z64)  # a round trip: what was committed before is known now
        self.manager.begin()
        cached = 0
        for oid, (tid, digest) in json.load(open(path)).items():
            oid, tid = p64(int(oid)), bytes.fromhex(tid)
            in_cache = self.storage._cache.load(oid)
            cached += in_cache is not None
            for where, found in ("cache", in_cache), ("storage", self.storage.loadBefore(oid, maxtid)[:2]):
                if found and (found[1] != tid or hashlib.sha256(found[0]).hexdigest() != digest):
                    self.wrong.append("%s of object %d: serial %s, not %s" % (where, u64(oid), found[1].hex(), tid.hex()))
            loaded = self.connection.get(oid)
            loaded._p_activate()
            if loaded._p_serial != tid:
                self.wrong.append("object %d: serial %s, not %s" % (u64(oid), loaded._p_serial.hex(), tid.hex()))
        for name, entry in self.connection.root()["entries"].items():
            for seq, blob in entry["blobs"].items():
                with blob.open() as file:
                    if file.read() != blob_text(name, seq):
                        self.wrong.append("blob %d of %s" % (seq, name))
        self.manager.abort()
        say(compared=cached)

    def account(self, log):
        bad = [line for line in open(log) if any(
            word in line for word in ("Server behind", "AssertionError", "out of sync"))]
        verified = [line.split("verified ")[1].strip() for line in open(log) if "verified " in line]
        say(account=dict(
            name=self.name, acked=self.acked, keys=self.keys, conflicts=self.conflicts, found=self.found,
            failures=self.failures, wrong=self.wrong, standstill=self.standstill, bad=bad, verified=verified,
            dropped=sum("dropping stale cache" in line for line in open(log))))


def client(where, name, directory, acks, seed, sync, seconds):
    log = os.path.join(directory, name + ".log")
    logging.basicConfig(filename=log, level=logging.INFO)
    c = Client(where, name, directory, acks, seed, sync)
    logging.info("verified %s", c.storage._server.client.verify_result)
    c.resume()
    c.run(float(seconds))
    c.account(log)
    for order in iter(c.orders.get, ["end"]):
        if order[0] == "compare":
            c.compare(order[1])
            c.account(log)
    c.ended = True
    c.connection.close()
    c.db.close()


def dump(where, path):
    """Write what the server says; none of these calls looks into a cache."""
    storage, result, oid = ClientStorage(address(where), wait_timeout=30), {}, None
    while True:
        oid, tid, data, following = storage.record_iternext(oid)
        loaded = storage._call("loadBefore", oid, maxtid)
        assert loaded == (data, tid, None), oid.hex()
        result[u64(oid)] = tid.hex(), hashlib.sha256(data).hexdigest()
        if following is None:
            break
        oid = following
    json.dump(result, open(path, "w"))
    storage.close()


def log_of(storage):
    for txn in storage.iterator():
        records = []
        for record in txn:
            blob = None
            if record.data is not None and is_blob_record(record.data):
                with open(storage.loadBlob(record.oid, record.tid), "rb") as file:
                    blob = file.read()
            records.append((record.oid, record.tid, record.data, blob))
        yield txn.tid, txn.user, txn.description, txn.extension, sorted(records)


def check_database(accounts, directory):
    """Compare a database with what the clients know, and load all that can be reached."""
    counts = collections.Counter(key for a in accounts for key in a["keys"])
    path = os.path.join(directory, "Data.fs")
    ZODB.scripts.fstest.check(path)
    storage = FileStorage(path, read_only=True, blob_dir=os.path.join(directory, "blobs"))
    db = ZODB.DB(storage)
    root = db.open(transaction_manager=None).root()
    assert {k: v for k, v in root["counters"].items() if v} == dict(counts), directory
    for a in accounts:
        entry = root["entries"][a["name"]]
        assert list(entry["keys"].items()) == list(enumerate(a["keys"])), (directory, a["name"])
        assert list(entry["blobs"]) == list(range(0, a["acked"], BLOB_EVERY)), (directory, a["name"])
        for seq, blob in entry["blobs"].items():
            with blob.open() as file:
                assert file.read() == blob_text(a["name"], seq), (directory, a["name"], seq)
    reached, left = {z64}, [z64]
    while left:
        for oid in set(referencesf(storage.load(left.pop())[0])) - reached:
            reached.add(oid)
            left.append(oid)
    db.close()
    return len(reached)


def files(result, *directories):
    accounts, logs = json.load(open(result)), []
    for directory in directories:
        check_database(accounts, directory)
        path = os.path.join(directory, "Data.fs")
        storage = FileStorage(path, read_only=True, blob_dir=os.path.join(directory, "blobs"))
        logs.append(list(log_of(storage)))
        storage.close()
    for directory, log in zip(directories, logs):
        assert len(log) == len(logs[0]), "%s has %d transactions, not %d" % (directory, len(log), len(logs[0]))
        for a, b in zip(log, logs[0]):
            assert a == b, "%s differs in transaction %s" % (directory, a[0].hex())
    print("%d transactions in each of %d databases" % (len(logs[0]), len(logs)))


if __name__ == "__main__":
    {"setup": setup, "client": client, "dump": dump, "files": files}[sys.argv[1]](*sys.argv[2:])
