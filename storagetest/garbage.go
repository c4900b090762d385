package storagetest

import (
	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
)

func garbageRules() []rule {
	return subject("garbage collection", needs{has: Packer},
		rule{name: "what the root reaches stays, what it does not goes", run: func(e *env) {
			tid := e.commit(map[raidstorage.OID]string{
				0: Pickled("root", 1, 2), 1: Pickled("child"), 2: Pickled("child", 3), 3: Pickled("grandchild", 0),
				10: Pickled("garbage"), 11: Pickled("garbage refers to live", 3),
				20: Pickled("cycle", 21), 21: Pickled("cycle", 20),
			})
			e.pack(tid, true)
			e.wantPresent(true, 0, 1, 2, 3)
			e.wantPresent(false, 10, 11, 20, 21)
			e.wantRecordsOf(0, 1, 2, 3)
		}},
		rule{name: "without collection all objects stay", run: func(e *env) {
			tid := e.commit(map[raidstorage.OID]string{0: Pickled("root", 1), 1: Pickled("child"), 10: Pickled("garbage")})
			e.pack(tid, false)
			e.wantPresent(true, 0, 1, 10)
		}},
		rule{name: "only references at the pack time count", run: func(e *env) {
			e.commit(map[raidstorage.OID]string{0: Pickled("root", 1, 2), 1: Pickled("dropped"), 2: Pickled("kept")})
			through := e.commit(objs(0, Pickled("root", 2)))
			e.pack(through, true)
			e.wantPresent(true, 0, 2)
			e.wantPresent(false, 1)
		}},
		rule{name: "references from later records keep objects", run: func(e *env) {
			through := e.commit(map[raidstorage.OID]string{
				0: Pickled("root"), 1: Pickled("linked later", 2), 2: Pickled("below it"), 3: Pickled("never linked"),
			})
			e.commit(objs(0, Pickled("root", 1)))
			e.pack(through, true)
			e.wantPresent(true, 0, 1, 2)
			e.wantPresent(false, 3)
		}},
		rule{name: "references that were cut after the pack time keep objects until then", run: func(e *env) {
			through := e.commit(map[raidstorage.OID]string{0: Pickled("root", 1), 1: Pickled("child")})
			cut := e.commit(objs(0, Pickled("root")))
			e.pack(through, true)
			e.wantPresent(true, 1)
			e.pack(cut, true)
			e.wantPresent(false, 1)
		}},
		rule{name: "objects written after the pack time stay", run: func(e *env) {
			through := e.commit(map[raidstorage.OID]string{0: Pickled("root")})
			e.commit(objs(10, Pickled("nobody refers to it")))
			e.pack(through, true)
			e.wantPresent(true, 10)
		}},
		rule{name: "deleted objects go, with all their revisions", run: func(e *env) {
			first := e.commit(map[raidstorage.OID]string{0: Pickled("root", 1), 1: Pickled("child"), 2: Pickled("other")})
			deleted := e.delete(2, first)
			e.pack(deleted, true)
			e.wantNotFound(2, first+1)
			e.wantRecordsOf(0, 1)
		}},
		rule{name: "a record that cannot be read stops the pack and nothing is dropped", run: func(e *env) {
			e.commit(map[raidstorage.OID]string{0: Pickled("root", 1), 1: Pickled("child"), 2: Pickled("garbage")})
			// The second pickle breaks off in the middle of a reference.
			broken := Pickled("broken", 2)
			through := e.commit(objs(1, broken[:len(broken)-50]))
			want := e.log(e.s)
			got := wantErr[*raidstorage.CorruptError](e, "Pack", e.tryPack(through, true))
			if got.OID != 1 {
				e.Errorf("the error is about object %v, want 1", got.OID)
			}
			if diff := cmp.Diff(want, e.log(e.s)); diff != "" {
				e.Errorf("the log differs (-want +got):\n%s", diff)
			}
			e.wantLockFree()
		}},
		rule{name: "a new object never gets the oid of a collected one", run: func(e *env) {
			tid := e.commit(map[raidstorage.OID]string{0: Pickled("root"), 1 << 20: Pickled("garbage")})
			e.pack(tid, true)
			if got := e.newOIDs(1)[0]; got <= 1<<20 {
				e.Errorf("NewOIDs returned %v after %v was collected", got, raidstorage.OID(1<<20))
			}
		}},
	)
}

// wantPresent checks which objects have a current revision.
func (e *env) wantPresent(want bool, oids ...raidstorage.OID) {
	e.Helper()
	for _, oid := range oids {
		_, err := e.s.LoadBefore(e.ctx, oid, raidstorage.MaxTID)
		if err != nil {
			wantErr[*raidstorage.NotFoundError](e, "LoadBefore", err)
		}
		if got := err == nil; got != want {
			e.Errorf("object %v is there: %v, want %v", oid, got, want)
		}
	}
}

// wantRecordsOf checks which objects the log has records of.
func (e *env) wantRecordsOf(want ...raidstorage.OID) {
	e.Helper()
	unseen := map[raidstorage.OID]bool{}
	for _, oid := range want {
		unseen[oid] = true
	}
	for _, txn := range e.log(e.s) {
		for _, rec := range txn.Records {
			if _, ok := unseen[rec.OID]; !ok {
				e.Errorf("the log has a record of %v", rec)
			}
			unseen[rec.OID] = false
		}
	}
	for oid, missing := range unseen {
		if missing {
			e.Errorf("the log has no record of %v", oid)
		}
	}
}
