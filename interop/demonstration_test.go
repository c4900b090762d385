//go:build interop

package interop_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestDemonstration is the talk's demonstration, with real processes only: an
// application commits all the time through our server, which mirrors onto two runzeo
// servers. Each of them is stopped in its turn and comes back with an empty database. In
// the talk this failed with the second server.
func TestDemonstration(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	dir := t.TempDir()
	servers := map[string]*runzeo{"1": newRunzeo(t, filepath.Join(dir, "one")), "2": newRunzeo(t, filepath.Join(dir, "two"))}
	for _, s := range servers {
		s.start(ctx, t)
	}
	raid := startRaid(ctx, t, fmt.Sprintf(`
		%%import gocept.zeoraid
		<zeo>
		  address 127.0.0.1:0
		</zeo>
		<admin>
		  address 127.0.0.1:0
		</admin>
		<raidstorage main>
		  state-dir %s
		  <zeoclient 1>
		    server %s
		    storage 1
		  </zeoclient>
		  <zeoclient 2>
		    server %s
		    storage 1
		  </zeoclient>
		</raidstorage>
	`, filepath.Join(dir, "state"), servers["1"].address, servers["2"].address))
	raid.expect(ctx, t, 0, "optimal", "status")

	app := startApplication(ctx, t, raid.zeo, filepath.Join(dir, "application-blobs"))
	app.commitMore(ctx, t, 30)
	for _, name := range []string{"1", "2"} {
		servers[name].stop(ctx, t)
		app.commitMore(ctx, t, 30)
		raid.expect(ctx, t, 2, "degraded", "status")
		if details := raid.expect(ctx, t, 2, "degraded", "details"); !strings.Contains(details, servers[name].address) && !strings.Contains(details, "connection") {
			t.Errorf("details do not say why backend %s is out:\n%s", name, details)
		}
		servers[name].clear(t)
		servers[name].start(ctx, t)
		raid.expect(ctx, t, 0, "", "recover", name, "-wait")
		raid.expect(ctx, t, 0, "optimal", "status")
		app.commitMore(ctx, t, 30)
	}
	result := app.stop(ctx, t)
	raid.expect(ctx, t, 0, "", "verify")
	raid.stop(ctx, t)
	for _, s := range servers {
		s.stop(ctx, t)
	}
	t.Log(pythonOutput(ctx, t, "compare.py", result, servers["1"].dir, servers["2"].dir))
}

// application is the demonstration's application, a Python process.
type application struct {
	*process
	committed atomic.Int64  // what it says it has committed
	news      chan struct{} // it has said more; closed when it has ended
	result    chan string
	dir       string
}

func startApplication(ctx context.Context, t *testing.T, address, blobs string) *application {
	t.Helper()
	host, port, _ := strings.Cut(address, ":")
	a := &application{news: make(chan struct{}, 1), result: make(chan string, 1), dir: t.TempDir()}
	a.process = startPython(ctx, t, filepath.Join("testdata", "application.py"), host, port, "main", blobs)
	go func() {
		defer close(a.news)
		lines := bufio.NewScanner(a.stdout)
		lines.Buffer(nil, 64<<20)
		for lines.Scan() {
			n, err := strconv.ParseInt(lines.Text(), 10, 64)
			if err != nil {
				a.result <- lines.Text()
				continue
			}
			a.committed.Store(n)
			select {
			case a.news <- struct{}{}:
			default:
			}
		}
	}()
	return a
}

// commitMore waits until the application has committed n times more from now on.
func (a *application) commitMore(ctx context.Context, t *testing.T, n int64) {
	t.Helper()
	for goal := a.committed.Load() + n; a.committed.Load() < goal; {
		select {
		case _, ok := <-a.news:
			if !ok {
				t.Fatalf("the application ended: %s", a.output())
			}
		case <-ctx.Done():
			t.Fatalf("the application stands still: %s", a.output())
		}
	}
}

// stop ends the application and returns the file with its own account.
func (a *application) stop(ctx context.Context, t *testing.T) string {
	t.Helper()
	if _, err := a.stdin.Write([]byte("stop\n")); err != nil {
		t.Fatal(err)
	}
	for range a.news {
	}
	a.wait(ctx, t)
	var text string
	select {
	case text = <-a.result:
	default:
		t.Fatalf("the application gave no account: %s", a.output())
	}
	var account struct {
		Commits int
		Errors  []string
		Wrong   []any
	}
	if err := json.Unmarshal([]byte(text), &account); err != nil {
		t.Fatalf("%v: %.1000s", err, text)
	}
	if len(account.Errors)+len(account.Wrong) > 0 || account.Commits == 0 {
		t.Errorf("%d commits, failed: %q, read wrongly: %v", account.Commits, account.Errors, account.Wrong)
	}
	path := filepath.Join(a.dir, "result.json")
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}
