"""An application of the demonstration: a ZODB on a ClientStorage, always committing.

usage: application.py HOST PORT STORAGE BLOB_DIRECTORY

It increments counters in a BTree and stores a blob with every fifth commit, until a line
arrives on standard input. It prints the number of commits after each of them and, in the
end, one JSON object: what it had acknowledged, by its own count, and what failed. As in
a web application, what failed is tried once more by the next request, and is reported.
"""
import json
import sys
import threading

import transaction
import ZODB
import ZODB.blob
from BTrees.LOBTree import LOBTree
from BTrees.OOBTree import OOBTree
from ZEO.ClientStorage import ClientStorage

COUNTERS = 100


def main(host, port, storage, blob_dir):
    client = ClientStorage((host, int(port)), storage=storage, wait_timeout=20,
                           blob_dir=blob_dir, client_label="demonstration")
    db = ZODB.DB(client)
    connection = db.open()
    root = connection.root()
    root["counters"] = LOBTree()
    root["counters"].update({i: 0 for i in range(COUNTERS)})
    root["blobs"] = OOBTree()
    transaction.commit()

    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    counts, blobs, errors, n = [0] * COUNTERS, {}, [], 0
    while not stop.is_set():
        key, name, text = n % COUNTERS, "blob %d" % n, "content of blob %d, " % n * 100
        try:
            root["counters"][key] += 1
            if n % 5 == 0:
                blob = ZODB.blob.Blob()
                with blob.open("w") as file:
                    file.write(text.encode())
                root["blobs"][name] = blob
            transaction.get().note("commit %d" % n)
            transaction.commit()
        except Exception as error:
            errors.append("%s: %s" % (type(error).__name__, error))
            transaction.abort()
            if len(errors) > 100:
                break
            continue
        counts[key] += 1
        if n % 5 == 0:
            blobs[name] = text
        n += 1
        print(n, flush=True)
    # What was acknowledged can be read again, through the mirror and without a cache.
    connection.cacheMinimize()
    wrong = [i for i in range(COUNTERS) if root["counters"][i] != counts[i]]
    for name, text in blobs.items():
        with root["blobs"][name].open() as file:
            if file.read().decode() != text:
                wrong.append(name)
    transaction.abort()
    connection.close()
    db.close()
    print(json.dumps({"commits": n, "counts": counts, "blobs": blobs, "errors": errors, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
