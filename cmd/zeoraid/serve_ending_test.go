package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/zeoclient"
)

// TestServeEndsWithAVoteAndAnOperationUnderWay: a client that votes and never finishes
// uses up the grace; what waits for it at the control ends all the same, and the exit
// status is that of a server that did what it was told.
func TestServeEndsWithAVoteAndAnOperationUnderWay(t *testing.T) {
	t.Parallel()
	for _, verb := range [][]string{{"disable", "2"}, {"pack"}} {
		t.Run(verb[0], func(t *testing.T) {
			t.Parallel()
			serving, end := context.WithCancel(t.Context())
			defer end()
			r, w := io.Pipe()
			var log bytes.Buffer // read when the server has ended
			exit := make(chan int, 1)
			go func() {
				exit <- run(serving, []string{"serve", "-data", t.TempDir(), "-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0", "-grace", "300ms"}, w, &log)
				w.Close()
			}()
			line, _ := bufio.NewReader(r).ReadString('\n') // what was wrong is in the log
			ready := regexp.MustCompile(`zeo (\S+), control (\S+),`).FindStringSubmatch(line)
			if ready == nil {
				t.Fatalf("%q, exit status %d:\n%s", line, <-exit, &log)
			}
			for _, wrong := range [][]string{{"recover", "9"}, {"pack", "-days", "-1"}} {
				if status := run(t.Context(), append(wrong, "-admin", ready[2]), io.Discard, io.Discard); status != exitUnknown {
					t.Errorf("%v: exit status %d", wrong, status)
				}
			}
			voted(t, ready[1])
			begun := make(chan struct{})
			client := make(chan int, 1)
			var out, errs bytes.Buffer
			go func() {
				client <- run(t.Context(), append(verb, "-json", "-admin", ready[2]), io.MultiWriter(&out, &announce{text: `"begin"`, seen: begun}), &errs)
			}()
			<-begun // it waits for the vote's end now
			end()
			select {
			case status := <-exit:
				if status != exitClean {
					t.Errorf("exit status %d:\n%s", status, &log)
				}
			case <-time.After(time.Minute):
				t.Fatal("it does not end")
			}
			if status := <-client; status == exitClean || !strings.Contains(out.String(), `"end"`) {
				t.Errorf("%v: exit status %d\n%s%s", verb, status, &out, &errs)
			}
		})
	}
}

// voted has a client vote that does not go on.
func voted(t *testing.T, address string) {
	t.Helper()
	s, err := zeoclient.Open(t.Context(), zeoclient.Options{Addresses: []string{address}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for oid := range raidstorage.OID(2) { // the first one goes on: there is nothing to pack else
		txn, err := s.Begin(t.Context(), raidstorage.Meta{})
		if err == nil {
			err = txn.Store(t.Context(), oid, 0, []byte(pickled))
		}
		if err == nil {
			_, err = txn.Vote(t.Context())
		}
		if err == nil && oid == 0 {
			_, err = txn.Finish(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// announce tells once that a text was written.
type announce struct {
	text string
	seen chan struct{}
	done bool
}

func (a *announce) Write(b []byte) (int, error) {
	if !a.done && bytes.Contains(b, []byte(a.text)) {
		a.done = true
		close(a.seen)
	}
	return len(b), nil
}
