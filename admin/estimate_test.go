package admin_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/admin"
	"github.com/zeoraid/raidstorage/storagetest"
)

func TestDryRunOfAPack(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for i := range 3 {
		r.commit(r.mirror, storagetest.Pickled(fmt.Sprint(i)))
	}
	lines := r.must(admin.OpPack, admin.Request{DryRun: true})
	e := lines[len(lines)-1].Estimate
	if e == nil || e.Objects != 0 || e.Revisions != 2 || e.Bytes <= e.RevisionBytes || len(e.Classes) != 1 || e.Classes[0].Class != "persistent.mapping.PersistentMapping" {
		t.Fatalf("the estimate is %+v", e)
	}
	if h, err := r.mirror.History(t.Context(), 0, 10); err != nil || len(h) != 3 {
		t.Errorf("%d revisions are left, want 3: %v", len(h), err)
	}
	if lines := r.must(admin.OpPack, admin.Request{DryRun: true, Days: 1}); lines[len(lines)-1].Estimate.Revisions != 0 {
		t.Errorf("of what is older than a day: %+v", lines[len(lines)-1])
	}
	lines = r.do(admin.OpPack, admin.Request{DryRun: true, BytesPerSecond: 1})
	if f := lines[len(lines)-1].Failure; f == nil || f.Kind != admin.KindInvalid {
		t.Errorf("with a rate: %+v", f)
	}
	for _, b := range []string{"a", "b"} {
		r.backend(b).Inject(storagetest.Fault{Call: storagetest.CallEstimatePack})
	}
	lines = r.do(admin.OpPack, admin.Request{DryRun: true})
	if end := lines[len(lines)-1]; end.Failure == nil || end.Failure.Kind != admin.KindFailed || !strings.Contains(end.Failure.Text, "estimate pack") || end.Estimate != nil {
		t.Errorf("one that fails: %+v", end)
	}
	for _, b := range r.mirror.Status().Backends {
		if b.State != raidstorage.StateInSync {
			t.Errorf("backend %s is %v", b.Name, b.State)
		}
	}
}
