package zeoclient

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// A vote takes these steps:
//
//	take the commit slot: a connection has one transaction at a time
//	ask what must be known before: the serials of restored records with blobs, whether
//	    the data that restored records point to is there (Python's server refuses the
//	    transaction if it is not), the oids of transactions to undo
//	send tpc_begin, the changes, vote and lastTransaction, in one write if they are few
//	the vote's answer: the server's commit lock is ours
//	lastTransaction: the last tid under the lock. If it was answered before the vote, which
//	    had to wait then, it is asked for again.
//	a given tid that is not later than it: abort, for Python's server takes any
//
// Finish is one call. Abort is sent and not waited for: what is sent later on the
// connection comes after it. If the connection is lost the server aborts by itself. Nor need
// a finish be waited for, see SendFinish: then the next vote succeeds only if it did.

// maxBatch is how many bytes of a transaction are encoded at a time. A Writer keeps a buffer
// for what is a little more.
const maxBatch = 512 << 10

// Vote implements raidstorage.Txn. Where the server resolves conflicts itself, what it
// resolved is refused as a *raidstorage.ConflictError all the same, as the contract
// has it.
func (t *txn) Vote(ctx context.Context) (raidstorage.Vote, error) {
	switch t.state {
	case stateVoted:
		return raidstorage.Vote{}, &raidstorage.TxnStateError{Op: "vote", State: "voted"}
	case stateEnded:
		return raidstorage.Vote{}, &raidstorage.TxnStateError{Op: "vote", State: "ended"}
	}
	if err := t.s.begin(ctx); err != nil {
		t.end()
		return raidstorage.Vote{}, err
	}
	defer t.s.calls.Done()
	if err := t.s.lock(ctx); err != nil {
		t.end()
		return raidstorage.Vote{}, err
	}
	c, err := t.s.connection(ctx)
	if err == nil && c.readOnly { // since the transaction began
		err = &raidstorage.ReadOnlyError{Storage: t.s.Name()}
	}
	if err != nil {
		t.end()
		<-t.s.commit
		return raidstorage.Vote{}, err
	}
	t.c, t.id = c, c.ids.Add(1)
	vote, err := t.vote(ctx)
	if err != nil {
		if b := t.s.behind; b != nil && b.failed() {
			t.s.behind = nil
		}
		t.rollback()
		return raidstorage.Vote{}, err
	}
	t.state = stateVoted
	return vote, nil
}

// lock takes the commit slot.
func (s *Storage) lock(ctx context.Context) error {
	select {
	case s.commit <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed:
		return raidstorage.ErrClosed
	}
}

// rollback aborts at the server, whatever it knows of the transaction, and gives the
// commit slot back.
func (t *txn) rollback() {
	c, id := t.c, t.id
	k := c.newCall(zeowire.TPCAbort, nil)
	if c.post(func(w *zeowire.Writer) error {
		return w.Message(zeowire.Call(zeowire.IntID(k.id), k.name, zeowire.Int(id)))
	}, k) == nil {
		// If the abort is not answered the connection is given up, for only that frees
		// the server's lock then.
		c.spawn(func() {
			err := c.wait(context.Background(), k)
			if _, late := errors.AsType[*TimeoutError](err); late {
				c.fail(err)
			}
		})
	}
	t.end()
	<-t.s.commit
}

func (t *txn) vote(ctx context.Context) (raidstorage.Vote, error) {
	behind := t.s.behind
	// The answers to questions depend on it, and over another connection nothing is behind it.
	if behind != nil && (behind.c != t.c || t.asks()) {
		if err := t.s.confirmed(ctx); err != nil {
			return raidstorage.Vote{}, err
		}
		behind = nil
	}
	if err := t.prepare(ctx); err != nil {
		return raidstorage.Vote{}, err
	}
	var changed, conflicts []raidstorage.OID
	var read []raidstorage.TID
	voted := t.c.newCall(zeowire.Vote, func(v zeowire.Value) (err error) {
		changed, conflicts, read, err = takeVote(v)
		return err
	})
	voted.queues = true
	var last raidstorage.TID
	early, floor := false, raidstorage.TID(0)
	lastCall := t.c.newCall(zeowire.LastTransaction, func(v zeowire.Value) (err error) {
		select {
		case <-voted.done:
		default:
			early = true
		}
		floor = raidstorage.TID(t.c.seen.Load())
		last, err = t.s.takeLast(v)
		return err
	})
	if err := t.sendAll(ctx, voted, lastCall); err != nil {
		return raidstorage.Vote{}, err
	}
	if err := t.c.wait(ctx, voted); err != nil {
		t.c.forget(lastCall)
		return raidstorage.Vote{}, t.outOfOrder(ctx, t.refusal(err))
	}
	if len(conflicts) > 0 {
		t.c.forget(lastCall)
		return raidstorage.Vote{}, t.conflict(ctx, conflicts[0], read[0])
	}
	if err := t.c.wait(ctx, lastCall); err != nil {
		return raidstorage.Vote{}, t.c.mapped(lastCall.name, err)
	}
	if behind != nil { // our server may answer that after both
		if err := t.s.confirmed(ctx); err != nil {
			return raidstorage.Vote{}, err
		}
		floor = max(floor, raidstorage.TID(t.c.seen.Load()))
	}
	if early || last < floor {
		var err error
		if last, err = t.s.lastTID(ctx, t.c); err != nil {
			return raidstorage.Vote{}, err
		}
	}
	if last = t.c.truth(last); t.meta.TID != 0 && t.meta.TID <= last {
		return raidstorage.Vote{}, &raidstorage.TIDOrderError{TID: t.meta.TID, Last: last}
	}
	slices.Sort(changed)
	changed = slices.Compact(changed)
	for _, oid := range changed {
		if i, ours := t.changes[oid]; ours && !t.undid {
			return raidstorage.Vote{}, t.conflict(ctx, oid, t.ops[i].tid)
		}
	}
	t.also = changed
	return raidstorage.Vote{Changed: slices.Clone(changed), Last: last}, nil
}

// outOfOrder finds out whether a server that raised something unknown did so because
// the given tid is not later than its last one, as no exception says that.
func (t *txn) outOfOrder(ctx context.Context, err error) error {
	if _, unknown := errors.AsType[*ServerError](err); !unknown || t.meta.TID == 0 {
		return err
	}
	if last, lastErr := t.s.lastTID(ctx, t.c); lastErr == nil && t.meta.TID <= last {
		return &raidstorage.TIDOrderError{TID: t.meta.TID, Last: last}
	}
	return err
}

// takeVote reads the reply to a vote: the oids that the server changed, or, where the
// client resolves conflicts, the conflicts.
func takeVote(v zeowire.Value) (changed, conflicts []raidstorage.OID, read []raidstorage.TID, err error) {
	if v.IsNone() {
		return nil, nil, nil, nil
	}
	items, ok := v.Items()
	if !ok {
		return nil, nil, nil, violation("no list")
	}
	for _, item := range items {
		if oid, ok := item.OID(); ok {
			changed = append(changed, oid)
			continue
		}
		member, _ := item.Get("oid")
		oid, ok := member.OID()
		member, _ = item.Get("serials")
		serials, _ := member.Items()
		if !ok || len(serials) != 2 {
			return nil, nil, nil, violation("neither an oid nor a conflict")
		}
		tid, _ := serials[1].TID()
		conflicts, read = append(conflicts, oid), append(read, tid)
	}
	return changed, conflicts, read, nil
}

// conflict makes the error of a conflict that the server resolved, or left to us. The
// lock is held, or was a moment ago.
func (t *txn) conflict(ctx context.Context, oid raidstorage.OID, read raidstorage.TID) error {
	var committed raidstorage.TID
	answer, err := t.askSerial(ctx, oid, &committed)
	if err == nil {
		err = answer()
	}
	if err != nil {
		return err
	}
	return &raidstorage.ConflictError{OID: oid, Committed: committed, Read: read}
}

// sendAll sends the whole transaction, and the calls after it.
func (t *txn) sendAll(ctx context.Context, voted, last *call) error {
	next := 0
	write := func(w *zeowire.Writer) error {
		for before := w.Len(); next < len(t.ops) && w.Len()-before < maxBatch; next++ {
			if err := t.writeOp(w, &t.ops[next]); err != nil {
				return err
			}
		}
		return nil
	}
	blobs := t.blobs()
	end := func(w *zeowire.Writer) error {
		if next < len(t.ops) || len(blobs) > 0 {
			return nil
		}
		if err := w.Message(zeowire.Call(zeowire.IntID(voted.id), voted.name, zeowire.Int(t.id))); err != nil {
			return err
		}
		return w.Message(zeowire.Call(zeowire.IntID(last.id), last.name))
	}
	err := t.c.send(ctx, func(w *zeowire.Writer) error {
		return firstError(w, t.begin, write, end)
	}, voted, last)
	for err == nil && next < len(t.ops) {
		err = t.c.send(ctx, func(w *zeowire.Writer) error { return firstError(w, write, end) })
	}
	if err != nil || len(blobs) == 0 {
		return err
	}
	for _, o := range blobs {
		if err := t.upload(ctx, o); err != nil {
			return err
		}
	}
	blobs = nil
	return t.c.send(ctx, end)
}

// blobs returns the stores with blobs, the last one first: Python's server takes them
// from the end of its list.
func (t *txn) blobs() []*op {
	var blobs []*op
	for i := range slices.Backward(t.ops) {
		if t.ops[i].blob != nil {
			blobs = append(blobs, &t.ops[i])
		}
	}
	return blobs
}

// firstError runs steps until one fails.
func firstError(w *zeowire.Writer, steps ...func(*zeowire.Writer) error) error {
	for _, step := range steps {
		if err := step(w); err != nil {
			return err
		}
	}
	return nil
}

func (t *txn) begin(w *zeowire.Writer) error {
	tid := zeowire.None()
	if t.meta.TID != 0 {
		tid = zeowire.TID(t.meta.TID)
	}
	return w.Message(zeowire.AsyncCall(zeowire.TPCBegin, zeowire.Int(t.id), zeowire.Bytes(t.meta.User), zeowire.Bytes(t.meta.Description),
		t.extension, tid, zeowire.Text(string(rune(t.meta.Status)))))
}

// writeOp encodes a change. Blobs come later.
func (t *txn) writeOp(w *zeowire.Writer, o *op) error {
	if o.dropped || o.blob != nil {
		return nil
	}
	oid, serial, id := zeowire.OID(o.oid), zeowire.TID(o.tid), zeowire.Int(t.id)
	switch o.kind {
	case opStore:
		return w.StoreA(o.oid, o.tid, o.data, t.id)
	case opDelete:
		return w.Message(zeowire.AsyncCall(zeowire.DeleteObject, oid, serial, id))
	case opCheck:
		return w.Message(zeowire.AsyncCall(zeowire.CheckCurrentSerial, oid, serial, id))
	case opUndo:
		return w.Message(zeowire.AsyncCall(zeowire.UndoA, zeowire.Bytes(undoID(o.tid)), id))
	}
	data, from := zeowire.None(), zeowire.None()
	if o.data != nil {
		data = zeowire.Bytes(o.data)
	}
	if o.dataTID != 0 {
		from = zeowire.TID(o.dataTID)
	}
	return w.Message(zeowire.AsyncCall(zeowire.RestoreA, oid, serial, data, from, id))
}

// refusal turns the exception of a vote into an error of the contract.
func (t *txn) refusal(err error) error {
	e, ok := errors.AsType[*exceptionError](err)
	if !ok {
		return err
	}
	exc := e.exc
	if c, ok := exc.Conflict(); ok {
		if exc.Class == zeowire.ClassReadConflict {
			return &raidstorage.ReadConflictError{OID: c.OID, Committed: c.Committed, Read: c.Read}
		}
		return &raidstorage.ConflictError{OID: c.OID, Committed: c.Committed, Read: c.Read}
	}
	if failures, ok := exc.UndoFailures(); ok {
		refused := &raidstorage.UndoError{TID: t.firstUndo(), Reason: "the server refuses"}
		if len(failures) > 0 {
			refused.OID, refused.Reason = failures[0].OID, failures[0].Reason
		}
		return refused
	}
	switch exc.Class {
	case zeowire.ClassPOSKey, zeowire.ClassKeyError:
		if t.undid {
			return &raidstorage.UndoError{TID: t.firstUndo(), Reason: fmt.Sprintf("the server has no %v", exc.State())}
		}
		if items, _ := exc.Args.Items(); len(items) > 0 {
			if oid, ok := items[0].OID(); ok {
				return &raidstorage.NotFoundError{OID: oid}
			}
		}
	case zeowire.ClassUndo:
		return &raidstorage.UndoError{TID: t.firstUndo(), Reason: exc.State().String()}
	}
	return t.c.mapped(zeowire.Vote, err)
}

// firstUndo is the transaction that an undo error is about: the server does not say
// which one, and there is hardly ever more than one.
func (t *txn) firstUndo() raidstorage.TID {
	for _, o := range t.ops {
		if o.kind == opUndo {
			return o.tid
		}
	}
	return 0
}
