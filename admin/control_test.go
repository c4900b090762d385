package admin_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/admin"
	"github.com/zeoraid/raidstorage/storagetest"
)

func TestDisableAndRecover(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.commit(r.mirror, "one")
	lines := r.must(admin.OpDisable, admin.Request{Backend: "a", Reason: "new disk"})
	if first := lines[0]; first.Type != admin.TypeBegin || first.Mirror != "main" || first.Backend != "a" || first.Op != admin.OpDisable || first.Joined {
		t.Errorf("first line %+v", first)
	}
	if r.state("a") != raidstorage.StateDisabled || r.mirror.Status().Backends[0].Reason != "new disk" {
		t.Errorf("after disable: %+v", r.mirror.Status().Backends[0])
	}
	r.commit(r.mirror, "two")
	r.must(admin.OpRecover, admin.Request{Backend: "a", Wait: true})
	if got := r.state("a"); got != raidstorage.StateInSync {
		t.Errorf("after recover: %v", got)
	}
	lines = r.must(admin.OpRecover, admin.Request{Backend: "a", Wait: true})
	if end := lines[len(lines)-1]; end.Text != "a is in sync" || end.GoesOn {
		t.Errorf("of one that is in sync: %+v", end)
	}
}

func TestDemoteAndPromote(t *testing.T) {
	t.Parallel()
	synctest.Test(t, demoteAndPromote)
}

func demoteAndPromote(t *testing.T) {
	r := newRig(t, nil)
	r.commit(r.mirror, "one")
	lines := r.must(admin.OpDemote, admin.Request{Backend: "b"})
	if end := lines[len(lines)-1]; end.Text != "b does not count any more" {
		t.Errorf("the end is %+v", end)
	}
	last := r.commit(r.mirror, "two")
	synctest.Wait()
	if got := r.mirror.Status().Backends[1].LastTID; got != last {
		t.Errorf("it has followed up to %v, want %v", got, last)
	}
	st, err := r.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if b := st.Mirrors[0].Backends[1]; b.Role != "async" || b.Configured != "full" || b.State != "following" || b.LagTransactions != 0 || b.LagBytes != 0 || b.Hint != "" {
		t.Errorf("it is %+v", b)
	}
	if role := st.Mirrors[0].Membership.Roles["b"]; role.Actual != raidstorage.RoleAsync {
		t.Errorf("by the record it is %+v", role)
	}
	lines = r.do(admin.OpDemote, admin.Request{Backend: "a"})
	if f := lines[len(lines)-1].Failure; f == nil || f.Kind != admin.KindUnavailable {
		t.Errorf("demoting the last one: %+v", f)
	}
	lines = r.must(admin.OpRecover, admin.Request{Backend: "b", Wait: true})
	if end := lines[len(lines)-1]; end.Text != "b is ready, as async" {
		t.Errorf("the end is %+v", end)
	}
	lines = r.must(admin.OpPromote, admin.Request{Backend: "b", Wait: true})
	if end := lines[len(lines)-1]; end.Text != "b is full, and in sync" || r.state("b") != raidstorage.StateInSync {
		t.Errorf("the end is %+v", end)
	}
}

// Without Wait, too, as far as the end comes within a second.
func TestRefusalsSayWhatToDo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.commit(r.mirror, "one")
		r.must(admin.OpDisable, admin.Request{Backend: "a"})
		end := func(op admin.Op, q admin.Request) admin.Message {
			lines := r.do(op, q)
			return lines[len(lines)-1]
		}
		if m := end(admin.OpDisable, admin.Request{Backend: "b"}); m.Failure == nil || m.Failure.Kind != admin.KindUnavailable || m.Failure.Hint == "" {
			t.Errorf("disabling the last one: %+v", m.Failure)
		}
		r.commit(r.stores["a"], "astray")
		m := end(admin.OpRecover, admin.Request{Backend: "a"})
		if m.Failure == nil || m.Failure.Kind != admin.KindDiverged || !strings.Contains(m.Failure.Hint, "zeoraid recover a -rollback") {
			t.Errorf("a diverged one: %+v", m.Failure)
		}
		r.must(admin.OpRecover, admin.Request{Backend: "a", Rollback: true, Full: true})
		if got := r.state("a"); got != raidstorage.StateInSync {
			t.Errorf("after the rollback: %v", got)
		}
		r.must(admin.OpDisable, admin.Request{Backend: "a"})
		r.whenOpened(func(_ string, f *storagetest.FaultyStorage) { f.CutOff() })
		if m := end(admin.OpRecover, admin.Request{Backend: "a", Wait: true}); m.Failure == nil || m.Failure.Kind != admin.KindFailed || m.Failure.Text != m.Text {
			t.Errorf("one that does not answer: %+v", m)
		}
	})
}

// Progress of recoveries and packs, while they wait for what a test lets them wait for.
func TestProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for i := range 9 {
			r.commit(r.mirror, storagetest.Pickled(fmt.Sprint(i)))
		}
		r.must(admin.OpDisable, admin.Request{Backend: "a"})
		r.commit(r.mirror, storagetest.Pickled("10"))
		r.whenOpened(func(_ string, f *storagetest.FaultyStorage) {
			f.Inject(storagetest.Fault{Call: storagetest.CallRestore, Kind: storagetest.Observe, Delay: time.Minute})
		})
		var recovery *admin.Recovery
		for _, m := range r.must(admin.OpRecover, admin.Request{Backend: "a", Wait: true}) {
			if m.Recovery != nil {
				recovery = m.Recovery
			}
		}
		if recovery == nil || recovery.Backend != "a" || recovery.Target != admin.TID(r.mirror.Status().LastTID) {
			t.Errorf("recovery %+v", recovery)
		}
		for _, name := range []string{"a", "b"} {
			r.backend(name).Inject(storagetest.Fault{Call: storagetest.CallStagePack, Kind: storagetest.Observe, Delay: time.Minute})
		}
		var phases []string
		for _, m := range r.must(admin.OpPack, admin.Request{}) {
			if m.Pack != nil && (len(phases) == 0 || phases[len(phases)-1] != m.Pack.Phase) {
				phases = append(phases, m.Pack.Phase)
			}
		}
		if !slices.Contains(phases, string(raidstorage.PackPacking)) {
			t.Errorf("phases of the pack: %v", phases)
		}
	})
}

// hang makes the recovery of a wait until the returned connection is released.
func (r *rig) hang() *storagetest.FaultyStorage {
	r.t.Helper()
	r.must(admin.OpDisable, admin.Request{Backend: "a"})
	r.commit(r.mirror, "more")
	opened := make(chan *storagetest.FaultyStorage, 1)
	r.whenOpened(func(_ string, f *storagetest.FaultyStorage) {
		f.Inject(storagetest.Fault{Call: storagetest.CallIterate, Kind: storagetest.Hang, Times: 1})
		opened <- f
	})
	if lines := r.must(admin.OpRecover, admin.Request{Backend: "a"}); !lines[len(lines)-1].GoesOn {
		r.t.Fatalf("the recovery has ended: %+v", lines)
	}
	f := <-opened
	if err := f.WaitFor(r.t.Context(), storagetest.CallIterate, 1); err != nil {
		r.t.Fatal(err)
	}
	return f
}

func TestRecoveriesGoOnWithoutTheirClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		start := time.Now()
		f := r.hang()
		if took := time.Since(start); took != time.Second {
			t.Errorf("the answer took %v", took)
		}
		// Another client joins, and leaves.
		ctx, cancel := context.WithCancel(t.Context())
		var joined, alive int
		_, err := r.client.Do(ctx, "main", admin.OpRecover, admin.Request{Backend: "a", Wait: true}, func(m admin.Message) {
			switch {
			case m.Joined:
				joined++
			case m.Type == admin.TypeProgress:
				if alive++; alive == 30 { // for longer than requests may take to be read
					cancel()
				}
			}
		})
		if !errors.Is(err, context.Canceled) || joined != 1 {
			t.Errorf("joined %d times: %v", joined, err)
		}
		// One that asks for something else may not.
		other := r.do(admin.OpRecover, admin.Request{Backend: "a", Wait: true, Rollback: true})
		if len(other) != 1 || other[0].Failure == nil || other[0].Failure.Kind != admin.KindBusy {
			t.Errorf("another request: %+v", other)
		}
		f.Release()
		synctest.Wait()
		if got := r.state("a"); got != raidstorage.StateInSync {
			t.Errorf("a is %v", got)
		}
	})
}

func TestShutdownEndsRecoveries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.hang()
		end := make(chan *admin.Message, 1)
		go func() {
			m, err := r.client.Do(t.Context(), "main", admin.OpRecover, admin.Request{Backend: "a", Wait: true}, nil)
			if err != nil {
				t.Error(err)
			}
			end <- m
		}()
		synctest.Wait()
		if err := r.server.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if m := <-end; m == nil || m.Failure == nil || m.Failure.Kind != admin.KindClosed {
			t.Errorf("the client was told %+v", m)
		}
		if err := <-r.ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		synctest.Wait()
		if got := r.state("a"); got != raidstorage.StateFailed {
			t.Errorf("a is %v", got)
		}
	})
}

func TestPack(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for i := range 3 {
		r.commit(r.mirror, storagetest.Pickled(fmt.Sprint(i)))
	}
	r.must(admin.OpPack, admin.Request{})
	for name, s := range r.stores {
		n := 0
		for _, err := range s.Iterate(t.Context(), 0, raidstorage.MaxTID) {
			if n++; err != nil {
				t.Fatal(err)
			}
		}
		if n != 1 {
			t.Errorf("backend %s holds %d transactions, want 1", name, n)
		}
	}
	r.backend("b").Inject(storagetest.Fault{Call: storagetest.CallStagePack})
	r.commit(r.mirror, storagetest.Pickled("4"))
	lines := r.do(admin.OpPack, admin.Request{NoGC: true})
	if f := lines[len(lines)-1].Failure; f == nil || f.Kind != admin.KindFailed || !strings.Contains(f.Text, "backend b") {
		t.Errorf("a pack that fails: %+v", f)
	}
}

func TestPackKeepsTheLastDays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for i := range 3 {
			r.commit(r.mirror, storagetest.Pickled(fmt.Sprint(i)))
			time.Sleep(24 * time.Hour)
		}
		time.Sleep(time.Hour)
		lines := r.must(admin.OpPack, admin.Request{Days: 2})
		want := "packed to " + raidstorage.TIDFromTime(time.Now().Add(-48*time.Hour)).String()
		if end := lines[len(lines)-1]; end.Text != want {
			t.Errorf("%q, want %q", end.Text, want)
		}
		if h, err := r.mirror.History(t.Context(), 0, 10); err != nil || len(h) != 2 {
			t.Errorf("%d revisions are left, want 2: %v", len(h), err)
		}
	})
}

func TestVerificationTellsWhatDiffers(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	report := &admin.Report{Verify: admin.Verify{Phase: "objects", Objects: 2, Findings: 1, OID: 7}, Backends: []string{"a", "b"},
		Listed: []admin.Finding{{Backend: "a", Kind: "object differs", OID: 7, TID: 9, Wrong: true, Text: "it differs"}}, Degraded: []string{"a"}}
	var asked admin.Request
	r.server.SetVerifier(func(_ context.Context, m *raidstorage.Mirror, q admin.Request, progress func(admin.Verify)) (*admin.Report, error) {
		asked = q
		progress(admin.Verify{Phase: "log", Transactions: 1})
		progress(admin.Verify{Phase: "log", Transactions: 2})
		return report, nil
	})
	q := admin.Request{Blobs: true, KeepAll: true, BytesPerSecond: 1 << 20}
	lines := r.do(admin.OpVerify, q)
	if asked != q {
		t.Errorf("asked for %+v", asked)
	}
	end := lines[len(lines)-1]
	if end.Failure == nil || end.Failure.Kind != admin.KindDifferent || end.Failure.Hint == "" {
		t.Errorf("failure %+v", end.Failure)
	}
	if diff := cmp.Diff(end.Report, report); diff != "" {
		t.Errorf("report (got, want):\n%s", diff)
	}
	r.server.SetVerifier(func(context.Context, *raidstorage.Mirror, admin.Request, func(admin.Verify)) (*admin.Report, error) {
		return &admin.Report{}, nil
	})
	r.must(admin.OpVerify, admin.Request{})
}

func TestVerificationsEndWithTheirClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		var ended error
		r.server.SetVerifier(func(ctx context.Context, _ *raidstorage.Mirror, _ admin.Request, progress func(admin.Verify)) (*admin.Report, error) {
			for i := range int64(1000) { // nobody has to take them
				progress(admin.Verify{Transactions: i})
			}
			<-ctx.Done()
			ended = ctx.Err()
			return nil, ended
		})
		ctx, cancel := context.WithCancel(t.Context())
		var last int64
		_, err := r.client.Do(ctx, "main", admin.OpVerify, admin.Request{}, func(m admin.Message) {
			if m.Verify != nil {
				if last = m.Verify.Transactions; last == 999 {
					second := r.do(admin.OpVerify, admin.Request{})
					if f := second[0].Failure; f == nil || f.Kind != admin.KindBusy {
						t.Errorf("a second one: %+v", second)
					}
					cancel()
				}
			}
		})
		synctest.Wait()
		if !errors.Is(err, context.Canceled) || !errors.Is(ended, context.Canceled) {
			t.Errorf("the client got %v, the verification %v", err, ended)
		}
	})
}

func TestVerifyComparesTheBackends(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.commit(r.mirror, "one")
	tid := r.commit(r.mirror, "two")
	lines := r.must(admin.OpVerify, admin.Request{})
	report := lines[len(lines)-1].Report
	if report == nil || report.Transactions != 2 || report.Objects != 1 || report.Findings != 0 || !slices.Equal(report.Backends, []string{"a", "b"}) {
		t.Errorf("of equal backends: %+v", report)
	}
	r.backend("a").Inject(storagetest.Fault{Call: storagetest.CallNext, Kind: storagetest.Corrupt})
	lines = r.do(admin.OpVerify, admin.Request{KeepAll: true})
	end := lines[len(lines)-1]
	if end.Failure == nil || end.Failure.Kind != admin.KindDifferent || end.Report == nil || end.Report.Findings == 0 || len(end.Report.Listed) == 0 {
		t.Fatalf("of different ones: %+v, %+v", end.Failure, end.Report)
	}
	if f := end.Report.Listed[0]; f.Text == "" || f.TID == 0 || f.TID > admin.TID(tid) {
		t.Errorf("finding %+v", f)
	}
	if got := r.state("a"); got != raidstorage.StateInSync {
		t.Errorf("with KeepAll a is %v", got)
	}
	r.must(admin.OpDisable, admin.Request{Backend: "a"})
	lines = r.must(admin.OpVerify, admin.Request{})
	if end := lines[len(lines)-1]; !strings.HasPrefix(end.Text, "only b is in sync") {
		t.Errorf("with one backend: %q", end.Text)
	}
}
