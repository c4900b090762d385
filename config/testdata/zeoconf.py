"""Load each file named on standard input with ZEO's schema, and print one line of
JSON for it: the values, or null with what was wrong on standard error."""
import json
import os
import sys

import ZConfig
import ZEO

schema = ZConfig.loadSchema(os.path.join(os.path.dirname(ZEO.__file__), "schema.xml"))


def address(a):
    if isinstance(a.address, str):
        return a.address
    return [a.address[0], a.address[1] or 0]


def storage(s):
    c = s.config
    kind = c.getSectionType()
    v = {"kind": kind, "name": s.name}
    if kind == "filestorage":
        v.update(path=c.path, blob_dir=c.blob_dir or "", read_only=bool(c.read_only),
                 pack_gc=c.pack_gc, pack_keep_old=c.pack_keep_old)
    elif kind == "blobstorage":
        v.update(storage(c.base), name=s.name, blob_dir=c.blob_dir)
    elif kind == "zeoclient":
        v.update(servers=[address(a) for a in c.server], storage=c.storage, cache_size=c.cache_size,
                 wait=c.wait, read_only=c.read_only, fallback=c.read_only_fallback,
                 label=c.client_label or "")
    return v


def names(storages):
    """Name the storage without a name as runzeo does."""
    unnamed = [s for s in storages if s["name"] is None]
    if unnamed:
        if len(unnamed) > 1 or any(s["name"] == "1" for s in storages):
            raise ValueError("names")
        unnamed[0]["name"] = "1"
    return storages


def logfile(h):
    s = h.section
    return {"path": s.path, "max_size": s.max_size, "old_files": s.old_files, "level": s.level}


def load(path):
    c, _ = ZConfig.loadConfig(schema, path)
    z = c.zeo
    msgpack = z.msgpack if isinstance(z.msgpack, bool) else bool(os.environ.get("ZEO_MSGPACK"))
    log = c.eventlog
    return {
        "address": [address(z.address)], "read_only": z.read_only,
        "queue": z.invalidation_queue_size, "age": min(z.invalidation_age or 0, 1e300),
        "timeout": z.transaction_timeout or 0,
        "msgpack": msgpack, "pid": z.pid_filename or "", "ssl": z.ssl is not None,
        "storages": names([storage(s) for s in c.storages]),
        "level": log.level if log else 20,
        "logs": [logfile(h) for h in log.handler_factories] if log else [],
    }


for line in sys.stdin:
    try:
        result = load(line.rstrip("\n"))
    except Exception as e:
        print(line.rstrip("\n") + ":", repr(e), file=sys.stderr)
        result = None
    print(json.dumps(result))
