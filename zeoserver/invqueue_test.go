package zeoserver

import (
	"testing"

	"github.com/zeoraid/raidstorage"
)

func TestTheInvalidationQueueIsBoundedInObjects(t *testing.T) {
	t.Parallel()
	q := invalidationQueue{size: 100, most: 10}
	q.reset(1)
	add := func(tid raidstorage.TID, n int) {
		oids := make([]raidstorage.OID, n)
		for i := range oids {
			oids[i] = raidstorage.OID(int(tid)*100 + i)
		}
		q.add(tid, oids)
	}
	for tid := raidstorage.TID(2); tid < 10; tid++ {
		add(tid, 3)
	}
	if len(q.entries) != 3 || q.oids != 9 || q.base != 6 {
		t.Errorf("%d entries, %d objects, from %v on", len(q.entries), q.oids, q.base)
	}
	if oids, ok := q.since(7); !ok || len(oids) != 6 {
		t.Errorf("since 7: %v %v", oids, ok)
	}
	if _, ok := q.since(5); ok {
		t.Error("it claims to know what was forgotten")
	}
	add(10, 11) // more than all: clients that miss it start anew
	if _, ok := q.since(9); ok || len(q.entries) != 0 {
		t.Error("a transaction of too many objects was kept")
	}
	if oids, ok := q.since(10); !ok || len(oids) != 0 {
		t.Errorf("since 10: %v %v", oids, ok)
	}
}
