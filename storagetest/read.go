package storagetest

import (
	"fmt"

	"github.com/zeoraid/raidstorage"
)

func readRules() []rule {
	return subject("read", needs{},
		rule{name: "an empty storage has no objects and last tid 0", run: func(e *env) {
			e.wantLast(0)
			if e.wantNotFound(1, raidstorage.MaxTID).Later {
				e.Errorf("NotFoundError.Later is true for an unknown object")
			}
			e.wantNotFound(0, raidstorage.MaxTID)
		}},
		rule{name: "before is exclusive and Next names the revision that follows", run: readRevisions},
		rule{name: "an object that did not exist yet is told from an unknown one", run: func(e *env) {
			first := e.commit(objs(1, "one"))
			second := e.commit(objs(2, "two"))
			for _, before := range []raidstorage.TID{0, 1, first, second} {
				if !e.wantNotFound(2, before).Later {
					e.Errorf("LoadBefore(2, %v): Later is false, though the object exists since %v", before, second)
				}
				if e.wantNotFound(3, before).Later {
					e.Errorf("LoadBefore(3, %v): Later is true for an unknown object", before)
				}
			}
		}},
		rule{name: "a deleted object is gone, its earlier revisions stay", run: func(e *env) {
			stored := e.commit(objs(1, "one"))
			deleted := e.delete(1, stored)
			e.wantNotFound(1, raidstorage.MaxTID)
			e.wantNotFound(1, deleted+1)
			e.wantLoad(1, deleted, "one", stored, deleted)
		}},
		rule{name: "a deleted object can be stored again", run: func(e *env) {
			stored := e.commit(objs(1, "one"))
			deleted := e.delete(1, stored)
			again := e.transact(raidstorage.Meta{}, func(txn raidstorage.Txn) error {
				return txn.Store(e.ctx, 1, deleted, []byte("again"))
			})
			e.wantLoad(1, raidstorage.MaxTID, "again", again, 0)
			e.wantNotFound(1, again)
			e.wantLoad(1, deleted, "one", stored, deleted)
		}},
		rule{name: "LastTID is the tid of the last finished transaction", run: func(e *env) {
			for i := range 5 {
				e.wantLast(e.commit(objs(1, fmt.Sprint(i))))
			}
		}},
		rule{name: "data of any bytes and length comes back as it was", run: readAnyBytes},
		rule{name: "an oid may be anything but the largest", run: func(e *env) {
			all := map[raidstorage.OID]string{}
			for _, oid := range []raidstorage.OID{0, 1, 255, 256, 1<<16 - 1, 1 << 16, 1 << 32, 1<<48 + 7, 1<<62 + 1} {
				all[oid] = "object " + oid.String()
			}
			tid := e.commit(all)
			for oid, data := range all {
				e.wantLoad(oid, raidstorage.MaxTID, data, tid, 0)
			}
		}},
		rule{name: "LoadSerial loads exactly the revision asked for", run: func(e *env) {
			first := e.commit(objs(1, "one"))
			other := e.commit(objs(2, "two"))
			second := e.commit(objs(1, "one b"))
			for serial, want := range map[raidstorage.TID]string{first: "one", second: "one b"} {
				data, err := raidstorage.LoadSerial(e.ctx, e.s, 1, serial)
				if err != nil || string(data) != want {
					e.Errorf("LoadSerial(1, %v) = %q, %v; want %q", serial, data, err, want)
				}
			}
			_, err := raidstorage.LoadSerial(e.ctx, e.s, 1, other)
			wantErr[*raidstorage.NotFoundError](e, "LoadSerial of a transaction without the object", err)
		}},
	)
}

func readRevisions(e *env) {
	var tids []raidstorage.TID
	for i := range 4 {
		tids = append(tids, e.commit(objs(1, fmt.Sprint("revision ", i))))
		e.commit(objs(2, fmt.Sprint("other ", i)))
	}
	for i, tid := range tids {
		data := fmt.Sprint("revision ", i)
		next, beforeNext := raidstorage.TID(0), raidstorage.MaxTID
		if i+1 < len(tids) {
			next, beforeNext = tids[i+1], tids[i+1]
		}
		e.wantLoad(1, tid+1, data, tid, next)
		e.wantLoad(1, beforeNext, data, tid, next)
		if i > 0 {
			e.wantLoad(1, tid, fmt.Sprint("revision ", i-1), tids[i-1], tid)
		}
	}
	e.wantNotFound(1, tids[0])
}

func readAnyBytes(e *env) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	large := make([]byte, 3<<20+1)
	for i := range large {
		large[i] = byte(i * i >> 8)
	}
	all := map[raidstorage.OID]string{1: "\x00", 2: "\n", 3: string(every), 4: string(large), 5: "\xff\xfe\x00"}
	tid := e.commit(all)
	for oid, want := range all {
		rev, err := e.s.LoadBefore(e.ctx, oid, raidstorage.MaxTID)
		e.must("LoadBefore", err)
		if string(rev.Data) != want || rev.Serial != tid {
			e.Errorf("object %v: %d bytes at %v come back differently, as %d bytes at %v",
				oid, len(want), tid, len(rev.Data), rev.Serial)
		}
	}
}
