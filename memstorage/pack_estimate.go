package memstorage

import (
	"context"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/packtally"
)

var _ raidstorage.PackEstimator = (*Storage)(nil)

// EstimatePack implements raidstorage.PackEstimator: it makes what Pack would put in place,
// and forgets it.
func (s *Storage) EstimatePack(ctx context.Context, opts raidstorage.PackOptions) (raidstorage.PackEstimate, error) {
	none := raidstorage.PackEstimate{Through: opts.Through}
	h := s.handle()
	if err := h.take(ctx, h.db.packing); err != nil {
		return none, err
	}
	defer func() { <-h.db.packing }()
	p, log, err := s.newPacker(ctx, h, opts)
	if err != nil {
		return none, err
	}
	if err := p.read(ctx, log); err != nil {
		return none, err
	}
	var t packtally.Tally
	var before int64
	for _, txn := range log {
		if err := h.alive(ctx); err != nil {
			return none, err
		}
		before += txn.bytes
		for i := range txn.records {
			if rec := &txn.records[i]; !p.stays(rec) {
				var size int64
				if rec.dataTID == 0 {
					size = int64(len(rec.data))
				}
				t.Drop(rec.data != nil && p.packed[rec.oid] == rec, size, rec.data)
			}
		}
	}
	w := &rewrite{p: p, objects: make(map[raidstorage.OID]*object)}
	w.add(log)
	return t.Estimate(opts.Through, before-w.bytes), nil
}
