package admin_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/admin"
)

// reload asks for a reload and returns the end.
func (r *rig) reload(dryRun bool) *admin.Message {
	r.t.Helper()
	end, err := r.client.Reload(r.t.Context(), dryRun, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return end
}

func TestReloadTellsTheDifferenceAndTheReason(t *testing.T) {
	t.Parallel()
	var asked []bool
	difference := []string{"mirror main: add member 3"}
	var refusal error
	r := newRig(t, func(c *admin.Config) {
		c.Reload = func(_ context.Context, dryRun bool) ([]string, error) {
			asked = append(asked, dryRun)
			return difference, refusal
		}
	})
	for _, dryRun := range []bool{true, false} {
		if end := r.reload(dryRun); end.Failure != nil || end.Op != admin.OpReload || !slices.Equal(end.Difference, difference) {
			t.Errorf("dry run %v: %+v", dryRun, end)
		}
	}
	refusal = &raidstorage.UnavailableError{InSync: 1, Need: 2}
	end := r.reload(false)
	if end.Failure == nil || end.Failure.Kind != admin.KindUnavailable || !slices.Equal(end.Difference, difference) {
		t.Errorf("it says %+v", end)
	}
	difference, refusal = nil, nil
	if end := r.reload(false); end.Failure != nil || end.Text != "nothing changes" {
		t.Errorf("it says %+v", end)
	}
	if !slices.Equal(asked, []bool{true, false, false, false}) {
		t.Errorf("it was asked %v", asked)
	}
}

func TestReloadIsRefusedWhereThereIsNothingToReload(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	if end := r.reload(true); end.Failure == nil || end.Failure.Kind != admin.KindUnsupported {
		t.Errorf("it says %+v", end)
	}
	for body, want := range map[string]int{`{"dry_run":1}`: http.StatusBadRequest, `{"backend":"a"}`: http.StatusBadRequest} {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:8180/reload", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Type", "application/json")
		answer, err := r.client.HTTP.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s: %s", body, answer.Status)
		}
	}
	if f := r.do(admin.OpVerify, admin.Request{DryRun: true})[0].Failure; f == nil || f.Kind != admin.KindInvalid {
		t.Errorf("a dry run of a verification: %v", f)
	}
}

// One that takes long says so, and Shutdown ends it.
func TestAReloadThatTakesLongIsFollowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *admin.Config) {
			c.Reload = func(ctx context.Context, _ bool) ([]string, error) {
				select {
				case <-time.After(time.Minute):
					return []string{"x"}, nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
		})
		var lines []admin.Message
		end, err := r.client.Reload(t.Context(), false, func(m admin.Message) { lines = append(lines, m) })
		if err != nil || end.Failure != nil || len(lines) < 10 {
			t.Errorf("%d lines, %+v, %v", len(lines), end, err)
		}
		ended := make(chan *admin.Message, 1)
		go func() {
			end, err := r.client.Reload(t.Context(), false, nil)
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			ended <- end
		}()
		synctest.Wait()
		if err := r.server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if end := <-ended; end == nil || end.Failure == nil || end.Failure.Kind != admin.KindClosed {
			t.Errorf("it says %+v", end)
		}
	})
}

// One that is under way has read the file already: another request does not take its
// result for that of a file that was edited since.
func TestAReloadDoesNotJoinAnother(t *testing.T) {
	t.Parallel()
	begun, end := make(chan bool), make(chan bool)
	r := newRig(t, func(c *admin.Config) {
		c.Reload = func(context.Context, bool) ([]string, error) {
			begun <- true
			<-end
			return []string{"x"}, nil
		}
	})
	for _, dryRun := range []bool{true, false} {
		first := make(chan error, 1)
		go func() {
			_, err := r.client.Reload(t.Context(), dryRun, nil)
			first <- err
		}()
		<-begun
		second, err := r.client.Reload(t.Context(), dryRun, nil)
		if err != nil || second.Failure == nil || second.Failure.Kind != admin.KindBusy {
			t.Errorf("dry run %v: %+v, %v", dryRun, second, err)
		}
		end <- true
		if err := <-first; err != nil {
			t.Error(err)
		}
	}
}
