package zeoclient

import (
	"context"
	"io"
	"iter"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/pickleref"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// record_iternext returns the first object at or after an oid, and the oid of the one
// after it. Oids mostly follow each other without gaps. So the ones after are asked
// for before the answer is there, one ahead at first, and more as long as that turns
// out to be right.

// maxGuesses is how many objects are asked for at the same time.
const maxGuesses = 16

// currentRecord is a reply to record_iternext.
type currentRecord struct {
	raidstorage.Record
	next raidstorage.OID
	more bool
}

// guess is a call of record_iternext.
type guess struct {
	from raidstorage.OID
	*future[currentRecord]
}

// records is one CurrentRecords.
type records struct {
	s       *Storage
	c       *conn
	want    raidstorage.OID // the next object is the first one from here on
	guesses []guess         // in ascending order
	ahead   int
}

// CurrentRecords implements raidstorage.RecordIterator.
func (s *Storage) CurrentRecords(ctx context.Context, from raidstorage.OID) iter.Seq2[raidstorage.Record, error] {
	return func(yield func(raidstorage.Record, error) bool) {
		leave, c, err := s.enter(ctx)
		if err != nil {
			yield(raidstorage.Record{}, err)
			return
		}
		leave()
		it := &records{s: s, c: c, want: from, ahead: 1}
		defer it.release()
		for more := true; more; {
			var r currentRecord
			if r, err = it.next(ctx); err != nil {
				yield(raidstorage.Record{}, err)
				return
			}
			if more = r.more; more && r.next <= it.want {
				yield(raidstorage.Record{}, &ProtocolError{Server: c.server, Reason: "record_iternext goes round in a circle"})
				return
			}
			it.want = r.next
			if r.Data != nil && !yield(r.Record, nil) {
				return
			}
		}
	}
}

// next returns the first object from want on; a record without data stands for none.
func (it *records) next(ctx context.Context) (currentRecord, error) {
	for {
		if err := it.ask(ctx); err != nil {
			return currentRecord{}, err
		}
		g := it.guesses[0]
		it.guesses = it.guesses[1:]
		if err := it.await(ctx, g.call); err != nil {
			r, again, err := it.missing(err)
			if !again {
				return r, err
			}
			it.ahead = 1
			continue
		}
		if g.from <= it.want && it.want <= g.value.OID {
			it.ahead = min(2*it.ahead, maxGuesses)
			r := g.value
			r.OpenBlob = it.s.blobOf(r.Record)
			return r, nil
		}
		it.ahead = 1 // there are gaps
	}
}

// ask sends guesses until enough are under way. Those that cannot be right any more
// are dropped.
func (it *records) ask(ctx context.Context) error {
	for len(it.guesses) > 0 && it.guesses[0].from < it.want && !it.guesses[0].ready() {
		it.c.forget(it.guesses[0].call)
		it.guesses = it.guesses[1:]
		it.ahead = 1
	}
	from := it.want
	if n := len(it.guesses); n > 0 {
		if it.guesses[0].from > it.want { // it says nothing about want
			it.release()
		} else {
			from = it.guesses[n-1].from + 1
		}
	}
	first := len(it.guesses)
	for ; len(it.guesses) < it.ahead && from >= it.want; from++ {
		it.guesses = append(it.guesses, guess{from, newFuture(it.c, zeowire.RecordIternext, it.c.takeCurrent)})
	}
	fresh := it.guesses[first:]
	if len(fresh) == 0 {
		return nil
	}
	calls := make([]*call, len(fresh))
	for i, g := range fresh {
		calls[i] = g.call
	}
	return it.c.send(ctx, func(w *zeowire.Writer) error {
		for _, g := range fresh {
			if err := w.Message(zeowire.Call(zeowire.IntID(g.call.id), g.call.name, zeowire.OID(g.from))); err != nil {
				return err
			}
		}
		return nil
	}, calls...)
}

func (it *records) await(ctx context.Context, k *call) error {
	if err := it.s.begin(ctx); err != nil {
		return err
	}
	defer it.s.calls.Done()
	return it.c.wait(ctx, k)
}

func (it *records) release() {
	for _, g := range it.guesses {
		it.c.forget(g.call)
	}
	it.guesses = nil
}

// missing says what it means that the server has no record from a guess on, which is
// never after want. again: nothing.
func (it *records) missing(err error) (r currentRecord, again bool, _ error) {
	if _, none := raised(err, zeowire.ClassValueError); none {
		return r, false, nil // there is none from there on
	}
	if e, deleted := raised(err, zeowire.ClassPOSKey); deleted {
		// The first object is deleted; what comes after it is asked for next.
		items, _ := e.Args.Items()
		if len(items) > 0 {
			if oid, ok := items[0].OID(); ok && oid+1 != 0 {
				return currentRecord{next: oid + 1, more: true}, oid < it.want, nil
			}
		}
	}
	return r, false, it.c.mapped(zeowire.RecordIternext, err)
}

// takeCurrent reads (oid, tid, data, next oid or None), in the reader.
func (c *conn) takeCurrent(v zeowire.Value) (r currentRecord, err error) {
	items, _ := v.Items()
	if len(items) != 4 {
		return r, violation("no quadruple")
	}
	var isOID, isTID bool
	r.OID, isOID = items[0].OID()
	r.TID, isTID = items[1].TID()
	data, isData := items[2].Bytes()
	r.next, r.more = items[3].OID()
	if !isOID || !isTID || !isData && !items[2].IsNone() || !r.more && !items[3].IsNone() {
		return r, violation("other types")
	}
	if isData {
		r.Data = c.own(data)
	}
	return r, nil
}

// blobOf returns the function that opens a record's blob, nil if it has none.
func (s *Storage) blobOf(r raidstorage.Record) func(context.Context) (io.ReadCloser, error) {
	if r.Data == nil || !s.capabilities().blobs || !pickleref.IsBlob(r.Data) {
		return nil
	}
	oid, serial := r.OID, r.TID
	return func(ctx context.Context) (io.ReadCloser, error) { return s.OpenBlob(ctx, oid, serial) }
}
