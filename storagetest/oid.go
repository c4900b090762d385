package storagetest

import (
	"sync"

	"github.com/zeoraid/raidstorage"
)

func oidRules() []rule {
	return subject("oids", needs{},
		rule{name: "new oids ascend, are never 0 and never come twice", run: func(e *env) {
			var last raidstorage.OID
			for _, n := range []int{1, 2, 1, 100, 1000, 1} {
				oids := e.newOIDs(n)
				for _, oid := range oids {
					if oid <= last {
						e.Fatalf("NewOIDs returned %v after %v", oid, last)
					}
					last = oid
				}
			}
		}},
		rule{name: "new oids are greater than every stored one", run: func(e *env) {
			const stored = raidstorage.OID(1 << 40)
			e.commit(objs(stored, "far away"))
			if got := e.newOIDs(1)[0]; got <= stored {
				e.Fatalf("NewOIDs returned %v, though %v is stored", got, stored)
			}
		}},
		rule{name: "new oids are greater than every restored one", run: func(e *env) {
			const restored = raidstorage.OID(1 << 41)
			tid := testTID(1)
			e.transact(raidstorage.Meta{TID: tid}, func(txn raidstorage.Txn) error {
				return txn.Restore(e.ctx, raidstorage.Record{OID: restored, TID: tid, Data: []byte("far away")})
			})
			if got := e.newOIDs(1)[0]; got <= restored {
				e.Fatalf("NewOIDs returned %v, though %v is stored", got, restored)
			}
		}},
		rule{name: "callers at the same time never get the same oid", run: concurrentOIDs},
	)
}

func (e *env) newOIDs(n int) []raidstorage.OID {
	e.Helper()
	oids, err := e.s.NewOIDs(e.ctx, n)
	e.must("NewOIDs", err)
	if len(oids) != n {
		e.Fatalf("NewOIDs(%d) returned %d oids", n, len(oids))
	}
	return oids
}

func concurrentOIDs(e *env) {
	var (
		mu    sync.Mutex
		taken = map[raidstorage.OID]int{}
	)
	e.must("NewOIDs", together(8, func(int) error {
		for n := range 20 {
			oids, err := e.s.NewOIDs(e.ctx, n+1)
			if err != nil {
				return err
			}
			mu.Lock()
			for _, oid := range oids {
				taken[oid]++
			}
			mu.Unlock()
		}
		return nil
	}))
	for oid, times := range taken {
		if times > 1 || oid == 0 {
			e.Errorf("oid %v was given out %d times", oid, times)
		}
	}
	if want := 8 * 210; len(taken) != want {
		e.Errorf("%d oids were given out, want %d", len(taken), want)
	}
}
