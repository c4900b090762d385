package memstorage

import (
	"bytes"
	"context"
	"slices"

	"github.com/zeoraid/raidstorage"
)

// Vote implements raidstorage.Txn.
func (t *txn) Vote(ctx context.Context) (raidstorage.Vote, error) {
	if err := t.usable(ctx, "vote"); err != nil {
		if t.state == stateOpen {
			t.end()
		}
		return raidstorage.Vote{}, err
	}
	db := t.h.db
	if err := t.h.take(ctx, db.commit); err != nil {
		t.end()
		return raidstorage.Vote{}, err
	}
	last := db.last // the lock's holder needs no mu to read
	err := t.prepare()
	if err == nil {
		err = t.enter()
	}
	if err != nil {
		<-db.commit
		t.end()
		return raidstorage.Vote{}, err
	}
	t.state = stateVoted
	return raidstorage.Vote{Changed: t.changed, Last: last}, nil
}

// enter makes Close able to end t, or refuses if it was faster.
func (t *txn) enter() error {
	db := t.h.db
	db.mu.Lock()
	defer db.mu.Unlock()
	if t.h.closed.Load() {
		return raidstorage.ErrClosed
	}
	db.voted = t
	return nil
}

// prepare checks the transaction and turns what is staged into the records of the
// log. The caller holds the commit lock.
func (t *txn) prepare() error {
	db := t.h.db
	if t.TID == 0 {
		t.TID = raidstorage.NextTID(t.h.clock(), db.last)
	}
	if t.TID <= db.last || t.TID >= raidstorage.MaxTID {
		return &raidstorage.TIDOrderError{TID: t.TID, Last: db.last}
	}
	for _, c := range t.checks {
		cur := db.current(c.oid)
		if cur == nil || cur.data == nil {
			return &raidstorage.NotFoundError{OID: c.oid}
		}
		if cur.tid != c.serial {
			return &raidstorage.ReadConflictError{OID: c.oid, Committed: cur.tid, Read: c.serial}
		}
	}
	if t.dirty {
		return t.merge()
	}
	for i := range t.records {
		if err := t.admit(&t.records[i]); err != nil {
			return err
		}
	}
	return nil
}

// admit checks one staged record, which is no undo, and gives it its final form.
func (t *txn) admit(rec *record) error {
	db := t.h.db
	cur := db.current(rec.oid)
	if cur == nil {
		t.fresh++
	}
	switch rec.kind {
	case kindStore:
		if cur != nil && cur.tid != rec.tid {
			return &raidstorage.ConflictError{OID: rec.oid, Committed: cur.tid, Read: rec.tid}
		}
	case kindDelete:
		if cur == nil || cur.data == nil {
			return &raidstorage.NotFoundError{OID: rec.oid}
		}
		if cur.tid != rec.tid {
			return &raidstorage.ConflictError{OID: rec.oid, Committed: cur.tid, Read: rec.tid}
		}
	case kindRestore:
		if src := db.exact(rec.oid, rec.dataTID); src == nil || rec.data == nil || !bytes.Equal(src.data, rec.data) {
			rec.dataTID = 0
		}
	}
	rec.tid = t.TID
	return nil
}

// merge is the way of transactions with undos, or with oids that are not in
// ascending order and so may come twice: the last change of an oid counts.
func (t *txn) merge() error {
	m := merged{records: make([]record, 0, len(t.records)), at: make(map[raidstorage.OID]int, len(t.records))}
	for i := range t.records {
		rec := &t.records[i]
		if rec.kind == kindUndo {
			if err := t.undo(rec.tid, &m); err != nil {
				return err
			}
			continue
		}
		if err := t.admit(rec); err != nil {
			return err
		}
		m.put(*rec)
	}
	t.records = m.records
	t.first[0] = record{}
	for i := range m.records {
		if m.records[i].kind == kindUndone {
			t.changed = append(t.changed, m.records[i].oid)
		}
	}
	slices.Sort(t.changed)
	return nil
}

// merged collects records, one for each oid.
type merged struct {
	records []record
	at      map[raidstorage.OID]int
}

func (m *merged) put(rec record) {
	if i, again := m.at[rec.oid]; again {
		m.records[i] = rec
		return
	}
	m.at[rec.oid] = len(m.records)
	m.records = append(m.records, rec)
}

// undo puts into m the state before transaction tid of all objects that it changed,
// by the rules of ZODB's FileStorage, without conflict resolution.
func (t *txn) undo(tid raidstorage.TID, m *merged) error {
	db := t.h.db
	i, found := db.find(tid)
	if !found {
		return &raidstorage.UndoError{TID: tid, Reason: "there is no such transaction"}
	}
	target := db.log[i]
	if target.Status != raidstorage.StatusNormal {
		return &raidstorage.UndoError{TID: tid, Reason: "it is packed"}
	}
	for i := range target.records {
		rec := &target.records[i]
		obj := db.objects[rec.oid]
		cur := obj.revs[len(obj.revs)-1]
		if i, staged := m.at[rec.oid]; staged {
			cur = &m.records[i]
		}
		if !unchanged(rec, cur) {
			return &raidstorage.UndoError{TID: tid, OID: rec.oid, Reason: "a later transaction changed the object"}
		}
		undone := record{oid: rec.oid, tid: t.TID, kind: kindUndone}
		if n := obj.search(tid); n > 0 { // else it is the creation that is undone
			undone.repeat(obj.revs[n-1])
		}
		m.put(undone)
	}
	return nil
}

// unchanged tells whether the current record is, or repeats, or has the same data
// as rec, the one to be undone. Two deletions are the same only if one repeats the
// other: the object may have lived in between.
func unchanged(rec, cur *record) bool {
	return cur == rec || cur.dataTID == rec.tid ||
		rec.data != nil && cur.data != nil && bytes.Equal(rec.data, cur.data)
}

// repeat makes rec say the same as the earlier record of its object.
func (rec *record) repeat(earlier *record) {
	rec.data, rec.blob, rec.dataTID = earlier.data, earlier.blob, earlier.tid
	if earlier.data != nil && earlier.dataTID != 0 {
		rec.dataTID = earlier.dataTID
	}
}

// current returns the last revision of oid, nil for an unknown one. Like the
// following, it is called under the commit lock or mu.
func (db *database) current(oid raidstorage.OID) *record {
	if obj := db.objects[oid]; obj != nil {
		return obj.revs[len(obj.revs)-1]
	}
	return nil
}

// exact returns the revision of oid that transaction tid wrote, nil if none.
func (db *database) exact(oid raidstorage.OID, tid raidstorage.TID) *record {
	if tid == 0 {
		return nil
	}
	if rec, _ := db.objects[oid].before(tid + 1); rec != nil && rec.tid == tid {
		return rec
	}
	return nil
}

// find returns where transaction tid is in the log, or would be.
func (db *database) find(tid raidstorage.TID) (int, bool) { return findTxn(db.log, tid) }

func findTxn(log []*transaction, tid raidstorage.TID) (int, bool) {
	return slices.BinarySearchFunc(log, tid, func(t *transaction, tid raidstorage.TID) int {
		switch {
		case t.TID < tid:
			return -1
		case t.TID > tid:
			return 1
		}
		return 0
	})
}
