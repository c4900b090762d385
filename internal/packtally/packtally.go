// Package packtally adds up what a pack would drop, for storages that implement
// raidstorage.PackEstimator.
package packtally

import (
	"cmp"
	"slices"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/pickleref"
)

// maxTracked bounds the classes that are told apart, as hostile records may each name
// another one: about 2 MiB. What comes after so many goes to raidstorage.PackClassOther.
const maxTracked = 1 << 12

// Tally adds up records. The zero value is empty. It is for one goroutine.
type Tally struct {
	sum     raidstorage.PackEstimate
	classes map[string]*raidstorage.PackClass
	other   raidstorage.PackClass
}

// Drop counts a record that goes. garbage tells that it is the last one of an object of
// which nothing stays; size is that of its own data in bytes; record is its data, the
// first pickleref.MaxClassPickle bytes are enough, nil if it has none.
func (t *Tally) Drop(garbage bool, size int64, record []byte) {
	class := t.class(record)
	if garbage {
		t.sum.Objects++
		t.sum.ObjectBytes += size
		class.Objects++
	} else {
		t.sum.Revisions++
		t.sum.RevisionBytes += size
		class.Revisions++
	}
	class.Bytes += size
}

func (t *Tally) class(record []byte) *raidstorage.PackClass {
	name := raidstorage.PackClassDeletion
	if record != nil {
		if name = pickleref.ClassName(record); name == "" {
			name = raidstorage.PackClassUnknown
		}
	}
	class := t.classes[name]
	switch {
	case class != nil:
		return class
	case len(t.classes) >= maxTracked:
		return &t.other
	case t.classes == nil:
		t.classes = make(map[string]*raidstorage.PackClass)
	}
	class = &raidstorage.PackClass{Class: name}
	t.classes[name] = class
	return class
}

// Estimate returns the sums, for a pack to through by which the storage becomes smaller by
// bytes.
func (t *Tally) Estimate(through raidstorage.TID, bytes int64) raidstorage.PackEstimate {
	e := t.sum
	e.Through, e.Bytes = through, bytes
	for _, class := range t.classes {
		e.Classes = append(e.Classes, *class)
	}
	slices.SortFunc(e.Classes, func(a, b raidstorage.PackClass) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Class, b.Class))
	})
	other := t.other
	other.Class = raidstorage.PackClassOther
	for _, class := range e.Classes[min(len(e.Classes), raidstorage.MaxPackClasses):] {
		other.Objects += class.Objects
		other.Revisions += class.Revisions
		other.Bytes += class.Bytes
	}
	e.Classes = slices.Clip(e.Classes[:min(len(e.Classes), raidstorage.MaxPackClasses)])
	if other.Objects+other.Revisions > 0 {
		e.Classes = append(e.Classes, other)
	}
	return e
}
