package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/admin"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// controlled is a mirror of the backends a and b in memory, and its control.
type controlled struct {
	t      *testing.T
	mirror *raidstorage.Mirror
	stores map[string]*memstorage.Storage

	mu     sync.Mutex // guards the fields below
	opened map[string]*storagetest.FaultyStorage
	onOpen func(f *storagetest.FaultyStorage) error
}

// newMirror opens a mirror that the test closes at its end.
func newMirror(t *testing.T, quorum int) *controlled {
	t.Helper()
	c := &controlled{t: t, stores: map[string]*memstorage.Storage{}, opened: map[string]*storagetest.FaultyStorage{}}
	cfg := raidstorage.Config{Membership: &raidstorage.MemoryRegister{}, AutoRecover: raidstorage.AutoRecoverOff,
		WriteQuorum: quorum, Timeouts: raidstorage.Timeouts{Vote: time.Hour, Read: time.Hour}}
	for _, name := range []string{"a", "b"} {
		c.stores[name] = memstorage.New(name)
		cfg.Backends = append(cfg.Backends, raidstorage.Backend{Name: name, Open: func(context.Context) (raidstorage.Storage, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			f := storagetest.Faulty(c.stores[name].Another(name))
			if c.onOpen != nil {
				if err := c.onOpen(f); err != nil {
					return nil, errors.Join(err, f.Close())
				}
			}
			c.opened[name] = f
			return f, nil
		}})
	}
	var err error
	if c.mirror, err = raidstorage.Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.mirror.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		for _, s := range c.stores {
			s.Close()
		}
	})
	return c
}

// control serves mirrors until the test ends, and returns the URL.
func control(t *testing.T, mirrors map[string]*raidstorage.Mirror) (url string) {
	t.Helper()
	s, err := admin.New(admin.Config{Mirrors: mirrors})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		server.Close()
	})
	return server.URL
}

func (c *controlled) opens(f func(*storagetest.FaultyStorage) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onOpen = f
}

func (c *controlled) backend(name string) *storagetest.FaultyStorage {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.opened[name]
}

// controlVerbs runs a verb of the control without processes.
func controlVerbs(ctx context.Context, args ...string) (status int, stdout, stderr string) {
	var out, err bytes.Buffer
	status = run(ctx, args, &out, &err)
	return status, out.String(), err.String()
}

// The exit statuses that monitoring counts on, in each condition.
func TestExitStatusOfConditions(t *testing.T) {
	t.Parallel()
	optimal := newMirror(t, 0)
	degraded := newMirror(t, 0)
	if err := degraded.mirror.Disable(t.Context(), "a", "gone | not back"); err != nil {
		t.Fatal(err)
	}
	failed := newMirror(t, 2)
	failed.opens(func(*storagetest.FaultyStorage) error { return errors.New("connection refused") })
	failed.backend("b").CutOff()
	txn, err := failed.mirror.Begin(t.Context(), raidstorage.Meta{})
	if err == nil {
		_, err = txn.Vote(t.Context())
	}
	if err == nil {
		t.Fatal("a vote succeeded with one of two backends")
	}
	recovering := newMirror(t, 0)
	recovering.startRecovery()

	mirrors := map[string]*raidstorage.Mirror{"ok": optimal.mirror, "bad": degraded.mirror, "worse": failed.mirror, "soon": recovering.mirror}
	all := control(t, mirrors)
	none := control(t, nil)
	for _, c := range []struct {
		url, mirror string
		want        int
		word        string
	}{
		{all, "ok", 0, "optimal"}, {all, "soon", 1, "recovering"}, {all, "bad", 2, "degraded"}, {all, "worse", 2, "failed"},
		{all, "", 2, "failed"}, {all, "other", 3, "unknown"}, {none, "", 3, "unknown"}, {none, "ok", 3, "unknown"},
		{"http://127.0.0.1:1", "", 3, "unknown"}, {"127.0.0.1", "", 3, "unknown"},
	} {
		for _, verb := range []string{"status", "details"} {
			status, out, errs := controlVerbs(t.Context(), verb, "-admin", c.url, "-mirror", c.mirror)
			if status != c.want || !strings.Contains(out, c.word) || (status == 3) != (errs != "") {
				t.Errorf("%s of %q: status %d, want %d\n%s%s", verb, c.mirror, status, c.want, out, errs)
			}
			if verb == "status" && (!strings.HasPrefix(out, c.word+": ") || strings.Count(out, "\n") != 1 || strings.Count(out, "|") > 1) {
				t.Errorf("status of %q is not one line for monitoring: %q", c.mirror, out)
			}
			if status, out, errs := controlVerbs(t.Context(), verb, "-json", "-admin", c.url, "-mirror", c.mirror); status != c.want || errs != "" || !json.Valid([]byte(out)) {
				t.Errorf("%s -json of %q: status %d, want %d\n%s%s", verb, c.mirror, status, c.want, out, errs)
			}
		}
	}
}

// startRecovery lets the recovery of a begin and wait.
func (c *controlled) startRecovery() *storagetest.FaultyStorage {
	c.t.Helper()
	if err := c.mirror.Disable(c.t.Context(), "a", "test"); err != nil {
		c.t.Fatal(err)
	}
	storagetest.Commit(c.t, c.mirror, map[raidstorage.OID]string{0: storagetest.Pickled("x")})
	opened := make(chan *storagetest.FaultyStorage, 1)
	c.opens(func(f *storagetest.FaultyStorage) error {
		f.Inject(storagetest.Fault{Call: storagetest.CallIterate, Kind: storagetest.Hang, Times: 1})
		opened <- f
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.mirror.Recover(ctx, "a") }()
	c.t.Cleanup(func() {
		cancel()
		<-done
	})
	f := <-opened
	if err := f.WaitFor(c.t.Context(), storagetest.CallIterate, 1); err != nil {
		c.t.Fatal(err)
	}
	return f
}

func TestStatusLineAndDetails(t *testing.T) {
	t.Parallel()
	c := newMirror(t, 0)
	storagetest.Commit(t, c.mirror, map[raidstorage.OID]string{0: "one"})
	url := control(t, map[string]*raidstorage.Mirror{"main": c.mirror})
	status, out, errs := controlVerbs(t.Context(), "status", "-admin", url)
	want(t, status, out, errs, "FILE", 0, "optimal: mirror main: 2 of 2 backends in sync | 'main_in_sync'=2;;;0;2\n", "")
	if err := c.mirror.Disable(t.Context(), "a", "disk | broken"); err != nil {
		t.Fatal(err)
	}
	storagetest.Commit(t, c.mirror, map[raidstorage.OID]string{0: "two"})
	status, out, errs = controlVerbs(t.Context(), "status", "-admin", url)
	want(t, status, out, errs, "FILE", 2, "degraded: mirror main: 1 of 2 backends in sync, a disabled (a: disk / broken) | 'main_in_sync'=1;;;0;2\n", "")
	status, out, _ = controlVerbs(t.Context(), "details", "-admin", url)
	for _, text := range []string{
		"mirror main: degraded", "backend a: disabled", "disk | broken", "zeoraid recover a -wait", "1 transaction, ", "in sync -> disabled",
		"backend b: in sync", c.mirror.Status().LastTID.String(), "epoch 2 ", "2 commits",
	} {
		if status != 2 || !strings.Contains(out, text) {
			t.Errorf("status %d, details do not say %q:\n%s", status, text, out)
		}
	}
	status, out, _ = controlVerbs(t.Context(), "details", "-json", "-admin", url)
	var got admin.Status
	if err := json.Unmarshal([]byte(out), &got); err != nil || status != 2 {
		t.Fatalf("status %d: %v", status, err)
	}
	client, err := admin.Client{URL: url}.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got.Time, client.Time = time.Time{}, time.Time{}
	if diff := cmp.Diff(&got, client); diff != "" {
		t.Errorf("JSON (got, want):\n%s", diff)
	}
}

// One that follows is told of with how far it is behind, and counts for nothing.
func TestStatusLineAndDetailsOfAFollower(t *testing.T) {
	t.Parallel()
	c := newMirror(t, 0)
	url := control(t, map[string]*raidstorage.Mirror{"main": c.mirror})
	if err := c.mirror.Demote(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	c.opens(func(*storagetest.FaultyStorage) error { return errors.New("connection refused") })
	c.backend("b").CutOff()
	storagetest.Commit(t, c.mirror, map[raidstorage.OID]string{0: "one"})
	events := c.mirror.Watch(t.Context())
	for c.mirror.Status().Backends[1].State != raidstorage.StateFailed {
		<-events
	}
	status, out, errs := controlVerbs(t.Context(), "status", "-admin", url)
	// It has nothing, so that no time is known between its last transaction and this one.
	want(t, status, out, errs, "FILE", 0, "optimal: mirror main: 1 of 1 backend in sync, b failed, 1 transaction, 0.0 MiB, 0s behind | 'main_in_sync'=1;;;0;1 'main_b_lag'=0.000s\n", "")
	status, out, _ = controlVerbs(t.Context(), "details", "-admin", url)
	for _, text := range []string{"backend b: failed", "async, configured as full", "1 transaction, 0.0 MiB, 0s behind", "1 of 1 backend", "injected fault", "zeoraid recover b"} {
		if status != 0 || !strings.Contains(out, text) {
			t.Errorf("status %d, details do not say %q:\n%s", status, text, out)
		}
	}
}

// Each verb that does something, well and badly.
func TestVerbsAndTheirExitStatus(t *testing.T) {
	t.Parallel()
	c := newMirror(t, 0)
	storagetest.Commit(t, c.mirror, map[raidstorage.OID]string{0: storagetest.Pickled("one")})
	url := control(t, map[string]*raidstorage.Mirror{"main": c.mirror})
	for _, step := range []struct {
		args     string
		want     int
		out, err string // parts
		before   func()
	}{
		{args: "recover a -wait", want: 0, out: "recover: a is in sync\n"},
		{args: "recover z", want: 3, err: `mirror main has no backend "z", but a, b`},
		{args: "demote b", want: 0, out: "demote: b does not count any more\n"},
		{args: "demote a", want: 2, err: "0 backends in sync, 1 needed"},
		{args: "promote b -wait", want: 0, out: "promote: b is full, and in sync\n"},
		{args: "promote -wait z", want: 3, err: `mirror main has no backend "z", but a, b`},
		{args: "demote", want: 3, err: "usage: zeoraid demote"},
		{args: "disable z", want: 3, err: `mirror main has no backend "z", but a, b`},
		{args: "disable a -reason maintenance", want: 0, out: "disable: a is disabled\n"},
		{args: "disable b", want: 2, err: "hint: "},
		{args: "recover -wait a", want: 0, out: "recover: a is in sync\n"},
		{args: "disable -reason x -- a", want: 0, out: "disable: a is disabled\n"},
		{args: "recover a -wait", want: 2, err: "zeoraid recover a -rollback", before: func() {
			storagetest.Commit(t, c.stores["a"], map[raidstorage.OID]string{1: storagetest.Pickled("astray")})
		}},
		{args: "recover a -rollback -wait -full", want: 0, out: "recover: a is in sync\n"},
		{args: "verify", want: 0, out: "1 transaction and 1 object of 2 backends compared\nverify: the backends hold the same: a, b\n"},
		{args: "pack -days 3", want: 0, out: "pack: packed to "},
		{args: "pack -no-gc -quiet", want: 0, out: "pack: packed to "},
		{args: "verify -keep-all -rate 100", want: 2, out: "backend a: ", err: "the backends differ", before: func() {
			c.backend("a").Inject(storagetest.Fault{Call: storagetest.CallNext, Kind: storagetest.Corrupt})
		}},
		{args: "pack", want: 2, err: "backend b: pack", before: func() {
			c.backend("a").Clear()
			c.backend("b").Inject(storagetest.Fault{Call: storagetest.CallStagePack})
		}},
		{args: "pack -mirror other", want: 3, err: `no mirror "other", but main`},
		{args: "disable a", want: 0, out: "a is disabled"},
		{args: "recover a -wait", want: 2, err: "connection refused", before: func() {
			c.opens(func(*storagetest.FaultyStorage) error { return errors.New("connection refused") })
		}},
	} {
		if step.before != nil {
			step.before()
		}
		args := append(strings.Fields(step.args), "-admin", url)
		if strings.Contains(step.args, "--") {
			args = slices.Insert(strings.Fields(step.args), 1, "-admin", url)
		}
		status, out, errs := controlVerbs(t.Context(), args...)
		if status != step.want || !strings.Contains(out, step.out) || !strings.Contains(errs, step.err) || step.want == 0 && errs != "" {
			t.Errorf("%s: status %d, want %d\n%s%s", step.args, status, step.want, out, errs)
		}
	}
}

func TestVerbsInJSON(t *testing.T) {
	t.Parallel()
	c := newMirror(t, 0)
	storagetest.Commit(t, c.mirror, map[raidstorage.OID]string{0: storagetest.Pickled("one")})
	url := control(t, map[string]*raidstorage.Mirror{"main": c.mirror})
	for _, step := range []struct {
		args string
		want int
		kind admin.Kind
	}{
		{"disable a", 0, ""}, {"disable b", 2, admin.KindUnavailable}, {"recover a -wait", 0, ""}, {"verify", 0, ""}, {"pack", 0, ""},
		{"recover z", 3, admin.KindInvalid}, {"pack -mirror z", 3, "unknown"},
	} {
		status, out, errs := controlVerbs(t.Context(), append(strings.Fields(step.args), "-json", "-admin", url)...)
		var last admin.Message
		for line := range strings.Lines(out) {
			last = admin.Message{}
			if err := json.Unmarshal([]byte(line), &last); err != nil {
				t.Errorf("%s: %q: %v", step.args, line, err)
			}
		}
		kind := admin.Kind("")
		if last.Failure != nil {
			kind = last.Failure.Kind
		}
		if status != step.want || kind != step.kind || errs != "" || status != 3 && last.Type != admin.TypeEnd {
			t.Errorf("%s: status %d, want %d, %+v\n%s", step.args, status, step.want, last, errs)
		}
	}
}

// recover without -wait ends while the recovery goes on, with it when it has ended, also
// if another one has begun it; an interruption ends the command only.
func TestRecoverWaitsIfAsked(t *testing.T) {
	t.Parallel()
	c := newMirror(t, 0)
	url := control(t, map[string]*raidstorage.Mirror{"main": c.mirror})
	f := c.startRecovery() // not by the control: as automatic ones
	status, out, errs := controlVerbs(t.Context(), "recover", "-admin", url, "a")
	want(t, status, out, errs, "FILE", 0, "recover: it goes on\n", "")
	if status, out, _ := controlVerbs(t.Context(), "status", "-admin", url); status != 1 || !strings.HasPrefix(out, "recovering: ") {
		t.Errorf("meanwhile: status %d, %s", status, out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	watched := &watchedWriter{text: "it was begun already", seen: cancel}
	e := env{stdout: new(bytes.Buffer), stderr: watched, now: time.Now}
	if status := e.recover(ctx, []string{"a", "-wait", "-admin", url}); status != 3 || !strings.Contains(watched.String(), "interrupted; what was begun goes on") {
		t.Errorf("interrupted: status %d: %s", status, watched)
	}
	watched = &watchedWriter{text: "it was begun already", seen: f.Release}
	e = env{stdout: new(bytes.Buffer), stderr: watched, now: time.Now}
	if status := e.recover(t.Context(), []string{"-wait", "a", "-admin", url}); status != 0 {
		t.Errorf("waiting: status %d: %s", status, watched)
	}
	if st := c.mirror.Status(); st.Condition != raidstorage.Optimal {
		t.Errorf("it is %v", st.Condition)
	}
}

// watchedWriter calls seen once text was written.
type watchedWriter struct {
	bytes.Buffer
	text string
	seen func()
}

func (w *watchedWriter) Write(b []byte) (int, error) {
	n, err := w.Buffer.Write(b)
	if w.seen != nil && strings.Contains(w.String(), w.text) {
		w.seen()
		w.seen = nil
	}
	return n, err
}

func TestSeveralMirrors(t *testing.T) {
	t.Parallel()
	one, two := newMirror(t, 0), newMirror(t, 0)
	if err := two.mirror.Disable(t.Context(), "b", "test"); err != nil {
		t.Fatal(err)
	}
	url := control(t, map[string]*raidstorage.Mirror{"one": one.mirror, "it's two": two.mirror})
	status, out, errs := controlVerbs(t.Context(), "status", "-admin", url)
	want(t, status, out, errs, "FILE", 2, "degraded: mirror it's two is degraded: 1 of 2 backends in sync, b disabled (b: test); "+
		"mirror one is optimal: 2 of 2 backends in sync | 'it_s_two_in_sync'=1;;;0;2 'one_in_sync'=2;;;0;2\n", "")
	if status, _, errs := controlVerbs(t.Context(), "recover", "b", "-admin", url); status != 3 || !strings.Contains(errs, "choose one with -mirror: it's two, one") {
		t.Errorf("without -mirror: status %d: %s", status, errs)
	}
	if status, _, errs := controlVerbs(t.Context(), "recover", "b", "-wait", "-mirror", "it's two", "-admin", url); status != 0 {
		t.Errorf("with -mirror: status %d: %s", status, errs)
	}
}

func TestWrongUsageOfControlVerbs(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"status x", "details x", "recover", "recover a b", "recover -wait", "disable", "disable a b", "disable -reason", "pack 3", "pack -days x",
		"verify x", "verify -no", "status -timeout x", "recover a -no",
	} {
		if status, out, err := command(t, strings.Fields(args)...); status != 3 || out != "" || !strings.Contains(err, "usage: zeoraid ") {
			t.Errorf("%s: status %d\n%s%s", args, status, out, err)
		}
	}
	if status, _, err := command(t, "verify", "-rate", "-1"); status != 3 || !strings.Contains(err, "-rate") {
		t.Errorf("a negative rate: status %d: %s", status, err)
	}
	for _, verb := range []string{"status", "details", "recover", "disable", "pack", "verify"} {
		if status, out, err := command(t, verb, "-h"); status != 0 || err != "" || !strings.Contains(out, "usage: zeoraid "+verb) || !strings.Contains(out, "Exit status: 0 ") {
			t.Errorf("%s -h: status %d\n%s%s", verb, status, out, err)
		}
	}
}

func TestFlagsMayStandAnywhere(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		wait bool
		want string // "" for wrong usage
	}{
		{"a", false, "a"}, {"a -wait", true, "a"}, {"-wait a", true, "a"}, {"-wait=true a", true, "a"}, {"-- a", false, "a"}, {"-- -wait", false, "-wait"},
		{"-wait -- -a", true, "-a"}, {"a --", false, "a"}, {"", false, ""}, {"-wait", false, ""}, {"a b", false, ""}, {"a -- -wait", false, ""}, {"a -wait b", false, ""},
	} {
		e := env{stdout: new(bytes.Buffer), stderr: new(bytes.Buffer), now: time.Now}
		set := e.flags("zeoraid x", "", "")
		set.Init("x", flag.ContinueOnError)
		set.Usage = func() {}
		wait := set.Bool("wait", false, "")
		rest, status, ok := e.parseMixed(set, strings.Fields(c.args), 1, 1)
		if ok != (c.want != "") || ok && (rest[0] != c.want || *wait != c.wait) || !ok && status != exitUnknown {
			t.Errorf("%q: %v, wait %v, status %d, %v", c.args, rest, *wait, status, ok)
		}
	}
}

func TestProgressOfRecovery(t *testing.T) {
	t.Parallel()
	message := func(bytes, toDo int64) admin.Message {
		return admin.Message{Type: admin.TypeProgress, Text: "copying", Recovery: &admin.Recovery{Bytes: bytes, BytesToDo: toDo, Rate: 2 << 20, Left: 61 * time.Second}}
	}
	packs := func(phase string, packed ...string) admin.Message {
		return admin.Message{Type: admin.TypeProgress, Text: "packing", Pack: &admin.Pack{Phase: phase, Packed: packed}}
	}
	for _, c := range []struct {
		terminal bool
		message  admin.Message
		want     string
	}{
		{true, message(50<<20, 150<<20), "\r\x1b[Krecover a: [#######.......................] 25% of 200.0 MiB, 2.0 MiB/s, 1m1s left\r\x1b[K"},
		{true, message(200<<20, 0), "\r\x1b[Krecover a: [##############################] 100% of 200.0 MiB, 2.0 MiB/s, 1m1s left\r\x1b[K"},
		{false, message(50<<20, 150<<20), "recover a: 25% of 200.0 MiB, 2.0 MiB/s, 1m1s left\n"},
		{false, message(50<<20, -1), "recover a: copying\n"},
		{true, message(50<<20, -1), "\r\x1b[Krecover a: copying\r\x1b[K"},
		{true, packs("wait"), "\r\x1b[Krecover a: [..............................] packing\r\x1b[K"},
		{true, packs("pack", "x"), "\r\x1b[Krecover a: [###############...............] packing\r\x1b[K"},
		{true, packs("compare", "x", "y"), "\r\x1b[Krecover a: [####################..........] packing\r\x1b[K"},
		{false, packs("pack", "x"), "recover a: packing\n"},
		{true, admin.Message{Type: admin.TypeProgress, Text: "comparing", Verify: &admin.Verify{Phase: "objects"}}, "\r\x1b[Krecover a: [###############...............] comparing\r\x1b[K"},
		{false, message(0, 0), "recover a: copying\n"},
		{false, admin.Message{Type: admin.TypeEnd, Text: "done"}, ""},
		{false, admin.Message{Type: admin.TypeBegin, Joined: true}, "recover a: it was begun already\n"},
	} {
		var out bytes.Buffer
		now := time.Unix(0, 0)
		e := env{stderr: &out, terminal: c.terminal, now: func() time.Time { return now }}
		p := e.progress("recover a", false)
		now = now.Add(time.Minute)
		p.message(c.message)
		p.message(c.message)
		p.end()
		if got := out.String(); got != c.want && got != c.want+c.want {
			t.Errorf("terminal %v, %+v: %q, want %q", c.terminal, c.message, got, c.want)
		}
	}
}

// A verification has no number to go by, but the times of the transactions.
func TestProgressOfVerification(t *testing.T) {
	t.Parallel()
	p := env{terminal: true, now: time.Now}.progress("verify", false)
	for _, c := range []struct {
		tid  admin.TID
		want float64
	}{{1000, 0}, {1500, 0.25}, {2000, 0.5}} {
		got, known := p.share(admin.Message{Verify: &admin.Verify{Phase: "log", TID: c.tid, Through: 2000}})
		if got != c.want || !known {
			t.Errorf("at %d: %v, %v", c.tid, got, known)
		}
	}
	if _, known := p.share(admin.Message{}); known {
		t.Error("nothing is known of nothing")
	}
}
