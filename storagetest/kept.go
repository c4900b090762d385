package storagetest

import (
	"context"
	"errors"
	"slices"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
)

// keptRules are about what a pack keeps for the sake of later records, and Python's
// FileStorage would not.
func keptRules() []rule {
	tree := func(e *env) raidstorage.TID {
		return e.commit(map[raidstorage.OID]string{
			0: Pickled("root", 1), 1: Pickled("child"), 10: Pickled("unlinked", 11), 11: Pickled("below it"), 20: Pickled("garbage"),
		})
	}
	return subject("kept by later transactions", needs{has: KeptFinder},
		rule{name: "what is linked later, and what is below it", run: func(e *env) {
			through := tree(e)
			e.findKept(through, nil)
			e.commit(objs(0, Pickled("root", 1, 10)))
			e.findKept(through, nil, 10, 11)
			e.findKept(raidstorage.MaxTID, nil)
		}},
		rule{name: "also if that is garbage itself", run: func(e *env) {
			through := tree(e)
			e.commit(objs(20, Pickled("written again", 11)))
			e.findKept(through, nil, 11)
		}},
		rule{name: "also if it is written later", run: func(e *env) {
			through := tree(e)
			e.commit(objs(10, Pickled("written again")))
			e.findKept(through, nil)
			e.commit(objs(0, Pickled("root", 1, 10)))
			e.findKept(through, nil, 10, 11)
		}},
		rule{name: "what is linked while it is decided", run: func(e *env) {
			through := tree(e)
			e.findKept(through, func() { e.commit(objs(0, Pickled("root", 10))) }, 10, 11)
		}},
		rule{name: "not what could be reached at the pack time", run: func(e *env) {
			through := tree(e)
			e.commit(objs(0, Pickled("root", 1)))
			e.commit(objs(0, Pickled("root again")))
			e.commit(objs(20, Pickled("written again", 1)))
			e.findKept(through, nil)
		}},
		rule{name: "not what an undo links again, unless it is undone itself", needs: needs{has: Undoer}, run: func(e *env) {
			e.commit(map[raidstorage.OID]string{0: Pickled("root", 10), 10: Pickled("child", 11), 11: Pickled("below it")})
			through := e.commit(objs(0, Pickled("root")))
			e.undo(through)
			e.findKept(through, nil)
			again := e.commit(objs(10, Pickled("child again", 11)))
			e.findKept(through, nil)
			e.undo(again) // Python goes no further there
			e.findKept(through, nil, 11)
		}},
		rule{name: "what is undone to another revision than that of the pack time", needs: needs{has: Undoer}, run: func(e *env) {
			e.commit(map[raidstorage.OID]string{0: Pickled("root"), 10: Pickled("garbage")})
			through := e.commit(objs(10, Pickled("garbage again")))
			e.undo(through)
			e.findKept(through, nil, 10)
		}},
		rule{name: "not what the second of two undos of an object refers to", needs: needs{has: Undoer}, run: func(e *env) {
			e.commit(map[raidstorage.OID]string{0: Pickled("root"), 10: Pickled("garbage", 11), 11: Pickled("one"), 12: Pickled("other")})
			through := e.commit(objs(10, Pickled("garbage again", 12)))
			undone, _ := e.undo(through)
			e.findKept(through, nil, 10, 11)
			e.undo(undone)
			e.findKept(through, nil, 11)
		}},
		rule{name: "nothing by who has been packed to a later time", run: func(e *env) {
			for _, through := range e.packedOver() {
				e.findKept(through, nil)
			}
		}},
		rule{name: "nothing of an empty storage", run: func(e *env) { e.findKept(raidstorage.MaxTID, nil) }},
		rule{name: "an error of decide ends it", run: func(e *env) {
			through := tree(e)
			finder, err := raidstorage.Can[raidstorage.KeptFinder](e.s)
			e.must("Can", err)
			stop := errors.New("stop")
			if _, _, err := finder.FindKept(e.ctx, through, func(context.Context) error { return stop }); !errors.Is(err, stop) {
				e.Errorf("FindKept: got error %v, want %v", err, stop)
			}
			e.pack(through, true) // nothing is locked
		}},
	)
}

// findKept checks what is kept, and that the garbage is what FindGarbage finds; meanwhile
// is called when it is decided.
func (e *env) findKept(through raidstorage.TID, meanwhile func(), want ...raidstorage.OID) {
	e.Helper()
	finder, err := raidstorage.Can[raidstorage.KeptFinder](e.s)
	e.must("Can", err)
	before := e.log(e.s)
	decided := 0
	garbage, kept, err := finder.FindKept(e.ctx, through, func(context.Context) error {
		if decided++; meanwhile != nil {
			meanwhile()
		}
		return nil
	})
	e.must("FindKept", err)
	if decided != 1 {
		e.Errorf("FindKept called decide %d times", decided)
	}
	if !slices.Equal(kept, want) {
		e.Errorf("kept by later transactions is %v, want %v", kept, want)
	}
	if meanwhile == nil {
		if diff := cmp.Diff(before, e.log(e.s)); diff != "" {
			e.Errorf("FindKept changed the log (-want +got):\n%s", diff)
		}
	}
	if found := e.findGarbage(through, nil); !slices.Equal(garbage, found) {
		e.Errorf("the garbage is %v, and FindGarbage finds %v", garbage, found)
	}
}
