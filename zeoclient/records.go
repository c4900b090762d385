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
// after it. Where there is none it raises a ValueError, which Python's server logs as an
// error. So it is only asked for from an oid on that is known to be there, which allows
// one call at a time. But oids mostly follow each other without gaps, and a load of an
// object that is not there is no error in anybody's log. So the oids after the known one
// are loaded at the same time, more as long as most of them are there. The last one that
// was is where the next record_iternext begins; it tells the next oid after the gap.
//
// After a deleted object nothing tells whether there are others. Then the oids up to the
// next new one are loaded. So only two calls may be after the end: the first one, unless
// from is 0, and one after a deleted object where the server does not give new oids, or
// has given more than 4096 since.

const (
	// maxGuesses is how many objects are loaded at the same time.
	maxGuesses = 32
	// maxDoubts is how many oids are tried after a deleted object.
	maxDoubts = 4096
)

// currentRecord is a reply to record_iternext.
type currentRecord struct {
	raidstorage.Record
	next raidstorage.OID
	more bool
}

// guess is a load of an object that is perhaps there.
type guess struct {
	oid raidstorage.OID
	*future[raidstorage.Revision]
}

// records is one CurrentRecords.
type records struct {
	s *Storage
	c *conn
	// known is the oid that record_iternext is asked about.
	known raidstorage.OID
	// want is the next oid to yield, or known has one before it.
	want    raidstorage.OID
	step    *future[currentRecord]
	guesses []guess // of the oids after known
	width   int     // how many guesses to make
	largest int     // record, in bytes
	found   []raidstorage.Record
}

// CurrentRecords implements raidstorage.RecordIterator.
func (s *Storage) CurrentRecords(ctx context.Context, from raidstorage.OID) iter.Seq2[raidstorage.Record, error] {
	return func(yield func(raidstorage.Record, error) bool) {
		leave, c, err := s.enter(ctx)
		if err != nil {
			yield(raidstorage.Record{}, err)
			return
		}
		last, err := s.lastTID(ctx, c)
		leave()
		if err != nil {
			yield(raidstorage.Record{}, err)
			return
		}
		if last == 0 {
			return // it is empty
		}
		it := &records{s: s, c: c, known: from, want: from, width: 1}
		defer it.release()
		err = it.ask(ctx)
		for more := true; more; {
			if err == nil {
				more, err = it.take(ctx)
			}
			found := it.found
			it.found = nil
			if err == nil && more {
				err = it.ask(ctx) // so that it is on its way while these are yielded
			}
			for _, r := range found {
				if !yield(r, nil) {
					return
				}
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(raidstorage.Record{}, err)
				return
			}
		}
	}
}

// ask sends the calls of a step.
func (it *records) ask(ctx context.Context) error {
	width := min(it.width, maxBuffered/(it.largest+1))
	it.guesses = it.guessesAfter(it.known, width)
	it.step = newFuture(it.c, zeowire.RecordIternext, it.c.takeCurrent)
	calls := make([]*call, 0, width+1)
	calls = append(calls, it.step.call)
	for _, g := range it.guesses {
		calls = append(calls, g.call)
	}
	return it.c.send(ctx, func(w *zeowire.Writer) error {
		if err := w.Message(zeowire.Call(zeowire.IntID(it.step.call.id), zeowire.RecordIternext, zeowire.OID(it.known))); err != nil {
			return err
		}
		return writeGuesses(w, it.guesses)
	}, calls...)
}

func (it *records) guessesAfter(oid raidstorage.OID, n int) []guess {
	guesses := make([]guess, 0, n)
	for range n {
		if oid++; oid == 0 {
			break
		}
		guesses = append(guesses, guess{oid, newFuture(it.c, zeowire.LoadBefore, func(v zeowire.Value) (r raidstorage.Revision, err error) {
			if v.IsNone() {
				return r, nil
			}
			return it.c.revision(v)
		})})
	}
	return guesses
}

func writeGuesses(w *zeowire.Writer, guesses []guess) error {
	for _, g := range guesses {
		if err := w.LoadBefore(zeowire.IntID(g.call.id), g.oid, raidstorage.MaxTID); err != nil {
			return err
		}
	}
	return nil
}

// take adds to found what a step brought, and says where the next one begins. more is
// false at the end.
func (it *records) take(ctx context.Context) (more bool, _ error) {
	err := it.await(ctx, it.step.call)
	deleted, isDeleted := missing(err)
	if _, end := raised(err, zeowire.ClassValueError); end {
		return false, nil
	}
	if err != nil && !isDeleted {
		return false, it.c.mapped(zeowire.RecordIternext, err)
	}
	first := it.step.value.OID
	next := it.step.value.next
	if isDeleted {
		first, next = deleted, deleted+1
	}
	if first < it.known || next <= first && (isDeleted || it.step.value.more) {
		return false, &ProtocolError{Server: it.c.server, Reason: "record_iternext goes round in a circle"}
	}
	if !isDeleted && first >= it.want {
		it.add(it.step.value.Record)
	}
	if !isDeleted && !it.step.value.more {
		return false, nil
	}
	covered, hit, err := it.takeGuesses(ctx, it.guesses, max(next, it.want))
	if err != nil {
		return false, err
	}
	it.want = max(next, covered+1)
	switch {
	case hit != 0:
		it.known = hit
	case isDeleted:
		return it.doubt(ctx)
	default:
		it.known = next
	}
	return true, nil
}

// takeGuesses adds the objects from an oid on that were there. It returns the last oid
// that was guessed, and the last one that was there, 0 for none.
func (it *records) takeGuesses(ctx context.Context, guesses []guess, from raidstorage.OID) (covered, hit raidstorage.OID, _ error) {
	hits := 0
	for _, g := range guesses {
		err := it.await(ctx, g.call)
		covered = g.oid
		if _, none := raised(err, zeowire.ClassPOSKey, zeowire.ClassKeyError); none {
			continue
		}
		if err != nil {
			return 0, 0, it.c.mapped(zeowire.LoadBefore, err)
		}
		if r := g.value; r.Data != nil && g.oid >= from {
			it.add(raidstorage.Record{OID: g.oid, TID: r.Serial, Data: r.Data})
			hit = g.oid
			hits++
		}
	}
	if 2*hits >= len(guesses) {
		it.width = min(2*it.width+1, maxGuesses)
	} else {
		it.width = max(1, it.width/2)
	}
	return covered, hit, nil
}

// doubt looks for an object after a deleted one, of which nothing tells whether it is
// the last. more is false if it is.
func (it *records) doubt(ctx context.Context) (more bool, _ error) {
	there := it.known
	it.known = it.want
	if it.s.opts.ReadOnly || it.c.readOnly {
		return true, nil
	}
	fresh, err := request(ctx, it.c, zeowire.NewOIDs, takeOIDs, zeowire.Int(1))
	if err != nil {
		return false, it.c.mapped(zeowire.NewOIDs, err)
	}
	if fresh[0] <= there || fresh[0] > it.want && fresh[0]-it.want > maxDoubts {
		return true, nil
	}
	for it.want < fresh[0] {
		guesses := it.guessesAfter(it.want-1, int(min(fresh[0]-it.want, maxGuesses)))
		covered, hit, err := it.tryAll(ctx, guesses)
		if err != nil {
			return false, err
		}
		it.want = covered + 1
		if hit != 0 {
			it.known = hit
			return true, nil
		}
	}
	return false, nil // what is stored from there on is newer
}

func (it *records) tryAll(ctx context.Context, guesses []guess) (covered, hit raidstorage.OID, _ error) {
	defer it.forget(guesses)
	calls := make([]*call, len(guesses))
	for i, g := range guesses {
		calls[i] = g.call
	}
	if err := it.c.send(ctx, func(w *zeowire.Writer) error { return writeGuesses(w, guesses) }, calls...); err != nil {
		return 0, 0, err
	}
	return it.takeGuesses(ctx, guesses, it.want)
}

func (it *records) add(r raidstorage.Record) {
	if r.Data == nil {
		return
	}
	r.OpenBlob = it.s.blobOf(r)
	it.largest = max(it.largest, len(r.Data))
	it.found = append(it.found, r)
}

func (it *records) await(ctx context.Context, k *call) error {
	if err := it.s.begin(ctx); err != nil {
		return err
	}
	defer it.s.calls.Done()
	return it.c.wait(ctx, k)
}

func (it *records) release() {
	if it.step != nil {
		it.c.forget(it.step.call)
	}
	it.forget(it.guesses)
}

func (it *records) forget(guesses []guess) {
	for _, g := range guesses {
		it.c.forget(g.call)
	}
}

// missing returns the oid of a deleted object that record_iternext came upon.
func missing(err error) (raidstorage.OID, bool) {
	e, ok := raised(err, zeowire.ClassPOSKey)
	if !ok {
		return 0, false
	}
	items, _ := e.Args.Items()
	if len(items) == 0 {
		return 0, false
	}
	return items[0].OID()
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
