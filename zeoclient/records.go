package zeoclient

import (
	"context"
	"io"
	"iter"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/pickleref"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// currentRecord is a reply to record_iternext.
type currentRecord struct {
	raidstorage.Record
	next raidstorage.OID
	more bool
}

// CurrentRecords implements raidstorage.RecordIterator, with one call for each
// object, as each answer says what to ask for next.
func (s *Storage) CurrentRecords(ctx context.Context, from raidstorage.OID) iter.Seq2[raidstorage.Record, error] {
	return func(yield func(raidstorage.Record, error) bool) {
		for next, more := from, true; more; {
			r, err := s.currentRecord(ctx, next)
			if _, none := raised(err, zeowire.ClassValueError); none {
				return // there is none from there on
			}
			if err != nil {
				yield(raidstorage.Record{}, err)
				return
			}
			if more = r.more && r.next > next; r.more && !more {
				yield(raidstorage.Record{}, &ProtocolError{Server: s.Name(), Reason: "record_iternext goes round in a circle"})
				return
			}
			if r.Data != nil && !yield(r.Record, nil) {
				return
			}
			next = r.next
		}
	}
}

func (s *Storage) currentRecord(ctx context.Context, from raidstorage.OID) (r currentRecord, err error) {
	leave, c, err := s.enter(ctx)
	if err != nil {
		return r, err
	}
	defer leave()
	r, err = request(ctx, c, zeowire.RecordIternext, func(v zeowire.Value) (r currentRecord, err error) {
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
	}, zeowire.OID(from))
	if err == nil {
		r.OpenBlob = s.blobOf(r.Record)
		return r, nil
	}
	if _, none := raised(err, zeowire.ClassValueError); none {
		return r, err
	}
	if e, deleted := raised(err, zeowire.ClassPOSKey); deleted {
		// The object at or after from is deleted; what comes after it is asked for next.
		items, _ := e.Args.Items()
		if len(items) > 0 {
			if oid, ok := items[0].OID(); ok && oid >= from && oid+1 != 0 {
				return currentRecord{next: oid + 1, more: true}, nil
			}
		}
	}
	return r, c.mapped(zeowire.RecordIternext, err)
}

// blobOf returns the function that opens a record's blob, nil if it has none.
func (s *Storage) blobOf(r raidstorage.Record) func(context.Context) (io.ReadCloser, error) {
	if r.Data == nil || !s.capabilities().blobs || !pickleref.IsBlob(r.Data) {
		return nil
	}
	oid, serial := r.OID, r.TID
	return func(ctx context.Context) (io.ReadCloser, error) { return s.OpenBlob(ctx, oid, serial) }
}
