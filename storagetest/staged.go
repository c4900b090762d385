package storagetest

import (
	"context"
	"errors"
	"slices"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
)

// stagedRules are about packs in two steps.
func stagedRules() []rule {
	tree := func(e *env) raidstorage.TID {
		return e.commit(map[raidstorage.OID]string{
			0: Pickled("root", 1), 1: Pickled("child"), 10: Pickled("garbage", 11), 11: Pickled("below it", 12), 12: Pickled("deep"), 20: Pickled("other garbage"),
		})
	}
	return subject("staged packs", needs{has: StagedPacker},
		rule{name: "nothing changes until it switches, and then it is packed, with all that was committed meanwhile", needs: needs{reopen: true}, run: func(e *env) {
			through := tree(e)
			e.commit(objs(1, Pickled("child again")))
			before := e.log(e.s)
			staged := e.stage(through, 10, 11, 12, 20)
			if diff := cmp.Diff(before, e.log(e.s)); diff != "" {
				e.Errorf("a staged pack changed the log (-want +got):\n%s", diff)
			}
			e.commit(objs(2, Pickled("meanwhile")))
			e.must("CatchUp", staged.CatchUp(e.ctx))
			last := e.commit(objs(3, Pickled("after that")))
			e.wantPresent(true, 10, 11, 12, 20)
			e.must("Switch", staged.Switch(e.ctx))
			check := func() {
				e.Helper()
				e.wantPresent(false, 10, 11, 12, 20)
				e.wantPresent(true, 0, 1, 2, 3)
				e.wantRecordsOf(0, 1, 2, 3)
				e.wantLast(last)
			}
			check()
			e.must("End", staged.End(e.ctx))
			e.must("End again", staged.End(e.ctx))
			check()
			last = e.commit(objs(2, Pickled("goes on")))
			e.reopen()
			check()
		}},
		rule{name: "it becomes what Pack makes", run: func(e *env) {
			through := tree(e)
			tid := e.commit(objs(1, Pickled("child again")))
			e.commit(objs(0, Pickled("root again", 1)))
			staged := e.stage(tid, 10, 11, 12, 20)
			e.must("Switch", staged.Switch(e.ctx))
			e.must("End", staged.End(e.ctx))
			got := e.log(e.s)
			e.packDecided(tid, 10, 11, 12, 20)
			e.pack(through, true)
			if diff := cmp.Diff(e.log(e.s), got); diff != "" {
				e.Errorf("the log differs from that of a further pack (-want +got):\n%s", diff)
			}
		}},
		rule{name: "garbage that is linked again is told, with what is below it", run: func(e *env) {
			through := tree(e)
			after := e.commit(objs(1, Pickled("child of the pack time", 99)))
			garbage := e.findGarbage(through, nil)
			staged := e.stage(through, garbage...)
			e.wantRelinked(staged, after, true)
			e.commit(objs(1, Pickled("child", 11)))
			e.wantRelinked(staged, after, false, 11, 12)
			if diff := cmp.Diff([]raidstorage.OID{10, 11, 12, 20}, garbage); diff != "" {
				e.Errorf("the garbage was (-want +got):\n%s", diff)
			}
			e.must("End", staged.End(e.ctx))
			if diff := cmp.Diff([]raidstorage.OID{10, 20}, e.findGarbage(through, nil)); diff != "" {
				e.Errorf("now the garbage is (-want +got):\n%s", diff)
			}
		}},
		rule{name: "what is committed before decide returns counts, and is read once", run: func(e *env) {
			through := tree(e)
			staged := e.stage(through, 10, 11, 12, 20)
			decided := 0
			linked, err := staged.Relinked(e.ctx, through, func(context.Context) error {
				decided++
				e.commit(objs(0, Pickled("root", 1, 20)))
				return nil
			})
			e.must("Relinked", err)
			if diff := cmp.Diff([]raidstorage.OID{20}, linked); diff != "" || decided != 1 {
				e.Errorf("decide was called %d times, and linked are (-want +got):\n%s", decided, diff)
			}
			e.must("End", staged.End(e.ctx))
		}},
		rule{name: "garbage that is only written again stays garbage", run: func(e *env) {
			through := tree(e)
			staged := e.stage(through, 10, 11, 12, 20)
			again := e.commit(objs(20, Pickled("written again")))
			e.wantRelinked(staged, through, true)
			e.must("Switch", staged.Switch(e.ctx))
			e.must("End", staged.End(e.ctx))
			e.wantLoad(20, raidstorage.MaxTID, Pickled("written again"), again, 0)
			e.wantNotFound(20, again)
		}},
		rule{name: "a revision that an undo repeats is told", needs: needs{has: Undoer}, run: func(e *env) {
			through := tree(e)
			again := e.commit(objs(20, Pickled("written again")))
			garbage := e.findGarbage(through, nil)
			staged := e.stage(through, garbage...)
			e.wantRelinked(staged, again, true)
			e.undo(again)
			e.wantRelinked(staged, again, false, 20)
			e.must("End", staged.End(e.ctx))
		}},
		rule{name: "what has ended without a switch leaves no trace", needs: needs{reopen: true}, run: func(e *env) {
			through := tree(e)
			want := e.log(e.s)
			e.must("End", e.stage(through, 10).End(e.ctx))
			e.stage(through, 20) // the end of the storage is its end
			if diff := cmp.Diff(want, e.log(e.s)); diff != "" {
				e.Errorf("the log changed (-want +got):\n%s", diff)
			}
			e.reopen()
			if diff := cmp.Diff(want, e.log(e.s)); diff != "" {
				e.Errorf("after a restart the log is another one (-want +got):\n%s", diff)
			}
			e.packDecided(through, 10, 11, 12, 20)
			e.wantPresent(false, 10, 11, 12, 20)
		}},
		rule{name: "an ended one does nothing any more", run: func(e *env) {
			through := tree(e)
			staged := e.stage(through, 10, 11, 12, 20)
			e.must("End", staged.End(e.ctx))
			wantErr[*raidstorage.InvalidError](e, "Switch", staged.Switch(e.ctx))
			wantErr[*raidstorage.InvalidError](e, "CatchUp", staged.CatchUp(e.ctx))
			e.wantPresent(true, 10, 20)
		}},
		rule{name: "an error of decide ends the search, and what is not decided is refused", run: func(e *env) {
			through := tree(e)
			packer, err := raidstorage.Can[raidstorage.StagedPacker](e.s)
			e.must("Can", err)
			_, err = packer.StagePack(e.ctx, raidstorage.PackOptions{Through: through, GC: true})
			wantErr[*raidstorage.InvalidError](e, "StagePack", err)
			staged, stop := e.stage(through, 20), errors.New("stop")
			if _, err := staged.Relinked(e.ctx, through, func(context.Context) error { return stop }); !errors.Is(err, stop) {
				e.Errorf("Relinked: got error %v, want %v", err, stop)
			}
			ctx, cancel := context.WithCancel(e.ctx)
			cancel()
			if err := staged.Switch(ctx); !errors.Is(err, context.Canceled) {
				e.Errorf("Switch: got error %v", err)
			}
			e.wantPresent(true, 20)
			e.must("End", staged.End(e.ctx))
			e.wantLockFree()
		}},
		rule{name: "an empty storage has nothing to do", run: func(e *env) {
			staged := e.stage(raidstorage.MaxTID)
			e.wantRelinked(staged, 0, true)
			e.must("CatchUp", staged.CatchUp(e.ctx))
			tid := e.commit(objs(0, Pickled("root")))
			e.must("Switch", staged.Switch(e.ctx))
			e.must("End", staged.End(e.ctx))
			e.wantLast(tid)
		}},
	)
}

func (e *env) stage(through raidstorage.TID, garbage ...raidstorage.OID) raidstorage.StagedPack {
	e.Helper()
	packer, err := raidstorage.Can[raidstorage.StagedPacker](e.s)
	e.must("Can", err)
	staged, err := packer.StagePack(e.ctx, raidstorage.PackOptions{Through: through, Decided: true, Garbage: garbage})
	e.must("StagePack", err)
	return staged
}

// wantRelinked checks what was linked again, and whether decide is called.
func (e *env) wantRelinked(staged raidstorage.StagedPack, after raidstorage.TID, decides bool, want ...raidstorage.OID) {
	e.Helper()
	decided := false
	linked, err := staged.Relinked(e.ctx, after, func(context.Context) error {
		decided = true
		return nil
	})
	e.must("Relinked", err)
	if !slices.Equal(linked, want) || decided != decides {
		e.Errorf("linked are %v, want %v; decide was called: %v, want %v", linked, want, decided, decides)
	}
}
