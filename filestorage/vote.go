package filestorage

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"syscall"

	"github.com/zeoraid/raidstorage"
)

// pending is a transaction on its way into the file: the records that Vote writes
// and whose positions are shown when it is committed. Whoever holds the commit lock
// owns it, later whoever works the queue off.
type pending struct {
	t       *txn
	status  raidstorage.TxnStatus
	pos     int64 // where the transaction begins: the end of the last one
	next    int64 // where it ends
	tid     raidstorage.TID
	records []pendingRecord
	at      map[raidstorage.OID]int // in records
	changed []raidstorage.OID
	// installed are the blobs that Vote has put in place and that an abort removes.
	installed []blobName
	shown     bool          // whether readers see it although it is in the queue
	done      chan struct{} // closed when it is through the queue
	err       error         // how it failed; set before done is closed
	// early is closed when nobody syncs it early any more; nil if nobody does.
	early  chan struct{}
	synced bool // whether that sync has succeeded; guarded by Storage.mu
}

type pendingRecord struct {
	recordHeader
	body   payload
	blob   *stagedBlob     // nil if it brings none along
	undone raidstorage.TID // what it undoes: it gets the blob of the record that back points to
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
	lock := s.lockVote
	switch {
	case t.has(func(c change) bool { return c.kind == kindUndo }):
		lock = s.lockCommit
	case t.has(func(c change) bool { return c.kind == kindRestore && c.tid != 0 }):
		lock = s.lockShown
	}
	if err := lock(ctx); err != nil {
		return raidstorage.Vote{}, err
	}
	p, last, err := t.prepare(ctx)
	if err == nil {
		if err = p.installBlobs(ctx); err == nil {
			err = s.writePending(ctx, p)
		}
		if err != nil {
			p.removeInstalled()
		}
	}
	if err != nil {
		<-s.commit
		return raidstorage.Vote{}, err
	}
	t.state, t.pending = stateVoted, p
	s.startEarly(p)
	return raidstorage.Vote{Changed: p.changed, Last: last}, nil
}

func (t *txn) has(is func(change) bool) bool { return slices.ContainsFunc(t.changes, is) }

// lockVote waits for the commit lock; those who wait get it in turn.
func (s *Storage) lockVote(ctx context.Context) error {
	if err := ctx.Err(); err != nil { // else select could choose the lock
		return err
	}
	select {
	case s.commit <- struct{}{}:
		return nil
	default: // only who waits asks ctx for a channel, which it may have to make first
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

// lockShown waits for the commit lock and until the log shows all that was queued: what a
// transaction repeats is looked for there. Deferred ones are shown at once, so a recovery
// does not wait for a sync here.
func (s *Storage) lockShown(ctx context.Context) error {
	if err := s.lockVote(ctx); err != nil {
		return err
	}
	s.mu.RLock()
	shown := s.end == s.tail
	s.mu.RUnlock()
	if shown {
		return nil
	}
	return s.drainLocked(ctx)
}

// lockCommit waits for the commit lock and until the queue is empty: then the file
// ends with the last committed transaction, and nobody else writes to it.
func (s *Storage) lockCommit(ctx context.Context) error {
	if err := s.lockVote(ctx); err != nil {
		return err
	}
	return s.drainLocked(ctx)
}

// drainLocked is drain for one who has just got the commit lock. An error frees it.
func (s *Storage) drainLocked(ctx context.Context) error {
	// Transactions that fail are not the caller's; it finds the storage read-only.
	_ = s.drain(ctx)
	if err := ctx.Err(); err != nil {
		<-s.commit
		return err
	}
	return nil
}

// prepare checks the staged changes against the transactions before and lays out
// the records.
func (t *txn) prepare(ctx context.Context) (*pending, raidstorage.TID, error) {
	s := t.s
	s.mu.RLock()
	err, pos, last := s.writableLocked(), s.tail, s.tailTID
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
	p := &pending{
		t: t, pos: pos, tid: t.meta.TID, status: t.meta.Status, done: make(chan struct{}),
		at: make(map[raidstorage.OID]int, len(t.changes)), records: make([]pendingRecord, 0, len(t.changes)),
	}
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
		p.put(pendingRecord{recordHeader: recordHeader{oid: c.oid, prev: cur.pos, size: c.size}, body: c.payload, blob: c.blob})
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
	r := pendingRecord{recordHeader: recordHeader{oid: c.oid, prev: cur.pos, size: c.size}, body: c.payload, blob: c.blob}
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
				r = pendingRecord{recordHeader: recordHeader{oid: c.oid, prev: cur.pos, back: from.pos}, blob: c.blob}
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
	v := p.t.s.committerView(p.pos)
	here, err := v.bytesAt(rev.source)
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

// writePending writes the transaction with status 'c' behind the last one; it is
// synced after Finish, see group.go. Whatever goes wrong, the file ends where it did.
func (s *Storage) writePending(ctx context.Context, p *pending) error {
	err := s.write(ctx, p)
	if err == nil {
		if err = s.setVoted(p); err == nil {
			return nil
		}
	} else if (ctx.Err() == nil || !errors.Is(err, ctx.Err())) && !isFull(err) {
		s.fail("writing a transaction failed", err)
	}
	if cut := s.rollBack(); cut != nil && isFull(err) {
		err = errors.Join(err, cut)
	}
	return err
}

// setVoted notes that the transaction is written and holds the commit lock.
func (s *Storage) setVoted(p *pending) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != "" {
		// The queue has failed meanwhile, and the file was cut before this one.
		return &raidstorage.ReadOnlyError{Storage: s.path, Reason: s.broken}
	}
	s.voted = p.t
	for i := range p.records {
		s.oids = max(s.oids, p.records[i].oid)
	}
	return nil
}

// isFull tells whether a write failed for want of space only: nothing is wrong then
// with what was written before, and the next transaction may fit.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
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

// rollBack removes the voted transaction from the file, up to the queued ones. If the machine stops before
// that is durable, the next open removes it: its status is 'c'.
func (s *Storage) rollBack() error {
	s.mu.RLock()
	end := s.tail
	s.mu.RUnlock()
	if err := s.f.Truncate(end); err != nil {
		err = s.ioError("abort", err)
		s.fail("removing an aborted transaction failed", err)
		return err
	}
	return nil
}
