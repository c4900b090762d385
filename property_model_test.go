package raidstorage_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/zeoraid/raidstorage"
)

// The model that the histories of the property test are compared with: a list of
// transactions, and what each has become of.

// propFate is what became of a transaction, as far as anybody can know.
type propFate int

const (
	propPending propFate = iota // neither acknowledged nor given up yet
	propUnknown                 // OutcomeUnknownError, or the mirror died in between
	propIn                      // acknowledged, or shown: for ever there
	propOut                     // aborted, refused, or settled as not there: never seen
)

func (f propFate) String() string { return [...]string{"pending", "unknown", "in", "out"}[f] }

// propRec is one object's part of a transaction; nil data is a deletion or an
// undone creation.
type propRec struct {
	oid     raidstorage.OID
	data    []byte
	dataTID raidstorage.TID // see raidstorage.Record
}

// propTxn is a transaction. Its id is its description in the logs, which tells
// transactions apart whatever tids they got.
type propTxn struct {
	id   string
	fate propFate
	tid  raidstorage.TID // 0 while nobody has told
	gen  int             // which mirror made it
	recs []propRec
	// after is what its vote told to be the last transaction: perhaps one that is in
	// flight, whose caller has left (L7).
	after raidstorage.TID
}

// propRev is a revision of an object.
type propRev struct {
	propRec
	tid raidstorage.TID
}

// propModel holds what a correct mirror must say.
type propModel struct {
	all  map[string]*propTxn
	log  []*propTxn // those that are in, by tid
	revs map[raidstorage.OID][]propRev
	oids []raidstorage.OID // with revisions, in the order of the first
	// greatest is the greatest tid that any transaction got, given is every oid
	// handed out.
	greatest raidstorage.TID
	given    map[raidstorage.OID]bool
	handed   []raidstorage.OID
}

func newPropModel() *propModel {
	return &propModel{all: make(map[string]*propTxn), revs: make(map[raidstorage.OID][]propRev),
		given: make(map[raidstorage.OID]bool)}
}

// last is the visible tid that the model requires at least.
func (m *propModel) last() raidstorage.TID {
	if len(m.log) == 0 {
		return 0
	}
	return m.log[len(m.log)-1].tid
}

// settleIn makes t part of what everybody sees.
func (m *propModel) settleIn(t *propTxn) error {
	switch {
	case t.fate == propIn:
		return nil
	case t.fate == propOut:
		return fmt.Errorf("%s was aborted or given up, and is now committed as %v", t.id, t.tid)
	case t.tid <= m.last():
		return fmt.Errorf("%s got tid %v, not after the last one %v", t.id, t.tid, m.last())
	}
	t.fate = propIn
	m.log = append(m.log, t)
	for _, r := range t.recs {
		if m.revs[r.oid] == nil {
			m.oids = append(m.oids, r.oid)
		}
		m.revs[r.oid] = append(m.revs[r.oid], propRev{r, t.tid})
	}
	return nil
}

// unsettled lists the transactions whose outcome is unknown, by id.
func (m *propModel) unsettled() []*propTxn {
	var all []*propTxn
	for _, t := range m.all {
		if t.fate == propUnknown {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b *propTxn) int { return strings.Compare(a.id, b.id) })
	return all
}

// inFlight returns the transaction of mirror gen with this tid whose caller was told that
// its outcome is unknown, nil if there is none.
func (m *propModel) inFlight(tid raidstorage.TID, gen int) *propTxn {
	for _, t := range m.all {
		if t.fate == propUnknown && t.tid == tid && t.gen == gen {
			return t
		}
	}
	return nil
}

// overlap tells whether the transaction changes what changes are about.
func (t *propTxn) overlap(changes []propChange) bool {
	return slices.ContainsFunc(t.recs, func(r propRec) bool {
		return slices.ContainsFunc(changes, func(c propChange) bool { return c.kind == "undo" || c.oid == r.oid })
	})
}

// at returns the last revision of oid with a tid before a given one, and the tid of
// the next, if that is not after last.
func (m *propModel) at(oid raidstorage.OID, before, last raidstorage.TID) (rev *propRev, next raidstorage.TID) {
	revs := m.revs[oid]
	for i := range revs {
		switch {
		case revs[i].tid < before && revs[i].tid <= last:
			rev = &revs[i]
		case revs[i].tid <= last:
			return rev, revs[i].tid
		}
	}
	return rev, 0
}

// load is what LoadBefore must answer when last is the visible tid.
func (m *propModel) load(oid raidstorage.OID, before, last raidstorage.TID) (raidstorage.Revision, error) {
	rev, next := m.at(oid, before, last)
	if rev == nil || rev.data == nil {
		return raidstorage.Revision{}, &raidstorage.NotFoundError{OID: oid, Later: rev == nil && next != 0}
	}
	return raidstorage.Revision{Data: rev.data, Serial: rev.tid, Next: next}, nil
}

// propChange is one staged call.
type propChange struct {
	kind   string // "store", "delete", "check", "undo"
	oid    raidstorage.OID
	serial raidstorage.TID // for an undo the transaction
	data   []byte
}

func (c propChange) String() string {
	return fmt.Sprintf("%s %x@%s", c.kind, uint64(c.oid), shortTID(c.serial))
}

// shortTID shows the part of a tid that differs in a history.
func shortTID(t raidstorage.TID) string {
	if t == 0 {
		return "0"
	}
	if t == raidstorage.MaxTID {
		return "max"
	}
	return fmt.Sprintf("%010x", uint64(t)&0xffffffffff)
}

// vote returns what a vote on changes must lead to when last is the visible tid:
// the records, or all refusals that are right.
func (m *propModel) vote(changes []propChange, last raidstorage.TID) (recs []propRec, refusals []error) {
	for _, c := range changes {
		cur, _ := m.at(c.oid, last+1, last)
		switch c.kind {
		case "store":
			if cur != nil && cur.tid != c.serial {
				refusals = append(refusals, &raidstorage.ConflictError{OID: c.oid, Committed: cur.tid, Read: c.serial})
			}
			recs = append(recs, propRec{oid: c.oid, data: c.data})
		case "delete":
			switch {
			case cur == nil || cur.data == nil:
				refusals = append(refusals, &raidstorage.NotFoundError{OID: c.oid})
			case cur.tid != c.serial:
				refusals = append(refusals, &raidstorage.ConflictError{OID: c.oid, Committed: cur.tid, Read: c.serial})
			}
			recs = append(recs, propRec{oid: c.oid})
		case "check":
			switch {
			case cur == nil || cur.data == nil:
				refusals = append(refusals, &raidstorage.NotFoundError{OID: c.oid})
			case cur.tid != c.serial:
				refusals = append(refusals, &raidstorage.ReadConflictError{OID: c.oid, Committed: cur.tid, Read: c.serial})
			}
		case "undo":
			undone, err := m.undo(c.serial, last)
			if err != nil {
				refusals = append(refusals, err)
			}
			recs = append(recs, undone...)
		}
	}
	return recs, refusals
}

// undo returns the records that undo transaction tid.
func (m *propModel) undo(tid, last raidstorage.TID) ([]propRec, error) {
	i := slices.IndexFunc(m.log, func(t *propTxn) bool { return t.tid == tid && tid <= last })
	if i < 0 {
		return nil, &raidstorage.UndoError{TID: tid}
	}
	var recs []propRec
	for _, r := range m.log[i].recs {
		cur, _ := m.at(r.oid, last+1, last)
		same := cur.tid == tid || cur.dataTID == tid || r.data != nil && cur.data != nil && bytes.Equal(r.data, cur.data)
		if !same {
			return nil, &raidstorage.UndoError{TID: tid, OID: r.oid}
		}
		undone := propRec{oid: r.oid}
		if old, _ := m.at(r.oid, tid, last); old != nil {
			undone.data, undone.dataTID = old.data, old.tid
			if old.data != nil && old.dataTID != 0 {
				undone.dataTID = old.dataTID
			}
		}
		recs = append(recs, undone)
	}
	return recs, nil
}

// repeatsDeletion tells whether tid deleted an object that an undo has deleted
// again. Whether that deletion can be undone is a matter of a pointer that Restore
// has no place for, so that a recovered backend may refuse what others accept.
func (m *propModel) repeatsDeletion(tid raidstorage.TID) bool {
	for _, t := range m.log {
		for _, r := range t.recs {
			if t.tid > tid && r.data == nil && r.dataTID == tid {
				return true
			}
		}
	}
	return false
}

// propRefusal is an answer without what only people read.
func propRefusal(err error) string {
	if undo, ok := errors.AsType[*raidstorage.UndoError](err); ok {
		return fmt.Sprintf("undo of %v refused for %v", undo.TID, undo.OID)
	}
	return err.Error()
}

// rightAnswer tells whether got is one of the refusals that are right.
func rightAnswer(got error, refusals []error) bool {
	return slices.ContainsFunc(refusals, func(want error) bool { return propRefusal(want) == propRefusal(got) })
}

// sameRecords compares a transaction's records with what a log says, in any order.
func (t *propTxn) sameRecords(records []raidstorage.Record) error {
	if len(records) != len(t.recs) {
		return fmt.Errorf("%s has %d records instead of %d", t.id, len(records), len(t.recs))
	}
	for _, want := range t.recs {
		i := slices.IndexFunc(records, func(r raidstorage.Record) bool { return r.OID == want.oid })
		switch {
		case i < 0:
			return fmt.Errorf("%s lacks its record of %v", t.id, want.oid)
		case (records[i].Data == nil) != (want.data == nil) || !bytes.Equal(records[i].Data, want.data):
			return fmt.Errorf("%s has %q for %v instead of %q", t.id, records[i].Data, want.oid, want.data)
		}
	}
	return nil
}
