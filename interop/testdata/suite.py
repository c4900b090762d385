"""Runs the tests that ZODB and ZEO bring along, against a server of the caller's choice.

ZEO's tests start all their servers through one function. Here that function asks a
control socket for a server instead: the Go test behind it serves whatever storage it
wants to have tested. The tests themselves are the installed ones, unchanged.

  suite.py --control PORT   servers from 127.0.0.1:PORT
  suite.py --control python ZEO's own server, to know what the tests do there

Every test case gives one line of JSON: name, result (ok, fail, error, skip), seconds, text.
The result of a case that asked for no server is "elsewhere": it says nothing of ours.
"""
import argparse
import faulthandler
import glob
import json
import logging
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import types
import unittest

import ZEO._forker
import ZEO.runzeo
import ZEO.tests.ConnectionTests
import ZEO.tests.forker
import ZEO.tests.testConnection
import ZEO.tests.testZEO
import ZEO.tests.ThreadTests
import ZODB.tests.racetest
import zope.testing.wait
from ZODB.tests import HistoryStorage, IteratorStorage, PersistentStorage

BLOBSTORAGE = """
<blobstorage 1>
  blob-dir blobs
  <filestorage 2>
    path Data.fs
  </filestorage>
</blobstorage>
"""


class MoreStorageTests(
        ZEO.tests.testZEO.GenericTestBase,
        HistoryStorage.HistoryStorage,
        IteratorStorage.ExtendedIteratorStorage,
        PersistentStorage.PersistentStorage):
    """ZODB's generic tests that ZEO leaves out of its suite."""

    def getConfig(self):
        return BLOBSTORAGE

    def open(self, read_only=False):
        address = self._storage._addr
        self._storage.close()
        self._storage = ZEO.tests.testZEO.ClientStorage(address, read_only=read_only, wait=1)


class RaceTests(ZEO.tests.testZEO.BlobAdaptedFileStorageTests):
    """ZODB's race tests, with loads that are delayed on the server after they were answered
    by the storage; the invalidations are not."""

    def getConfig(self):
        return "%import ZEO.tests\n<loaddelayed_storage>" + BLOBSTORAGE + "</loaddelayed_storage>\n"


# The server.

def section_facts(factory):
    """The facts of a storage section that matter here."""
    kind, conf = type(factory).__name__, factory.config
    if kind == "MappingStorage":
        return {"type": "mapping"}
    if kind == "FileStorage":
        facts = {"type": "file", "path": os.path.abspath(conf.path)}
        for name in ("read_only", "create"):
            facts[name] = bool(getattr(conf, name, False))
        facts["gc"] = getattr(conf, "pack_gc", True) is not False
        blobs = getattr(conf, "blob_dir", None)
        facts["blob_dir"] = os.path.abspath(blobs) if blobs else ""
        return facts
    if kind == "BlobStorage":
        return dict(section_facts(conf.base), blob_dir=os.path.abspath(conf.blob_dir))
    if kind == "ZConfigLoadDelayed":
        return dict(section_facts(conf.base), delayed=True)
    if kind == "ZEOClient":
        return {"type": "zeoclient", "storage": conf.storage,
                "servers": ["%s:%d" % s.address if isinstance(s.address, tuple) else s.address
                            for s in conf.server]}
    raise unittest.SkipTest("a server's storage of another kind: " + kind)


def server_facts(text):
    """Parses a server's configuration with ZEO's own schema."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(text)
        file.flush()
        options = ZEO.runzeo.ZEOOptions()
        options.realize(["-C", file.name])
    address = options.address
    facts = {
        "address": os.path.abspath(address) if isinstance(address, str) else
        "%s:%d" % (("[%s]" % address[0] if ":" in (address[0] or "") else address[0] or "127.0.0.1"), address[1] or 0),
        "unix": isinstance(address, str),
        "read_only": bool(options.read_only),
        "client_conflict_resolution": bool(options.client_conflict_resolution),
        "msgpack": bool(options.msgpack),
        "invalidation_queue_size": int(options.invalidation_queue_size or 0),
        "invalidation_age": float(options.invalidation_age or 0),
        "transaction_timeout": float(options.transaction_timeout or 0),
        "storages": {s.name or "1": section_facts(s) for s in options.storages},
    }
    if options.ssl is not None:
        facts["tls"] = dict(re.findall(r"^\s*(certificate|key|authenticate)\s+(\S+)", text, re.M))
    return facts


class Asked:
    """Counts the servers that were asked for."""
    servers = 0


def ask(control, **request):
    Asked.servers += request["op"] == "start"
    with socket.create_connection(("127.0.0.1", control), timeout=40) as s:
        s.sendall(json.dumps(request).encode() + b"\n")
        with s.makefile("rb") as answers:
            line = answers.readline()
    if not line:
        raise RuntimeError("the control socket was closed")
    answer = json.loads(line)
    if answer.get("error"):
        raise RuntimeError(answer["error"])
    return answer


def remove_files(facts):
    if facts.get("path"):
        for name in glob.glob(glob.escape(facts["path"]) + "*"):
            (shutil.rmtree if os.path.isdir(name) else os.remove)(name)


def remove_storage(facts):
    remove_files(facts)
    if facts.get("blob_dir"):
        for name in (facts["blob_dir"], facts["blob_dir"] + "-b"):
            shutil.rmtree(name, ignore_errors=True)


def starter(control):
    """Returns the replacement for the function that starts ZEO's servers."""

    def start_zeo_server(storage_conf=None, zeo_conf=None, port=None, keep=False,
                         path="Data.fs", protocol=None, blob_dir=None, suicide=True,
                         debug=False, threaded=False, start_timeout=33, name=None,
                         log=None, show_config=False):
        if protocol not in (None, b"5", b"Z5"):
            raise unittest.SkipTest("another protocol than 5")
        storage_conf = storage_conf or "<filestorage>\npath %s\n</filestorage>" % path
        if blob_dir:
            storage_conf = "<blobstorage>\nblob-dir %s\n%s\n</blobstorage>" % (blob_dir, storage_conf)
        if zeo_conf is None or isinstance(zeo_conf, dict):
            options, zeo_conf = zeo_conf, ZEO._forker.ZEOConfig(
                ("127.0.0.1", port or 0) if isinstance(port or 0, int) else port, log=log)
            zeo_conf.__dict__.update(options or {})
        facts = server_facts("%s\n\n%s" % (zeo_conf, storage_conf))
        for storage in facts["storages"].values():
            if storage.get("create"):
                remove_storage(storage)
        answer = ask(control, op="start", server=facts)
        address = answer["address"]
        if not facts["unix"]:
            host, _, number = address.rpartition(":")
            address = host.strip("[]"), int(number)

        def stop(stop_timeout=None):
            ask(control, op="stop", id=answer["id"])
            if not keep:
                for storage in facts["storages"].values():
                    remove_files(storage)  # as FileStorage.cleanup does: blobs stay

        return address, stop

    return start_zeo_server


# A second or two are little for a wait on a machine that does something else too. What
# the tests wait for is the same; how quick the server is they do not measure.

PATIENCE = 30  # seconds


class PatientEvent(threading.Event):
    def wait(self, timeout=None):
        return super().wait(timeout and max(timeout, PATIENCE))


def wait_longer():
    cases = ZEO.tests.testZEO.GenericTests
    reconnecting = ZEO.tests.ConnectionTests.CommonSetupTearDown
    join, wait_for = threading.Thread.join, zope.testing.wait.wait
    poll_up, store_in_thread = reconnecting.pollUp, cases._do_store_in_separate_thread

    def store_in_thread_and_look(self, *args):
        """As the original. Once the thread has been waited for in the test, the client has
        also received its invalidation: the test looks into the client's cache, and nothing
        says that another client learns of a transaction before its own has the answer."""
        thread = store_in_thread(self, *args)
        inner = thread.join

        def join_and_look(timeout=None):
            inner(timeout)
            other = self._new_storage_client()
            last = other.lastTransaction()
            other.close()
            ZEO.tests.forker.wait_until(
                "the invalidation", lambda: self._storage.lastTransaction() >= last)

        thread.join = join_and_look
        return thread

    def patient_join(self, timeout=None):
        # Less than a second is meant to end before the thread does. A race test joins its
        # threads after it has waited for them for long.
        if timeout is not None and timeout >= 1 and not isinstance(self, ZODB.tests.racetest.Daemon):
            timeout = max(timeout, PATIENCE)
        join(self, timeout)

    ZEO.tests.forker.wait_until.__defaults__ = None, None, PATIENCE, None
    zope.testing.wait.wait = lambda func, seconds: wait_for(func, max(seconds, PATIENCE))
    threading.Thread.join = patient_join
    reconnecting.pollUp = lambda self, timeout=PATIENCE, storage=None: poll_up(
        self, max(timeout, PATIENCE), storage)
    # Not for all: elsewhere events are clocks.
    ZEO.tests.ThreadTests.threading = types.SimpleNamespace(
        Thread=threading.Thread, Event=PatientEvent)
    cases._do_store_in_separate_thread = store_in_thread_and_look
    cases.exception = None  # it is read even if the thread did not come to set it


# The tests.

def test_cases():
    """Yields all test cases with their level (1: ordinary) and layer."""

    def walk(suite, layer):
        layer = getattr(suite, "layer", layer)
        if isinstance(suite, unittest.TestSuite):
            for inner in suite:
                yield from walk(inner, layer)
        else:
            method = getattr(suite, getattr(suite, "_testMethodName", ""), None)
            level = max(getattr(suite, "level", 1), getattr(method, "level", 1))
            yield suite, level, layer

    yield from walk(ZEO.tests.testZEO.test_suite(), None)
    yield from walk(ZEO.tests.testConnection.test_suite(), None)
    for module in ("ZEO.tests.test_client_side_conflict_resolution", "ZEO.tests.test_sync"):
        yield from walk(unittest.defaultTestLoader.loadTestsFromName(module), None)
    for case in MoreStorageTests, RaceTests:
        for prefix in "check", "test":
            loader = unittest.TestLoader()
            loader.testMethodPrefix = prefix
            yield from walk(loader.loadTestsFromTestCase(case), None)


class Result(unittest.TestResult):
    outcome, text = "ok", ""

    def worse(self, outcome, text):
        if self.outcome in ("ok", "skip"):
            self.outcome, self.text = outcome, text

    def addError(self, test, err):
        super().addError(test, err)
        self.worse("error", self.errors[-1][1])

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.worse("fail", self.failures[-1][1])

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.worse("skip", reason)


class Record(logging.LogRecord):
    """A log record that has its message from the start. Otherwise it has one only once a
    handler formatted it, and ZEO's client-config.test reads it of each error that is logged
    while it closes a client, as happens if the server answers just then."""

    def __getattr__(self, name):
        if name != "message":
            raise AttributeError(name)
        return self.getMessage()


class TookTooLong(BaseException):
    pass


def run_case(case, layer, seconds):
    """Runs one case in a folder of its own, for a bounded time."""
    home, result = os.getcwd(), Result()

    def too_long(*_):
        sys.stderr.write("took too long: %s\n" % case.id())
        faulthandler.dump_traceback(all_threads=True)
        raise TookTooLong("more than %d s" % seconds)

    signal.signal(signal.SIGALRM, too_long)
    with tempfile.TemporaryDirectory(prefix="case", ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        try:
            signal.alarm(seconds)
            if hasattr(layer, "setUp"):
                layer.setUp()
            try:
                case.run(result)
            finally:
                if hasattr(layer, "tearDown"):
                    layer.tearDown()
        except TookTooLong:
            result.worse("error", traceback.format_exc())
        finally:
            signal.alarm(0)
            os.chdir(home)
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--control", required=True)
    parser.add_argument("--match", default="", help="only the cases whose name has this (regular expression)")
    parser.add_argument("--leave-out", default="", help="not the cases whose name has this")
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--shard", default="0/1", help="I/N: the I-th of N parts, from 0")
    parser.add_argument("--seconds", type=int, default=60, help="bound of each case")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    shard, shards = map(int, args.shard.split("/"))
    logging.getLogger().addHandler(logging.NullHandler())
    logging.setLogRecordFactory(Record)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the tests print is no result
    if args.control != "python":
        wait_longer()
        start = starter(int(args.control))
        ZEO._forker.start_zeo_server = ZEO.tests.forker.start_zeo_server = start
    chosen = {}
    for case, level, layer in test_cases():
        name = case.id().replace(os.path.dirname(ZEO.tests.testZEO.__file__), "")
        name = re.sub(r"^ZEO\.tests\.|^__main__\.", "", name)
        if name.startswith("RaceTests.") and "_race_" not in name:
            continue
        again, number = name, 1
        while again in chosen:  # doctest files that are run for several kinds of clients
            number += 1
            again = "%s#%d" % (name, number)
        chosen[again] = case, layer, level
    chosen = {name: (case, layer) for name, (case, layer, level) in chosen.items()
              if level <= args.level and re.search(args.match, name)
              and not (args.leave_out and re.search(args.leave_out, name))}
    for number, (name, (case, layer)) in enumerate(sorted(chosen.items())):
        if number % shards != shard:
            continue
        line = {"name": name}
        if not args.list:
            began, asked = time.monotonic(), Asked.servers
            result = run_case(case, layer, args.seconds)
            outcome = result.outcome
            if args.control != "python" and Asked.servers == asked:
                outcome = "elsewhere"
            line.update(result=outcome, seconds=round(time.monotonic() - began, 2),
                        text=result.text)
        print(json.dumps(line), file=out, flush=True)
    out.flush()
    os._exit(0)  # ZEO's client threads may be left by a case that failed


if __name__ == "__main__":
    main()
