package memstorage

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/zeoraid/raidstorage"
)

// Iterate implements raidstorage.Storage. It holds no lock between transactions.
func (s *Storage) Iterate(ctx context.Context, from, through raidstorage.TID) iter.Seq2[*raidstorage.Transaction, error] {
	return func(yield func(*raidstorage.Transaction, error) bool) {
		h := s.handle()
		if err := h.rlock(ctx); err != nil {
			yield(nil, err)
			return
		}
		log := h.db.log // its entries never change
		h.db.mu.RUnlock()
		start, _ := findTxn(log, from)
		var cur *transaction
		out := raidstorage.Transaction{Records: func(yield func(raidstorage.Record, error) bool) {
			for i := range cur.records {
				if !yield(cur.records[i].export(), nil) {
					return
				}
			}
		}}
		for _, cur = range log[start:] {
			if cur.TID > through {
				return
			}
			if err := h.alive(ctx); err != nil {
				yield(nil, err)
				return
			}
			out.Meta, out.Size = cur.Meta, cur.bytes
			if !yield(&out, nil) {
				return
			}
		}
	}
}

// alive returns an error once the handle is closed or ctx has ended.
func (h *handle) alive(ctx context.Context) error {
	if h.closed.Load() {
		return raidstorage.ErrClosed
	}
	return ctx.Err()
}

// export returns the record as callers see it.
func (rec *record) export() raidstorage.Record {
	out := raidstorage.Record{OID: rec.oid, TID: rec.tid, Data: rec.data}
	if rec.data != nil {
		out.DataTID = rec.dataTID
	}
	if blob := rec.blob; blob != nil {
		out.OpenBlob = func(context.Context) (io.ReadCloser, error) { return openBlob(blob), nil }
	}
	return out
}

// CurrentRecords implements raidstorage.RecordIterator. It holds no lock between
// records, but a list of all oids.
func (s *Storage) CurrentRecords(ctx context.Context, from raidstorage.OID) iter.Seq2[raidstorage.Record, error] {
	return func(yield func(raidstorage.Record, error) bool) {
		h := s.handle()
		if err := h.rlock(ctx); err != nil {
			yield(raidstorage.Record{}, err)
			return
		}
		var oids []raidstorage.OID
		for oid := range h.db.objects {
			if oid >= from {
				oids = append(oids, oid)
			}
		}
		h.db.mu.RUnlock()
		slices.Sort(oids)
		for _, oid := range oids {
			if err := h.rlock(ctx); err != nil {
				yield(raidstorage.Record{}, err)
				return
			}
			rec := h.db.current(oid)
			h.db.mu.RUnlock()
			if rec == nil || rec.data == nil {
				continue
			}
			if !yield(rec.export(), nil) {
				return
			}
		}
	}
}

// OpenBlob implements raidstorage.BlobLoader.
func (s *Storage) OpenBlob(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) (io.ReadCloser, error) {
	h := s.handle()
	if err := h.rlock(ctx); err != nil {
		return nil, err
	}
	rec := h.db.exact(oid, serial)
	h.db.mu.RUnlock()
	if rec == nil || rec.blob == nil {
		return nil, &raidstorage.NotFoundError{OID: oid, Serial: serial}
	}
	return openBlob(rec.blob), nil
}

// History implements raidstorage.Historian.
func (s *Storage) History(ctx context.Context, oid raidstorage.OID, limit int) ([]raidstorage.TxnInfo, error) {
	h := s.handle()
	if err := checkLimit("history", limit); err != nil {
		return nil, err
	}
	if err := h.rlock(ctx); err != nil {
		return nil, err
	}
	defer h.db.mu.RUnlock()
	obj := h.db.objects[oid]
	if obj == nil {
		return nil, &raidstorage.NotFoundError{OID: oid}
	}
	infos := make([]raidstorage.TxnInfo, 0, min(limit, len(obj.revs)))
	for _, rec := range slices.Backward(obj.revs) {
		if len(infos) == limit {
			break
		}
		if i, found := h.db.find(rec.tid); found {
			infos = append(infos, raidstorage.TxnInfo{Meta: h.db.log[i].Meta, Size: int64(len(rec.data))})
		}
	}
	return infos, nil
}

// UndoLog implements raidstorage.Undoer. match is called without any lock held.
func (s *Storage) UndoLog(ctx context.Context, skip, limit int, match func(raidstorage.TxnInfo) bool) ([]raidstorage.TxnInfo, error) {
	h := s.handle()
	if err := checkLimit("undo log", min(skip, limit)); err != nil {
		return nil, err
	}
	if err := h.rlock(ctx); err != nil {
		return nil, err
	}
	log := h.db.log
	h.db.mu.RUnlock()
	var infos []raidstorage.TxnInfo
	for _, txn := range slices.Backward(log) {
		if len(infos) >= limit {
			break
		}
		if err := h.alive(ctx); err != nil {
			return nil, err
		}
		if txn.Status != raidstorage.StatusNormal {
			continue
		}
		info := raidstorage.TxnInfo{Meta: txn.Meta, Size: txn.bytes}
		if match != nil && !match(info) {
			continue
		}
		if skip > 0 {
			skip--
			continue
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func checkLimit(op string, n int) error {
	if n < 0 {
		return &raidstorage.InvalidError{Op: op, Reason: fmt.Sprintf("a negative number: %d", n)}
	}
	return nil
}

// Size implements raidstorage.Sizer. The bytes are those that a FileStorage of the
// same log would take, without blobs.
func (s *Storage) Size(ctx context.Context) (objects, size int64, err error) {
	h := s.handle()
	if err := h.rlock(ctx); err != nil {
		return 0, 0, err
	}
	defer h.db.mu.RUnlock()
	return h.db.live, h.db.bytes, nil
}

// subscription is one call of Subscribe.
type subscription struct {
	h      *handle
	notify func(raidstorage.Invalidation)
}

// Subscribe implements raidstorage.Notifier: it tells of transactions finished
// through other handles, before their Finish returns. notify must not call cancel.
func (s *Storage) Subscribe(notify func(raidstorage.Invalidation)) (cancel func()) {
	h := s.handle()
	sub := &subscription{h: h, notify: notify}
	h.db.subsMu.Lock()
	defer h.db.subsMu.Unlock()
	if !h.closed.Load() { // Close removes subscriptions after it has set closed
		h.db.subs = append(h.db.subs, sub)
	}
	return func() { h.db.unsubscribe(func(other *subscription) bool { return other == sub }) }
}

func (db *database) unsubscribe(remove func(*subscription) bool) {
	db.subsMu.Lock()
	defer db.subsMu.Unlock()
	db.subs = slices.DeleteFunc(db.subs, remove)
}

// notify tells the subscribers of other handles about t. The caller holds the
// commit lock.
func (db *database) notify(t *txn) {
	db.subsMu.Lock()
	defer db.subsMu.Unlock()
	for _, sub := range db.subs {
		if sub.h == t.h {
			continue
		}
		oids := make([]raidstorage.OID, len(t.records)) // its own: a subscriber may keep it
		for i := range t.records {
			oids[i] = t.records[i].oid
		}
		sub.notify(raidstorage.Invalidation{TID: t.TID, OIDs: oids})
	}
}
