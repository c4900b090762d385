package filestorage

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/zeoraid/raidstorage"
)

// pending is a transaction on its way into the file: the records that Vote writes
// and whose positions Finish publishes. Whoever holds the commit lock owns it.
type pending struct {
	t       *txn
	pos     int64 // where the transaction begins: the end of the last one
	next    int64 // where it ends
	tid     raidstorage.TID
	records []pendingRecord
	at      map[raidstorage.OID]int // in records
	changed []raidstorage.OID
}

type pendingRecord struct {
	recordHeader
	body payload
}

// Vote implements raidstorage.Txn.
func (t *txn) Vote(ctx context.Context) (raidstorage.Vote, error) {
	if t.state != stateOpen {
		return raidstorage.Vote{}, &raidstorage.TxnStateError{Op: "vote", State: t.state.String()}
	}
	if err := t.s.enter(); err != nil {
		t.state = stateEnded
		return raidstorage.Vote{}, err
	}
	defer t.s.calls.Done()
	vote, err := t.vote(ctx)
	if err != nil {
		t.end()
	}
	return vote, err
}

func (t *txn) vote(ctx context.Context) (raidstorage.Vote, error) {
	s := t.s
	if err := s.lockCommit(ctx); err != nil {
		return raidstorage.Vote{}, err
	}
	p, last, err := t.prepare(ctx)
	if err == nil {
		err = s.writePending(ctx, p)
	}
	if err != nil {
		<-s.commit
		return raidstorage.Vote{}, err
	}
	s.mu.Lock()
	s.voted = t
	for i := range p.records {
		s.oids = max(s.oids, p.records[i].oid)
	}
	s.mu.Unlock()
	t.state, t.pending = stateVoted, p
	return raidstorage.Vote{Changed: p.changed, Last: last}, nil
}

// lockCommit waits for the commit lock; those who wait get it in turn.
func (s *Storage) lockCommit(ctx context.Context) error {
	if err := ctx.Err(); err != nil { // else select could choose the lock
		return err
	}
	select {
	case s.commit <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return raidstorage.ErrClosed
	}
}

// prepare checks the staged changes against the finished transactions and lays out
// the records.
func (t *txn) prepare(ctx context.Context) (*pending, raidstorage.TID, error) {
	s := t.s
	s.mu.RLock()
	err, pos, last := s.writableLocked(), s.end, s.last
	s.mu.RUnlock()
	if err != nil {
		return nil, 0, err
	}
	if !t.chosen {
		t.meta.TID = raidstorage.NextTID(s.clock(), last)
	}
	if t.meta.TID <= last || t.meta.TID >= raidstorage.MaxTID {
		return nil, 0, &raidstorage.TIDOrderError{TID: t.meta.TID, Last: last}
	}
	p := &pending{t: t, pos: pos, tid: t.meta.TID, at: make(map[raidstorage.OID]int, len(t.changes))}
	p.records = make([]pendingRecord, 0, len(t.changes))
	for i := range t.changes {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		if err := p.apply(ctx, &t.changes[i]); err != nil {
			return nil, 0, err
		}
	}
	slices.Sort(p.changed)
	p.changed = slices.Compact(p.changed)
	if err := p.layOut(); err != nil {
		return nil, 0, err
	}
	return p, last, nil
}

// apply checks one change and adds the records that it makes.
func (p *pending) apply(ctx context.Context, c *change) error {
	if c.kind == kindUndo {
		return p.undo(ctx, c.tid)
	}
	cur, err := p.t.s.stateOf(ctx, c.oid)
	if err != nil {
		return err
	}
	missing := cur.pos == 0 || cur.source.size == 0
	switch c.kind {
	case kindStore:
		if cur.pos != 0 && cur.tid != c.tid {
			return &raidstorage.ConflictError{OID: c.oid, Committed: cur.tid, Read: c.tid}
		}
	case kindDelete, kindCheck:
		if missing {
			return &raidstorage.NotFoundError{OID: c.oid}
		}
		if cur.tid != c.tid && c.kind == kindDelete {
			return &raidstorage.ConflictError{OID: c.oid, Committed: cur.tid, Read: c.tid}
		}
		if cur.tid != c.tid {
			return &raidstorage.ReadConflictError{OID: c.oid, Committed: cur.tid, Read: c.tid}
		}
	case kindRestore:
		return p.restore(ctx, cur, c)
	}
	if c.kind != kindCheck {
		p.put(pendingRecord{recordHeader{oid: c.oid, prev: cur.pos, size: c.size}, c.payload})
	}
	return nil
}

// put adds a record; it replaces an earlier one of the same object.
func (p *pending) put(r pendingRecord) {
	if i, again := p.at[r.oid]; again {
		p.records[i] = r
		return
	}
	p.at[r.oid] = len(p.records)
	p.records = append(p.records, r)
}

// restore adds a restored record: a back pointer if transaction c.tid has the same
// data here, so that what was an undo can itself be undone as in the original.
func (p *pending) restore(ctx context.Context, cur objectState, c *change) error {
	r := pendingRecord{recordHeader{oid: c.oid, prev: cur.pos, size: c.size}, c.payload}
	if c.tid != 0 && c.size != 0 && cur.pos != 0 {
		from, err := p.t.s.revisionOf(ctx, c.oid, cur.pos, c.tid, p.pos)
		if err != nil {
			return err
		}
		if from.pos != 0 && from.source.size == c.size {
			same, err := p.sameData(from, c.payload)
			if err != nil {
				return err
			}
			if same {
				r = pendingRecord{recordHeader{oid: c.oid, prev: cur.pos, back: from.pos}, payload{}}
			}
		}
	}
	p.put(r)
	return nil
}

// sameData tells whether the revision has the data of the payload.
func (p *pending) sameData(rev objectState, other payload) (bool, error) {
	data, err := p.t.bytes(other)
	if err != nil {
		return false, err
	}
	here, err := p.t.s.bytesAt(rev.source)
	return bytes.Equal(data, here), err
}

// layOut gives each record its place.
func (p *pending) layOut() error {
	meta := &p.t.meta
	pos := p.pos + txnHeaderLen + int64(len(meta.User)+len(meta.Description)+len(meta.Extension))
	for i := range p.records {
		r := &p.records[i]
		r.pos, r.tid, r.txn = pos, p.tid, p.pos
		pos = r.next()
		if pos > maxPos {
			return &raidstorage.InvalidError{Op: "vote", Reason: "the file would exceed 256 TiB"}
		}
	}
	p.next = pos + trailerLen
	return nil
}

// vector writes a stretch of a file from a position on.
type vector struct {
	f   io.WriterAt
	off int64
	w   *bufio.Writer
}

func newVector(f io.WriterAt) *vector {
	v := &vector{f: f}
	v.w = bufio.NewWriterSize(v, windowSize)
	return v
}

// Write is for the bufio.Writer only.
func (v *vector) Write(b []byte) (int, error) {
	n, err := v.f.WriteAt(b, v.off)
	v.off += int64(n)
	return n, err
}

// start begins a new stretch at off.
func (v *vector) start(off int64) *bufio.Writer {
	v.off = off
	v.w.Reset(v)
	return v.w
}

// writePending writes the transaction with status 'c' behind the last one and makes
// it durable: only then may Finish overwrite the status. Whatever goes wrong, the
// file ends where it did.
func (s *Storage) writePending(ctx context.Context, p *pending) error {
	err := s.write(ctx, p)
	if err == nil {
		return nil
	}
	if ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
		// What was written is unknown now, and after a failed sync the system may
		// say that the next one is fine although these bytes are lost.
		s.fail("writing a transaction failed", err)
	}
	if cut := s.f.Truncate(p.pos); cut != nil {
		s.fail("removing an unfinished transaction failed", cut)
	}
	return err
}

func (s *Storage) write(ctx context.Context, p *pending) error {
	w := s.writer.start(p.pos)
	length := p.next - trailerLen - p.pos
	var scratch [maxRecordHeaderLen]byte
	if _, err := w.Write(appendTxnHeader(scratch[:0], statusCheckpoint, length, &p.t.meta)); err != nil {
		return s.ioError("write", err)
	}
	for i := range p.records {
		if err := ctx.Err(); err != nil {
			return err
		}
		r := &p.records[i]
		if _, err := w.Write(appendRecordHeader(scratch[:0], &r.recordHeader)); err != nil {
			return s.ioError("write", err)
		}
		if err := p.t.copyTo(w, r.body); err != nil {
			return s.ioError("write", err)
		}
	}
	if _, err := w.Write(appendLength(scratch[:0], length)); err != nil {
		return s.ioError("write", err)
	}
	if err := w.Flush(); err != nil {
		return s.ioError("write", err)
	}
	if s.sync {
		if err := s.f.Sync(); err != nil {
			return s.ioError("sync", err)
		}
	}
	return nil
}

// copyTo writes the payload to w.
func (t *txn) copyTo(w io.Writer, p payload) error {
	if p.data != nil || p.size == 0 {
		_, err := w.Write(p.data)
		return err
	}
	_, err := io.Copy(w, io.NewSectionReader(t.spill.f, p.at, p.size))
	return err
}

// commitPending flips the status of the voted transaction, makes that durable, and
// then shows it to readers, all its records at once.
func (s *Storage) commitPending(p *pending) error {
	if _, err := s.f.WriteAt([]byte{byte(p.t.meta.Status)}, p.pos+statusOffset); err != nil {
		err = s.ioError("finish", err)
		s.fail("finishing a transaction failed", err)
		return err
	}
	if s.sync {
		if err := s.f.Sync(); err != nil {
			err = s.ioError("finish: sync", err)
			s.fail("finishing a transaction failed", err)
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range p.records {
		s.index.set(p.records[i].oid, p.records[i].pos)
	}
	s.end, s.last = p.next, p.tid
	return nil
}

// rollBack removes the voted transaction from the file. If the machine stops before
// that is durable, the next open removes it: its status is 'c'.
func (s *Storage) rollBack() error {
	s.mu.RLock()
	end := s.end
	s.mu.RUnlock()
	if err := s.f.Truncate(end); err != nil {
		err = s.ioError("abort", err)
		s.fail("removing an aborted transaction failed", err)
		return err
	}
	return nil
}
