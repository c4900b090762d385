package admin_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/admin"
	"github.com/zeoraid/raidstorage/storagetest"
)

// ask makes a request by hand.
func (r *rig) ask(method, path, body string, header ...string) (*http.Response, string) {
	r.t.Helper()
	q, err := http.NewRequestWithContext(r.t.Context(), method, r.client.URL+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if method == http.MethodPost {
		q.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	a, err := r.client.HTTP.Do(q)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a, string(text)
}

func TestWhatIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.commit(r.mirror, "one")
	const disable, good = "/mirrors/main/disable", `{"backend":"a"}`
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		want                     int
	}{
		{"control by GET", "GET", disable + "?backend=a", "", nil, 405},
		{"control by PUT", "PUT", disable, good, nil, 405},
		{"status by POST", "POST", "/status", good, nil, 405},
		{"another page", "GET", "/nothing", "", nil, 404},
		{"another operation", "POST", "/mirrors/main/destroy", good, nil, 404},
		{"another mirror", "POST", "/mirrors/other/disable", good, nil, 404},
		{"the status of another mirror", "GET", "/status?mirror=other", "", nil, 404},
		{"another backend", "POST", disable, `{"backend":"z"}`, nil, 404},
		{"a page of another site", "POST", disable, good, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"a page of another site, in an old browser", "POST", disable, good, []string{"Origin", "http://example.org"}, 403},
		{"a page whose name was made to lead here", "POST", disable, good, []string{"Origin", "http://127.0.0.1.example.org", "Host", "127.0.0.1.example.org", "Sec-Fetch-Site", "same-origin"}, 403},
		{"a page of no site", "POST", disable, good, []string{"Origin", "null", "Sec-Fetch-Site", "same-origin"}, 403},
		{"a form", "POST", disable, good, []string{"Content-Type", "text/plain"}, 415},
		{"no body", "POST", disable, "", nil, 400},
		{"no JSON", "POST", disable, "backend=a", nil, 400},
		{"half an object", "POST", disable, `{"backend":`, nil, 400},
		{"two objects", "POST", disable, good + good, nil, 400},
		{"a list", "POST", disable, "[]", nil, 400},
		{"null", "POST", disable, "null", nil, 400},
		{"an unknown field", "POST", disable, `{"backend":"a","force":true}`, nil, 400},
		{"a huge body", "POST", disable, `{"backend":"` + strings.Repeat("a", 1<<20) + `"}`, nil, 413},
		{"a huge body after the object", "POST", disable, good + strings.Repeat(" ", 1<<20), nil, 413},
		{"deep nesting", "POST", disable, strings.Repeat("[", 10000), nil, 400},
		{"a long reason", "POST", disable, `{"backend":"a","reason":"` + strings.Repeat("a", 1001) + `"}`, nil, 400},
		{"disable with recover's options", "POST", disable, `{"backend":"a","rollback":true}`, nil, 400},
		{"recover with a reason", "POST", "/mirrors/main/recover", `{"backend":"a","reason":"x"}`, nil, 400},
		{"pack of a backend", "POST", "/mirrors/main/pack", good, nil, 400},
		{"pack into the future", "POST", "/mirrors/main/pack", `{"days":-1}`, nil, 400},
		{"pack before the past", "POST", "/mirrors/main/pack", `{"days":1000000000}`, nil, 400},
		{"verify with days", "POST", "/mirrors/main/verify", `{"days":1}`, nil, 400},
		{"pack backwards", "POST", "/mirrors/main/pack", `{"bytes_per_second":-1}`, nil, 400},
		{"recover at a rate", "POST", "/mirrors/main/recover", `{"backend":"a","bytes_per_second":1}`, nil, 400},
		{"verify backwards", "POST", "/mirrors/main/verify", `{"bytes_per_second":-1}`, nil, 400},
		{"pack with verify's options", "POST", "/mirrors/main/pack", `{"keep_all":true}`, nil, 400},
	} {
		a, text := r.ask(c.method, c.path, c.body, c.header...)
		if a.StatusCode != c.want {
			t.Errorf("%s: %s, want %d: %.200s", c.name, a.Status, c.want, text)
		}
		if strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") {
			var m admin.Message
			if err := json.Unmarshal([]byte(text), &m); err != nil || m.Failure == nil || m.Failure.Text == "" || m.Failure.Kind == "" {
				t.Errorf("%s: %q (%v)", c.name, text, err)
			}
		}
	}
	if st := r.mirror.Status(); st.Condition != raidstorage.Optimal || st.Membership.Epoch != 1 {
		t.Errorf("something was done: %v, epoch %d", st.Condition, st.Membership.Epoch)
	}
	// The same from where it may come.
	for _, header := range [][]string{nil, {"Origin", "http://127.0.0.1:8180", "Sec-Fetch-Site", "same-origin"}, {"Content-Type", "application/json; charset=utf-8"}} {
		if a, text := r.ask("POST", "/mirrors/main/recover", good, header...); a.StatusCode != 200 || a.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("with %v: %s %s", header, a.Status, text)
		}
	}
}

// A client that asks and never reads is given up; the recovery it asked for is made.
func TestClientThatNeverReads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *admin.Config) { c.MaxRequests = 1 })
		r.commit(r.mirror, "one")
		r.must(admin.OpDisable, admin.Request{Backend: "a"})
		conn, err := r.net.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		body := `{"backend":"a","wait":true}`
		if _, err := io.WriteString(conn, "POST /mirrors/main/recover HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 27\r\n\r\n"+body); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := r.state("a"); got != raidstorage.StateInSync {
			t.Errorf("a is %v", got)
		}
		if a, text := r.ask("POST", "/mirrors/main/recover", body); a.StatusCode != 503 {
			t.Errorf("a second request: %s %s", a.Status, text)
		}
		if a, text := r.ask("GET", "/healthz", ""); a.StatusCode != 200 || text != "ok\n" {
			t.Errorf("its health meanwhile: %s %s", a.Status, text)
		}
		time.Sleep(10 * time.Second) // Config.WriteTimeout, in the bubble's time
		synctest.Wait()
		if a, text := r.ask("POST", "/mirrors/main/recover", body); a.StatusCode != 200 {
			t.Errorf("afterwards: %s %s", a.Status, text)
		}
	})
}

// One that reads slowly misses progress and is told how much.
func TestSlowClientMissesProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.must(admin.OpDisable, admin.Request{Backend: "a"})
		for i := range 1200 { // longer than the client is slow: who has missed some is told with the next one
			storagetest.Commit(t, r.mirror, map[raidstorage.OID]string{raidstorage.OID(i): "y"})
		}
		r.whenOpened(func(_ string, f *storagetest.FaultyStorage) { // progress is told every 100 ms at most
			f.Inject(storagetest.Fault{Call: storagetest.CallRestore, Kind: storagetest.Observe, Delay: 110 * time.Millisecond})
		})
		missed, lines := 0, 0
		_, err := r.client.Do(t.Context(), "main", admin.OpRecover, admin.Request{Backend: "a", Wait: true}, func(m admin.Message) {
			missed += m.Missed
			if lines++; lines < 10 {
				time.Sleep(9 * time.Second)
			}
		})
		if err != nil || missed == 0 {
			t.Errorf("missed %d, %d lines: %v", missed, lines, err)
		}
		if got := r.state("a"); got != raidstorage.StateInSync {
			t.Errorf("a is %v", got)
		}
	})
}

// A request that never ends is ended.
func TestHalfRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for _, half := range []string{"", "GET /stat", "GET /status HTTP/1.1\r\nHost: x\r\n",
			"POST /mirrors/main/pack HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"} {
			conn, err := r.net.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, half); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			io.Copy(io.Discard, conn) // until the server closes it
			if took := time.Since(start); took > 31*time.Second {
				t.Errorf("%q: closed after %v", half, took)
			}
			conn.Close()
		}
		huge := "GET / HTTP/1.1\r\nHost: x\r\n"
		conn, err := r.net.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go io.Copy(conn, io.MultiReader(strings.NewReader(huge), bytes.NewReader(bytes.Repeat([]byte("a: b\r\n"), 1<<20))))
		a, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || a.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("a huge header: %+v, %v", a, err)
		}
	})
}

func TestAfterShutdown(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	if err := r.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.server.Shutdown(t.Context()); err != nil {
		t.Errorf("again: %v", err)
	}
	handled := func(method, path, body string) int {
		w := newRecorder()
		q, err := http.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Type", "application/json")
		r.server.Handler().ServeHTTP(w, q)
		return w.Code
	}
	got := []int{handled("POST", "/mirrors/main/disable", `{"backend":"a"}`), handled("GET", "/readyz", ""), handled("GET", "/healthz", ""), handled("GET", "/status", "")}
	if diff := cmp.Diff(got, []int{503, 503, 200, 200}); diff != "" {
		t.Errorf("(got, want):\n%s", diff)
	}
	if _, err := r.client.Status(t.Context()); err == nil {
		t.Error("it still serves")
	}
}
