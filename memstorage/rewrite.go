package memstorage

import (
	"context"
	"slices"

	"github.com/zeoraid/raidstorage"
)

// lockLog takes the locks for rewriting the log; the returned function frees them.
func (h *handle) lockLog(ctx context.Context) (unlock func(), err error) {
	if err := h.take(ctx, h.db.packing); err != nil {
		return nil, err
	}
	if err := h.take(ctx, h.db.commit); err != nil {
		<-h.db.packing
		return nil, err
	}
	return func() {
		<-h.db.commit
		<-h.db.packing
	}, nil
}

// TruncateAfter implements raidstorage.Truncater. What it removes is lost.
func (s *Storage) TruncateAfter(ctx context.Context, tid, last raidstorage.TID) error {
	h := s.handle()
	unlock, err := h.lockLog(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	db := h.db
	if last != db.last {
		return &raidstorage.TIDOrderError{TID: last, Last: db.last}
	}
	keep, _ := db.find(min(tid, raidstorage.MaxTID) + 1)
	db.mu.Lock()
	defer db.mu.Unlock()
	removed := db.log[keep:]
	db.log = slices.Clone(db.log[:keep]) // iterations may go on over the old one
	db.rewrites++
	for _, txn := range slices.Backward(removed) {
		for i := range txn.records {
			db.dropLast(txn.records[i].oid)
		}
		db.bytes -= txn.bytes
	}
	db.last = 0
	if keep > 0 {
		db.last = db.log[keep-1].TID
	}
	return nil
}

// dropLast removes the last revision of oid. The caller holds mu.
func (db *database) dropLast(oid raidstorage.OID) {
	obj := db.objects[oid]
	n := len(obj.revs) - 1
	if obj.revs[n].data != nil {
		db.live--
	}
	obj.revs[n] = nil // let it go
	obj.revs = obj.revs[:n]
	if n == 0 {
		delete(db.objects, oid)
	} else if obj.revs[n-1].data != nil {
		db.live++
	}
}
