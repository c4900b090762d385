package storagetest

import (
	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
)

// estimateRules are about dry runs: what is told is what the pack then drops.
func estimateRules() []rule {
	return subject("pack estimate", needs{has: PackEstimator},
		rule{name: "it is what the pack drops, and nothing changes", run: func(e *env) {
			through := e.estimated()
			opts := raidstorage.PackOptions{Through: through, GC: true}
			estimate := e.estimate(opts)
			// The garbage is 10 and, of a cycle, 20 and 21; what else goes are two revisions
			// of the root, one of 20, and all of 2, which was deleted.
			e.wantEstimate(estimate, through, 3, 5)
			e.wantFreed(estimate, opts)
			e.wantPresent(true, 0, 1, 30)
			e.wantPresent(false, 2, 10, 20, 21)
			e.wantEstimate(e.estimate(opts), through, 0, 0)
		}},
		rule{name: "without collection garbage does not count", run: func(e *env) {
			through := e.estimated()
			opts := raidstorage.PackOptions{Through: through}
			estimate := e.estimate(opts)
			e.wantEstimate(estimate, through, 0, 5)
			e.wantFreed(estimate, opts)
			e.wantPresent(true, 0, 1, 10, 20, 21, 30)
		}},
		rule{name: "decided garbage counts, and no other", run: func(e *env) {
			through := e.estimated()
			opts := raidstorage.PackOptions{Through: through, Decided: true, Garbage: []raidstorage.OID{10, 99}}
			estimate := e.estimate(opts)
			e.wantEstimate(estimate, through, 1, 5)
			e.wantFreed(estimate, opts)
			e.wantPresent(false, 10)
			e.wantPresent(true, 0, 1, 20, 21, 30)
		}},
		rule{name: "later transactions keep what they refer to", run: func(e *env) {
			through := e.estimated()
			e.commit(objs(0, Pickled("root again", 1, 30, 10)))
			opts := raidstorage.PackOptions{Through: through, GC: true}
			estimate := e.estimate(opts)
			e.wantEstimate(estimate, through, 2, 5)
			e.wantFreed(estimate, opts)
			e.wantPresent(true, 10)
		}},
		rule{name: "an empty storage would lose nothing", run: func(e *env) {
			if got := e.estimate(raidstorage.PackOptions{Through: raidstorage.MaxTID, GC: true}); got.Objects+got.Revisions+got.Bytes != 0 {
				e.Errorf("the estimate is %+v", got)
			}
		}},
	)
}

// estimated commits a history with garbage, old revisions and a deletion, and something
// after it, and returns its last tid.
func (e *env) estimated() (through raidstorage.TID) {
	e.Helper()
	first := e.commit(map[raidstorage.OID]string{
		0: Pickled("root", 1, 2, 10, 20), 1: Pickled("child"), 2: Pickled("to be deleted"),
		10: Pickled("garbage to be"), 20: Pickled("cycle", 21), 21: Pickled("cycle", 20),
	})
	e.commit(objs(20, Pickled("cycle again", 21)))
	e.commit(map[raidstorage.OID]string{0: Pickled("root", 1, 30), 30: Pickled("new")})
	e.delete(2, first)
	through = e.commit(objs(0, Pickled("root, once more", 1, 30)))
	e.commit(objs(1, Pickled("child, later")))
	return through
}

func (e *env) estimate(opts raidstorage.PackOptions) raidstorage.PackEstimate {
	e.Helper()
	p, err := raidstorage.Can[raidstorage.PackEstimator](e.s)
	e.must("Can", err)
	before := e.log(e.s)
	estimate, err := p.EstimatePack(e.ctx, opts)
	e.must("EstimatePack", err)
	if diff := cmp.Diff(before, e.log(e.s)); diff != "" {
		e.Errorf("EstimatePack changed the log (-want +got):\n%s", diff)
	}
	return estimate
}

// wantEstimate checks the counts, and that the classes add up to them.
func (e *env) wantEstimate(got raidstorage.PackEstimate, through raidstorage.TID, objects, revisions int64) {
	e.Helper()
	if got.Through != through || got.Objects != objects || got.Revisions != revisions {
		e.Errorf("the estimate is %+v, want %d objects and %d revisions up to %v", got, objects, revisions, through)
	}
	var sum raidstorage.PackClass
	for _, c := range got.Classes {
		sum.Objects += c.Objects
		sum.Revisions += c.Revisions
		sum.Bytes += c.Bytes
	}
	if sum.Objects != objects || sum.Revisions != revisions || sum.Bytes != got.ObjectBytes+got.RevisionBytes {
		e.Errorf("the classes %+v do not add up to %+v", got.Classes, got)
	}
}

// wantFreed packs, and checks that as many records and bytes go as the estimate says.
func (e *env) wantFreed(estimate raidstorage.PackEstimate, opts raidstorage.PackOptions) {
	e.Helper()
	size := func() int64 {
		sizer, err := raidstorage.Can[raidstorage.Sizer](e.s)
		if err != nil {
			return 0
		}
		_, n, err := sizer.Size(e.ctx)
		e.must("Size", err)
		return n
	}
	records := func() (n int64) {
		for _, txn := range e.log(e.s) {
			n += int64(len(txn.Records))
		}
		return n
	}
	bytesBefore, before := size(), records()
	p, err := raidstorage.Can[raidstorage.Packer](e.s)
	e.must("Can", err)
	e.must("Pack", p.Pack(e.ctx, opts))
	if gone := before - records(); gone != estimate.Objects+estimate.Revisions {
		e.Errorf("%d records are gone, the estimate was %+v", gone, estimate)
	}
	if freed := bytesBefore - size(); freed != estimate.Bytes && e.f.Capabilities&Sizer != 0 {
		e.Errorf("the storage is smaller by %d, the estimate was %+v", freed, estimate)
	}
}
