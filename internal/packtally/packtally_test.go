package packtally

import (
	"fmt"
	"testing"

	"github.com/zeoraid/raidstorage"
)

// However many classes hostile records name, the answer is bounded, names the largest
// that were told apart, and adds up.
func TestManyClassesAreBounded(t *testing.T) {
	t.Parallel()
	var tally Tally
	const n = maxTracked + 100
	for i := range n {
		size := int64(1)
		if i == 7 {
			size = 50
		}
		tally.Drop(i%2 == 0, size, fmt.Appendf(nil, "\x80\x03cm\nC%d\n.N.", i))
	}
	if len(tally.classes) != maxTracked {
		t.Errorf("%d classes are told apart", len(tally.classes))
	}
	e := tally.Estimate(5, 6)
	if len(e.Classes) != raidstorage.MaxPackClasses+1 || e.Through != 5 || e.Bytes != 6 {
		t.Fatalf("%d classes, %+v", len(e.Classes), e)
	}
	if first := e.Classes[0]; first != (raidstorage.PackClass{Class: "m.C7", Revisions: 1, Bytes: 50}) {
		t.Errorf("the first class is %+v", first)
	}
	var records, bytes int64
	for _, c := range e.Classes {
		records, bytes = records+c.Objects+c.Revisions, bytes+c.Bytes
	}
	if last := e.Classes[raidstorage.MaxPackClasses]; last.Class != raidstorage.PackClassOther || records != n || bytes != n+49 {
		t.Errorf("the last class is %+v, all add up to %d records and %d bytes", last, records, bytes)
	}
}
