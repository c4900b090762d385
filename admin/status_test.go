package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/admin"
	"github.com/zeoraid/raidstorage/zeoserver"
)

func newRecorder() *httptest.ResponseRecorder { return httptest.NewRecorder() }

// served is what a ZEO server tells.
func served() map[string]zeoserver.Status {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return map[string]zeoserver.Status{
		"2": {},
		"1": {Connections: 1, Loads: 2, Stores: 3, Commits: 4, Aborts: 5, ActiveTxns: 6, Conflicts: 7, ConflictsResolved: 8,
			Waiting: 9, LockedSince: at.Add(-10 * time.Second), Start: at, LastTID: 11, Timeout: true},
	}
}

func serving(c *admin.Config) {
	c.Server = served
	c.Clock = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }
}

func TestStatusIsTheMirrors(t *testing.T) {
	t.Parallel()
	r := newRig(t, serving)
	r.commit(r.mirror, "one")
	r.must(admin.OpDisable, admin.Request{Backend: "a", Reason: "two\nlines"})
	tid := r.commit(r.mirror, "two")
	got, err := r.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*got, r.server.Status()); diff != "" {
		t.Errorf("over HTTP (got, want):\n%s", diff)
	}
	// What the mirror itself makes of it, but for how tids are written.
	want := r.mirror.Status()
	m := got.Mirrors[0]
	if m.Name != "main" || m.Condition != "degraded" || m.LastTID != admin.TID(tid) || m.Reason != "a: two lines" || m.Membership.Epoch != want.Membership.Epoch {
		t.Errorf("mirror %+v", m)
	}
	a, b := m.Backends[0], m.Backends[1]
	if a.State != "disabled" || a.LagTransactions != 1 || a.Lag != want.Backends[0].Lag || !strings.Contains(a.Hint, "recover a") || a.Reason != "two lines" {
		t.Errorf("backend a %+v", a)
	}
	last := a.History[len(a.History)-1]
	if len(a.History) != len(want.Backends[0].History) || last.To != "disabled" || last.From != "in sync" {
		t.Errorf("history of a %+v", a.History)
	}
	if b.State != "in sync" || b.Hint != "" || b.Counters != want.Backends[1].Counters || b.LastTID != admin.TID(tid) {
		t.Errorf("backend b %+v", b)
	}
	if s := got.Servers; len(s) != 2 || s[0].Name != "1" || s[0].Conflicts != 7 || s[0].LastTID != 11 || !s[1].LockedSince.IsZero() {
		t.Errorf("servers %+v", s)
	}
	if !sameKeys(t, m, want) {
		t.Error("the JSON's keys are not raidstorage's")
	}
}

// sameKeys tells whether what raidstorage writes can be found under the same names.
func sameKeys(t *testing.T, ours admin.Mirror, theirs raidstorage.Status) bool {
	t.Helper()
	keys := func(v any) (m map[string]any) {
		b, err := json.Marshal(v)
		if err == nil {
			err = json.Unmarshal(b, &m)
		}
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	var within func(path string, a, b any) bool
	within = func(path string, a, b any) bool {
		if list, ok := b.([]any); ok {
			if got, ok := a.([]any); !ok || len(got) != len(list) {
				t.Errorf("%s: %d", path, len(list))
				return false
			} else if len(list) > 0 {
				return within(path, got[0], list[0])
			}
		}
		if fields, ok := b.(map[string]any); ok {
			got, _ := a.(map[string]any)
			for k, v := range fields {
				if path == "/backends/history" && (k == "kind" || k == "condition" || k == "backend") {
					continue // which a history does not need
				}
				if _, ok := got[k]; !ok {
					t.Errorf("%s/%s is not there", path, k)
				}
				within(path+"/"+k, got[k], v)
			}
		}
		return true
	}
	return within("", keys(ours), keys(theirs))
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	if a, text := r.ask("GET", "/readyz", ""); a.StatusCode != 200 || text != "ok\n" {
		t.Errorf("optimal: %s %s", a.Status, text)
	}
	r.must(admin.OpDisable, admin.Request{Backend: "a"})
	if a, _ := r.ask("GET", "/readyz", ""); a.StatusCode != 200 {
		t.Errorf("degraded: %s", a.Status)
	}
	r.setDown()
	r.backend("b").CutOff()
	txn, err := r.mirror.Begin(t.Context(), raidstorage.Meta{})
	if err == nil {
		_, err = txn.Vote(t.Context())
	}
	if err == nil {
		t.Fatal("a vote succeeds without backends")
	}
	if a, text := r.ask("GET", "/readyz", ""); a.StatusCode != 503 || !strings.HasPrefix(text, "mirror main: failed: ") {
		t.Errorf("failed: %s %s", a.Status, text)
	}
	if a, text := r.ask("GET", "/healthz", ""); a.StatusCode != 200 || text != "ok\n" {
		t.Errorf("healthz: %s %s", a.Status, text)
	}
}

func TestMetricsCanBeParsed(t *testing.T) {
	t.Parallel()
	r := newRig(t, serving)
	r.commit(r.mirror, "one")
	f := r.hang() // a recovers, and is one transaction behind
	defer f.Release()
	if c := r.server.Status().Mirrors[0].CatchUp; c.Ratio != 2 || c.MaxDelay != 2*time.Second {
		t.Errorf("status: %+v", c)
	}
	a, text := r.ask("GET", "/metrics", "")
	if a.StatusCode != 200 {
		t.Fatalf("%s: %s", a.Status, text)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for name, family := range families {
		if !strings.HasPrefix(name, "zeoraid_") {
			continue
		}
		if family.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
		for _, m := range family.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetValue())
			}
			got[strings.TrimPrefix(name, "zeoraid_")+" "+strings.Join(labels, " ")] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"mirror_condition recovering main": 1, "mirror_condition optimal main": 0, "mirror_condition degraded main": 0, "mirror_condition failed main": 0,
		"mirror_backends main": 2, "mirror_backends_in_sync main": 1, "mirror_write_quorum main": 1, "mirror_membership_epoch main": 3, "mirror_packing main": 0,
		"mirror_catch_up_waiting main": 0, "mirror_catch_up_delayed_total main": 0, "mirror_catch_up_expired_total main": 0, "mirror_catch_up_delay_seconds_total main": 0,
		"backend_role a main full": 1, "backend_role a main async": 0, "backend_role a main spare": 0, "backend_state a main following": 0,
		"backend_state a main recovering": 1, "backend_state a main in sync": 0, "backend_state b main in sync": 1,
		"backend_lag_transactions a main": 1, "backend_commits_total b main": 2, "backend_commits_total a main": 1, "backend_faults_total a main": 0,
		"recovery_transactions a main": 0, "recovery_bytes a main": 0,
		"zeo_connections 1": 1, "zeo_loads_total 1": 2, "zeo_stores_total 1": 3, "zeo_commits_total 1": 4, "zeo_aborts_total 1": 5,
		"zeo_active_transactions 1": 6, "zeo_conflicts_total 1": 7, "zeo_conflicts_resolved_total 1": 8, "zeo_waiting 1": 9,
		"zeo_lock_time_seconds 1": 10, "zeo_lock_time_seconds 2": 0, "zeo_connections 2": 0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want)
		}
	}
	last := raidstorage.TID(r.mirror.Status().LastTID).Time()
	if v := got["mirror_last_transaction_timestamp_seconds main"]; v != float64(last.UnixMicro())/1e6 {
		t.Errorf("last transaction at %v, want %v", v, last)
	}
	if _, ok := families["go_goroutines"]; !ok {
		t.Error("nothing of the process")
	}
	if _, ok := got["recovery_transactions_to_do a main"]; ok {
		t.Error("what is not known is told")
	}
}

func TestPageEscapes(t *testing.T) {
	t.Parallel()
	r := newRig(t, serving)
	r.must(admin.OpDisable, admin.Request{Backend: "a", Reason: "<script>alert(1)</script>"})
	a, text := r.ask("GET", "/", "")
	if a.StatusCode != 200 || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") {
		t.Errorf("%s %v", a.Status, a.Header)
	}
	for _, want := range []string{`<span class="degraded">degraded</span>`, "disabled", "&lt;script&gt;", "Storages served"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "<script") || !strings.Contains(a.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("there is a script: %v\n%s", a.Header, text)
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]admin.Config{
		"a mirror that is nil":   {Mirrors: map[string]*raidstorage.Mirror{"x": nil}},
		"a mirror without name":  {Mirrors: map[string]*raidstorage.Mirror{"": new(raidstorage.Mirror)}},
		"a negative timeout":     {WriteTimeout: -1},
		"a negative MaxRequests": {MaxRequests: -1},
	} {
		if _, err := admin.New(cfg); !isA[*raidstorage.InvalidError](err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, err := admin.New(admin.Config{}) // no mirror is fine
	if err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); len(st.Mirrors) != 0 || st.Mirrors == nil || st.Servers == nil {
		t.Errorf("%+v", st)
	}
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// Clients that ask something that is no Server.
func TestClientOfOtherServers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		handle http.HandlerFunc
		want   string
	}{
		"another web server":    {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", 404) }, "404"},
		"a page":                {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html></html>") }, ""},
		"a stream without end":  {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"type":"begin"}`+"\n") }, ""},
		"a line without bounds": {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, strings.Repeat("x", 2<<20)) }, ""},
		"silence":               {func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); <-r.Context().Done() }, "no answer in time"},
		"nothing":               {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(c.handle)
			defer s.Close()
			client := admin.Client{URL: s.URL, Patience: 50 * time.Millisecond}
			if name != "silence" {
				client.Patience = time.Minute
			}
			for _, ask := range []func() error{
				func() error {
					st, err := client.Status(t.Context())
					if err == nil && len(st.Mirrors) == 0 { // a line that is JSON
						err = &admin.UnreachableError{Err: errors.New(c.want)}
					}
					return err
				},
				func() error {
					_, err := client.Do(t.Context(), "main", admin.OpPack, admin.Request{}, nil)
					return err
				},
			} {
				if err := ask(); !isA[*admin.UnreachableError](err) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v", err)
				}
			}
		})
	}
	for _, url := range []string{"127.0.0.1:8180", "ftp://x", "http://", "http://127.0.0.1:1"} {
		if _, err := (admin.Client{URL: url}).Status(t.Context()); !isA[*admin.UnreachableError](err) {
			t.Errorf("%s: %v", url, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (admin.Client{}).Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}
