package filestorage

import (
	"context"

	"github.com/zeoraid/raidstorage"
)

// objectState is a record of an object and where its data is.
type objectState struct {
	recordHeader              // of the revision; pos 0 if there is none
	source       recordHeader // the record with the data; size 0 for a deletion
}

// stateOf returns the state of oid that the next transaction finds, that is, with
// the queued ones. The caller holds the commit lock.
func (s *Storage) stateOf(ctx context.Context, oid raidstorage.OID) (objectState, error) {
	s.mu.RLock()
	pos, queued := s.queuedAt[oid]
	if !queued {
		pos = s.index.get(oid)
	}
	end := s.tail
	s.mu.RUnlock()
	if pos == 0 {
		return objectState{}, nil
	}
	return s.stateAt(ctx, oid, pos, end)
}

// committerView is what the holder of the commit lock reads: up to end, the file
// cannot change.
func (s *Storage) committerView(end int64) view { return view{s: s, src: s.f, end: end} }

func (s *Storage) stateAt(ctx context.Context, oid raidstorage.OID, pos, end int64) (objectState, error) {
	sc := s.scratch()
	defer s.scratches.Put(sc)
	v, buf := s.committerView(end), sc.buf[:maxRecordHeaderLen]
	h, b, err := v.recordAt(pos, end, oid, buf)
	if err != nil {
		return objectState{}, err
	}
	source, _, err := v.source(ctx, h, b, buf)
	return objectState{h, source}, err
}

// revisionOf returns the revision of oid that transaction tid wrote, none if it is
// not here. pos is that of the current record.
func (s *Storage) revisionOf(ctx context.Context, oid raidstorage.OID, pos int64, tid raidstorage.TID, end int64) (objectState, error) {
	for pos != 0 {
		if err := ctx.Err(); err != nil {
			return objectState{}, err
		}
		state, err := s.stateAt(ctx, oid, pos, end)
		if err != nil || state.tid == tid {
			return state, err
		}
		if state.tid < tid {
			return objectState{}, nil
		}
		pos = state.prev
	}
	// Packing cuts the chain of an object's revisions, but may keep an older one
	// that a later record points back to.
	r, err := s.newLogReader(ctx)
	if err != nil {
		return objectState{}, err
	}
	defer r.close()
	if pos, err = r.exact(tid); err != nil || pos == 0 {
		return objectState{}, err
	}
	records, err := r.lastRecords(pos)
	if err != nil {
		return objectState{}, err
	}
	for _, h := range records {
		if h.oid == oid {
			return s.stateAt(ctx, oid, h.pos, end)
		}
	}
	return objectState{}, nil
}

// exact returns the position of transaction tid, 0 if it is not there.
func (r *logReader) exact(tid raidstorage.TID) (int64, error) {
	pos, err := r.find(tid)
	if err != nil || pos >= r.end {
		return 0, err
	}
	h, err := r.header(pos)
	if err != nil || h.tid != tid {
		return 0, err
	}
	return pos, nil
}

// lastRecords returns the records of the transaction at pos, one for each object.
// Python writes more than one for an object that several undos of one transaction
// concern; the last counts.
func (r *logReader) lastRecords(pos int64) ([]recordHeader, error) {
	h, err := r.header(pos)
	if err != nil {
		return nil, err
	}
	var records []recordHeader
	at := make(map[raidstorage.OID]int)
	for pos := h.records(); pos < h.end(); {
		err := r.step(func() (*flaw, error) {
			rec, bad, err := r.w.record(pos, h)
			if bad != nil || err != nil {
				return bad, err
			}
			if i, again := at[rec.oid]; again {
				records[i] = rec
			} else {
				at[rec.oid] = len(records)
				records = append(records, rec)
			}
			pos = rec.next()
			return nil, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return records, nil
}

// undo adds the records that undo transaction tid, by the rules of Python's
// _transactionalUndoRecord, without its resolution of conflicts.
func (p *pending) undo(ctx context.Context, tid raidstorage.TID) error {
	r, err := p.t.s.newLogReader(ctx)
	if err != nil {
		return err
	}
	defer r.close()
	pos, err := r.undoable(tid)
	if err != nil {
		return err
	}
	records, err := r.lastRecords(pos)
	if err != nil {
		return err
	}
	for _, target := range records {
		oid := target.oid
		cur, err := p.t.s.stateOf(ctx, oid)
		if err != nil {
			return err
		}
		same, err := p.unchangedSince(ctx, cur, target)
		if err != nil {
			return err
		}
		if !same {
			return &raidstorage.UndoError{TID: tid, OID: oid, Reason: "a later transaction changed the object"}
		}
		// The state before is the previous record; without one, the creation is
		// undone, and the pointer is 0.
		p.put(pendingRecord{recordHeader: recordHeader{oid: oid, prev: cur.pos, back: target.prev}, undone: tid})
		p.changed = append(p.changed, oid)
	}
	return nil
}

// unchangedSince tells whether the object's state, as this transaction makes it or
// else as it is current, is that of the record target, which is to be undone: the
// record itself, a repetition of it, or one with the same data.
func (p *pending) unchangedSince(ctx context.Context, cur objectState, target recordHeader) (bool, error) {
	s := p.t.s
	if cur.pos == 0 {
		return false, nil
	}
	i, staged := p.at[target.oid]
	if !staged && (cur.pos == target.pos || cur.back == target.pos) {
		return true, nil
	}
	if staged && p.records[i].back == target.pos {
		return true, nil
	}
	undone, err := s.stateAt(ctx, target.oid, target.pos, p.pos)
	if err != nil || undone.source.size == 0 {
		return false, err // a deletion: whether the object lived in between is unknown
	}
	if staged && p.records[i].size != 0 {
		return p.sameData(undone, p.records[i].body)
	}
	now := cur
	if staged {
		if p.records[i].back == 0 {
			return false, nil
		}
		if now, err = s.stateAt(ctx, target.oid, p.records[i].back, p.pos); err != nil {
			return false, err
		}
	}
	if now.source.pos == undone.source.pos {
		return true, nil
	}
	if now.source.size != undone.source.size {
		return false, nil
	}
	v := s.committerView(p.pos)
	data, err := v.bytesAt(now.source)
	if err != nil {
		return false, err
	}
	return p.sameData(undone, payload{data: data, size: int64(len(data))})
}

// undoable returns the position of transaction tid, an *UndoError if it is not
// there or packed.
func (r *logReader) undoable(tid raidstorage.TID) (int64, error) {
	// A pack may have gone over it: then it or a later one is StatusPacked. So the
	// way is back from the end, as Python goes.
	for pos := r.end; pos > magicLen; {
		h, err := r.before(pos)
		if err != nil {
			return 0, err
		}
		switch {
		case h.status == raidstorage.StatusPacked:
			return 0, &raidstorage.UndoError{TID: tid, Reason: "it is packed"}
		case h.tid < tid:
			return 0, &raidstorage.UndoError{TID: tid, Reason: "there is no such transaction"}
		case h.tid == tid && h.status == raidstorage.StatusNormal:
			return h.pos, nil
		}
		pos = h.pos
	}
	return 0, &raidstorage.UndoError{TID: tid, Reason: "there is no such transaction"}
}

// UndoLog implements raidstorage.Undoer. It ends at the first packed transaction:
// those before it are packed too.
func (s *Storage) UndoLog(ctx context.Context, skip, limit int, match func(raidstorage.TxnInfo) bool) ([]raidstorage.TxnInfo, error) {
	if skip < 0 || limit < 0 {
		return nil, &raidstorage.InvalidError{Op: "undo log", Reason: "a number is negative"}
	}
	r, err := s.newLogReader(ctx)
	if err != nil {
		return nil, err
	}
	defer r.close()
	var infos []raidstorage.TxnInfo
	for pos := r.end; pos > magicLen && len(infos) < limit; {
		h, err := r.before(pos)
		if err != nil {
			return nil, err
		}
		pos = h.pos
		if h.status == raidstorage.StatusPacked {
			break
		}
		if h.status != raidstorage.StatusNormal {
			continue
		}
		info, err := r.info(h)
		if err != nil {
			return nil, err
		}
		switch {
		case match != nil && !match(info):
		case skip > 0:
			skip--
		default:
			infos = append(infos, info)
		}
	}
	return infos, nil
}

func (r *logReader) info(h txnHeader) (info raidstorage.TxnInfo, err error) {
	err = r.step(func() (*flaw, error) {
		var err error
		if info.Meta, err = r.tail.meta(h); err != nil {
			return nil, err
		}
		info.Status = h.status
		return r.uncut(h)
	})
	info.Size = h.length
	return info, err
}
