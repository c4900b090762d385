package zeoclient

import (
	"context"
	"iter"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// The protocol iterates with small calls: iterator_next for each transaction,
// iterator_record_start for its records (only for the transaction that was given
// last), iterator_record_next for each record. So that this does not take a round
// trip each, the records of many transactions are asked for side by side.
//
// What may not exist is never asked for twice: a call after the end is answered with a
// KeyError, which Python's server logs as an error. So each iterator of the server has
// at most one call under way of which it is not known that there is an answer, and there
// are two iterators over the transactions. The scout only tells tids, one at a time. The
// main one follows, never beyond what the scout has found: as the tids are known then,
// its iterator_next and iterator_record_start leave together. It must not reach the end
// either, since a FileStorage closes the file there that the records are read from.

const (
	// maxWindow is how many transactions are under way at the same time.
	maxWindow = 32
	// maxBuffered is how many bytes of records may wait to be yielded, but for one that
	// is larger than any before it.
	maxBuffered = 8 << 20
)

// head is a reply to iterator_next; nil at the end.
type head = *raidstorage.Meta

// pending is a transaction whose records are being fetched.
type pending struct {
	meta    raidstorage.Meta
	next    *future[head]
	start   *future[int64]
	id      int64 // of the server's iterator over its records, once started is true
	started bool
	asked   *future[*raidstorage.Record] // nil: none is under way

	records []raidstorage.Record // from number base on
	base    int
	bytes   int64 // of these records
	ended   bool
}

// iteration is one Iterate. It belongs to its caller's goroutine.
type iteration struct {
	s          *Storage
	c          *conn
	startScout *future[int64]
	startMain  *future[int64]
	scout      *future[head] // nil: none is under way
	scoutEnded bool
	window     []*pending // the first one is being yielded
	buffered   int64      // bytes of records in the window
	asking     int64      // records under way
	largest    int64      // of the records, in bytes; those that were long ago count less
	out        []question // to be sent by flush
}

// question is a call with its arguments.
type question struct {
	call *call
	args []zeowire.Value
}

// future is a call whose reply becomes a T.
type future[T any] struct {
	call  *call
	value T // valid when the call is done without error
}

func newFuture[T any](c *conn, name string, take func(zeowire.Value) (T, error)) *future[T] {
	f := &future[T]{}
	f.call = c.newCall(name, func(v zeowire.Value) (err error) {
		f.value, err = take(v)
		return err
	})
	return f
}

// newStart is for a call that makes an iterator at the server. It stays known when its
// caller gives up, for the iterator must be released.
func newStart(c *conn, name string) *future[int64] {
	f := newFuture(c, name, takeIterator)
	f.call.kept = true
	return f
}

func (f *future[T]) ready() bool {
	select {
	case <-f.call.done:
		return true
	default:
		return false
	}
}

// Iterate implements raidstorage.Storage. Up to 32 transactions are fetched at the
// same time, each record by record, and about 8 MiB of records kept; the server's iterators are released when the caller
// stops early. Transaction.Size is 0.
func (s *Storage) Iterate(ctx context.Context, from, through raidstorage.TID) iter.Seq2[*raidstorage.Transaction, error] {
	return func(yield func(*raidstorage.Transaction, error) bool) {
		leave, c, err := s.enter(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		leave()
		if from > through {
			return
		}
		if !c.info.iterate {
			yield(nil, &raidstorage.UnsupportedError{Storage: s.Name(), Capability: "Iterate"})
			return
		}
		it := &iteration{s: s, c: c}
		defer it.release()
		if err := it.begin(ctx, from, through); err != nil {
			yield(nil, err)
			return
		}
		it.run(ctx, yield)
	}
}

func (it *iteration) begin(ctx context.Context, from, through raidstorage.TID) error {
	bound := func(tid raidstorage.TID, none bool) zeowire.Value {
		if none {
			return zeowire.None()
		}
		return zeowire.TID(tid)
	}
	first, last := bound(from, from == 0), bound(through, through >= raidstorage.MaxTID)
	it.startScout = newStart(it.c, zeowire.IteratorStart)
	it.startMain = newStart(it.c, zeowire.IteratorStart)
	it.ask(it.startScout.call, first, last)
	it.ask(it.startMain.call, first, last)
	if err := it.flush(ctx); err != nil {
		return err
	}
	if err := it.await(ctx, it.startScout.call); err != nil {
		return err
	}
	return it.await(ctx, it.startMain.call)
}

func (it *iteration) run(ctx context.Context, yield func(*raidstorage.Transaction, error) bool) {
	for {
		p, err := it.first(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		if p == nil {
			return
		}
		if !yield(&raidstorage.Transaction{Meta: p.meta, Records: it.recordsOf(ctx, p)}, nil) {
			return
		}
		it.window = it.window[1:]
		it.buffered -= p.bytes
		it.drop(p)
	}
}

// first returns the next transaction, nil at the end.
func (it *iteration) first(ctx context.Context) (*pending, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := it.pump(ctx); err != nil {
			return nil, err
		}
		if len(it.window) == 0 {
			if it.scoutEnded {
				return nil, nil
			}
			if err := it.await(ctx, it.scout.call); err != nil {
				return nil, err
			}
			continue
		}
		p := it.window[0]
		if err := it.await(ctx, p.next.call); err != nil {
			return nil, err
		}
		if p.next.value == nil || p.next.value.TID != p.meta.TID {
			return nil, &ProtocolError{Server: it.c.server, Reason: "the log changed while it was iterated over"}
		}
		return p, nil
	}
}

// recordsOf yields the records of p, which is the first in the window as long as
// its Transaction is valid.
func (it *iteration) recordsOf(ctx context.Context, p *pending) iter.Seq2[raidstorage.Record, error] {
	return func(yield func(raidstorage.Record, error) bool) {
		if p.base > 0 { // its beginning was too long to be kept
			it.again(ctx, p.meta.TID, yield)
			return
		}
		for i := 0; ; i++ {
			r, err := it.record(ctx, p, i)
			if err != nil {
				yield(raidstorage.Record{}, err)
				return
			}
			if r == nil || !yield(*r, nil) {
				return
			}
		}
	}
}

// again yields the records of a transaction by an iteration of its own.
func (it *iteration) again(ctx context.Context, tid raidstorage.TID, yield func(raidstorage.Record, error) bool) {
	for txn, err := range it.s.Iterate(ctx, tid, tid) {
		if err != nil {
			yield(raidstorage.Record{}, err)
			return
		}
		for r, err := range txn.Records {
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// record returns record i of p, nil at the end. Those before i may be dropped.
func (it *iteration) record(ctx context.Context, p *pending, i int) (*raidstorage.Record, error) {
	for {
		if i < p.base {
			return nil, &raidstorage.InvalidError{Op: "iterate", Reason: "records are ranged over twice at the same time"}
		}
		if at := i - p.base; at < len(p.records) {
			r := p.records[at]
			if p.bytes > maxBuffered { // too much to be kept for another time
				for _, old := range p.records[:at+1] {
					p.bytes -= int64(len(old.Data))
					it.buffered -= int64(len(old.Data))
				}
				p.records, p.base = p.records[at+1:], i+1
			}
			return &r, nil
		}
		if p.ended {
			return nil, ctx.Err()
		}
		if err := it.pump(ctx); err != nil {
			return nil, err
		}
		if i-p.base < len(p.records) || p.ended {
			continue
		}
		waitFor := p.start.call
		if p.asked != nil {
			waitFor = p.asked.call
		}
		if err := it.await(ctx, waitFor); err != nil {
			return nil, err
		}
	}
}

// pump takes the answers that have come and asks for more, in one write.
func (it *iteration) pump(ctx context.Context) error {
	if err := it.harvestScout(); err != nil {
		return err
	}
	for i, p := range it.window {
		if err := it.harvest(p); err != nil {
			return err
		}
		it.askRecord(p, i == 0)
	}
	if it.scout == nil && !it.scoutEnded && len(it.window) < maxWindow {
		it.scout = newFuture(it.c, zeowire.IteratorNext, takeHead)
		it.ask(it.scout.call, zeowire.Int(it.startScout.value))
	}
	return it.flush(ctx)
}

// harvestScout takes the tid that the scout has found, and sends the main iterator
// after it.
func (it *iteration) harvestScout() error {
	f := it.scout
	if f == nil || !f.ready() {
		return nil
	}
	it.scout = nil
	if f.call.err != nil {
		return it.c.mapped(f.call.name, f.call.err)
	}
	if f.value == nil {
		it.scoutEnded = true
		return nil
	}
	it.s.show(f.value.TID)
	p := &pending{
		meta:  *f.value,
		next:  newFuture(it.c, zeowire.IteratorNext, takeHead),
		start: newStart(it.c, zeowire.IteratorRecordStart),
	}
	main := zeowire.Int(it.startMain.value)
	it.ask(p.next.call, main)
	it.ask(p.start.call, main, zeowire.TID(p.meta.TID))
	it.window = append(it.window, p)
	return nil
}

// harvest takes the record of p that has come.
func (it *iteration) harvest(p *pending) error {
	if !p.started && p.start.ready() {
		if p.start.call.err != nil {
			return it.c.mapped(p.start.call.name, p.start.call.err)
		}
		p.started, p.id = true, p.start.value
	}
	f := p.asked
	if f == nil || !f.ready() {
		return nil
	}
	p.asked = nil
	it.asking--
	if f.call.err != nil {
		return it.c.mapped(f.call.name, f.call.err)
	}
	if f.value == nil {
		p.ended = true
		return nil
	}
	r := *f.value
	if r.TID != p.meta.TID {
		return &ProtocolError{Server: it.c.server, Reason: "a record of another transaction"}
	}
	r.OpenBlob = it.s.blobOf(r)
	size := int64(len(r.Data))
	p.records = append(p.records, r)
	p.bytes += size
	it.buffered += size
	it.largest = max(size, it.largest-it.largest/64)
	return nil
}

// askRecord asks for one more record of p, if memory allows. The first transaction in
// the window goes on always.
func (it *iteration) askRecord(p *pending, first bool) {
	if !p.started || p.ended || p.asked != nil {
		return
	}
	if !first && it.buffered+(it.asking+1)*it.largest > maxBuffered {
		return
	}
	p.asked = newFuture(it.c, zeowire.IteratorRecordNext, it.takeRecord)
	it.asking++
	it.ask(p.asked.call, zeowire.Int(p.id))
}

// ask puts a call into the next flush.
func (it *iteration) ask(k *call, args ...zeowire.Value) {
	it.out = append(it.out, question{k, args})
}

func (it *iteration) flush(ctx context.Context) error {
	if len(it.out) == 0 {
		return nil
	}
	calls := make([]*call, len(it.out))
	for i, r := range it.out {
		calls[i] = r.call
		r.call.heard = it.c.heard.Load()
	}
	err := it.c.send(ctx, func(w *zeowire.Writer) error {
		for _, r := range it.out {
			if err := w.Message(zeowire.Call(zeowire.IntID(r.call.id), r.call.name, r.args...)); err != nil {
				return err
			}
		}
		return nil
	}, calls...)
	it.out = it.out[:0]
	return err
}

// await waits for a call of this iteration, as a call of the storage.
func (it *iteration) await(ctx context.Context, k *call) error {
	select {
	case <-k.done:
		return it.c.mapped(k.name, k.err)
	default:
	}
	if err := it.s.begin(ctx); err != nil {
		return err
	}
	defer it.s.calls.Done()
	return it.c.mapped(k.name, it.c.wait(ctx, k))
}
