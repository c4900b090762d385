"""Write records.txt: ZODB records and what ZODB says about them.

    python make.py > records.txt

Needs ZODB and persistent. Each line has, separated by tabs: a name, the oids that
ZODB.serialize.referencesf returns (16 hex digits each, separated by commas), the
class as "module name", whether ZODB.blob.is_blob_record says yes, and the record in
hex. zodbpickle knows no protocols above 3, so there Python's own unpickler collects
the persistent ids; what counts as a reference is referencesf's rule all the same,
and a blob is what has the class.
"""

import io
import pickle

import transaction
import zodbpickle.pickle
from BTrees.OOBTree import OOBTree
from persistent import Persistent
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping
from persistent.wref import WeakRef
from zodbpickle import binary

from ZODB import DB
from ZODB.blob import Blob
from ZODB.blob import is_blob_record
from ZODB.MappingStorage import MappingStorage
from ZODB.serialize import referencesf
from ZODB.utils import p64


class Ref:
    """Stands for an object that is pickled as the persistent id pid."""

    def __init__(self, pid):
        self.pid = pid


class NewArgs(Persistent):
    """A class whose instances are referred to without their class."""

    def __getnewargs__(self):
        return ()


def pid_of(obj):
    return obj.pid if isinstance(obj, Ref) else None


def dump(protocol, *objects):
    """Pickle objects one after the other with one memo, as ZODB does."""
    out = io.BytesIO()
    library = zodbpickle.pickle if protocol <= 3 else pickle
    pickler = library.Pickler(out, protocol)
    pickler.persistent_id = pid_of
    for obj in objects:
        pickler.dump(obj)
    return out.getvalue()


class Collector(pickle.Unpickler):
    def __init__(self, file):
        super().__init__(file)
        self.pids = []

    def persistent_load(self, pid):
        self.pids.append(pid)


def references(protocol, record):
    if protocol <= 3:
        return referencesf(record)
    collector = Collector(io.BytesIO(record))
    collector.load()
    collector.load()
    oids = []
    for pid in collector.pids:
        if isinstance(pid, list):
            continue
        oid = pid[0] if isinstance(pid, tuple) else pid
        oids.append(oid if isinstance(oid, bytes) else oid.encode("ascii"))
    return oids


def emit(name, record, oids, klass, blob=None):
    shown = ",".join(bytes(oid).hex() for oid in oids)
    if blob is None:
        blob = is_blob_record(record)
    print("\t".join((name, shown, klass, "blob" if blob else "plain", record.hex())))


def forms(protocol):
    """All forms of persistent ids, in a state with cycles and shared parts."""
    number = 0

    def oid(high=False):
        nonlocal number
        number += 1
        value = p64(number + (0xF1F2F3F4F5F6F700 if high else 0))
        # Python's own pickler does not know zodbpickle's binary.
        return binary(value) if protocol == 3 else value

    if protocol == 0:  # only a string can be the line after PERSID
        refs = [Ref("AAAABBBB"), Ref("zyxwvuts")]
    elif protocol < 3:  # bytes become a call there, which noload does not make
        refs = [Ref((oid().decode("latin1"), PersistentMapping)),
                Ref(oid().decode("latin1"))]
    else:
        refs = [Ref((oid(), PersistentMapping)), Ref(oid(True)),
                Ref((oid(True), PersistentList))]
    weak = [] if protocol == 0 else [
        Ref(["w", (oid(),)]), Ref(["w", (oid(), "other")]),
        Ref(["m", ("other", oid(), PersistentMapping)]),
        Ref(["n", ("other", oid(True))]), Ref([oid()])]
    shared = ("a shared tuple", 1, 2.5, -3, 10 ** 40, None, True)
    state = {"refs": refs, "weak": weak, "shared": [shared, shared],
             "long": list(range(1100)), "deep": [[[[()]]], {}],
             "set": {1}, "frozen": frozenset([2]), "complex": 1j,
             "text": "\u00fc\u20ac\U0001F600\\\n", "bytes": b"\x00\xff" * 150,
             "refs again": {"x": refs[0]}, "class": PersistentMapping}
    cycle = [state]
    cycle.append(cycle)
    state["cycle"] = cycle
    state["tuple cycle"] = (cycle, refs[1])
    return state


def synthetic():
    for protocol in range(6):
        for kind, meta, klass in (
                ("class", PersistentMapping, "persistent.mapping PersistentMapping"),
                ("with arguments", (PersistentMapping, (1,)), "persistent.mapping PersistentMapping"),
                ("by name", (("a.module", "AClass"), None), "a.module AClass"),
                ("blob", Blob, "ZODB.blob Blob")):
            record = dump(protocol, meta, forms(protocol))
            emit(f"protocol {protocol}, {kind}", record, references(protocol, record), klass,
                 meta is Blob if protocol > 3 else None)


def written():
    """Records that ZODB itself writes."""
    databases = {}
    db = DB(MappingStorage("one"), databases=databases, database_name="one")
    other = DB(MappingStorage("two"), databases=databases, database_name="two")
    connection = db.open()
    foreign = connection.get_connection("two").root()
    foreign["plain"], foreign["newargs"] = PersistentList(), NewArgs()
    transaction.commit()
    root = connection.root()
    root["mapping"] = PersistentMapping({"self": root})
    root["newargs"] = NewArgs()
    root["weak"] = WeakRef(root["mapping"])
    root["foreign"] = foreign["plain"]
    root["foreign newargs"] = foreign["newargs"]
    root["tree"] = OOBTree()
    root["tree"].update({str(i): PersistentList([root["newargs"], i]) for i in range(100)})
    root["list"] = PersistentList()
    transaction.commit()
    names = {"mapping": PersistentMapping, "newargs": NewArgs, "tree": OOBTree, "list": PersistentList}
    for name, klass in [("root", PersistentMapping), *names.items()]:
        obj = root if name == "root" else root[name]
        record = db.storage.load(obj._p_oid)[0]
        emit(f"written, {name}", record, referencesf(record), f"{klass.__module__} {klass.__name__}")
    tree = root["tree"]
    bucket = tree._firstbucket
    record = db.storage.load(bucket._p_oid)[0]
    emit("written, bucket", record, referencesf(record), "BTrees.OOBTree OOBucket")
    connection.close()
    db.close()
    other.close()


synthetic()
written()
