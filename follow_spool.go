package raidstorage

import (
	"context"
	"io"
	"iter"
)

// spooled is a transaction on its way to a backend that follows: it was read as a whole,
// so that a target that is slow or hangs keeps no source waiting.
type spooled struct {
	meta   Meta
	log    opLog
	weight int64 // as the catch-up counts
}

// spool reads txn. What does not fit into room bytes of memory waits in a temporary file,
// and blobs always do.
func (m *Mirror) spool(ctx context.Context, txn *Transaction, room int64) (*spooled, error) {
	one := &spooled{meta: txn.Meta}
	one.log.dir, one.log.limit = m.cfg.TempDir, min(room, m.cfg.SpoolBytes)
	one.log.users.Store(1)
	one.weight = metaWeight(txn.Meta)
	for rec, err := range txn.Records {
		if err == nil {
			err = one.add(ctx, rec)
		}
		if err != nil {
			one.log.release()
			return nil, err
		}
	}
	return one, nil
}

func (one *spooled) add(ctx context.Context, rec Record) error {
	one.weight += recordWeight(len(rec.Data), rec.DataTID)
	o := op{kind: opRestore, oid: rec.OID, serial: rec.TID, dataTID: rec.DataTID, data: rec.Data}
	if rec.OpenBlob == nil {
		if err := one.log.add(o); err != nil {
			return &spoolError{err}
		}
		return nil
	}
	blob, err := rec.OpenBlob(ctx)
	if err != nil {
		return err
	}
	defer blob.Close()
	source := &noting{Reader: blob}
	if err := one.log.addBlob(o, source); err != nil {
		if source.err != nil {
			return source.err
		}
		return &spoolError{err} // says nothing against the source
	}
	one.weight += one.log.ops[len(one.log.ops)-1].blob.size
	return nil
}

// noting is a reader that remembers its error.
type noting struct {
	io.Reader
	err error
}

// Read implements io.Reader.
func (r *noting) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// records yields what was spooled, at a pace. Whoever reads a blob reads it at that pace.
func (one *spooled) records(ctx context.Context, p *pacer) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for i := range one.log.ops {
			o := &one.log.ops[i]
			rec := Record{OID: o.oid, TID: one.meta.TID, DataTID: o.dataTID}
			err := p.wait(ctx, recordWeight(o.size, o.dataTID))
			if err == nil {
				rec.Data, err = one.log.read(o)
			}
			if o.blob != nil {
				rec.OpenBlob = func(ctx context.Context) (io.ReadCloser, error) {
					blob, err := o.blob.open(ctx)
					if err != nil {
						return nil, err
					}
					return &slowBlob{blob, ctx, p}, nil
				}
			}
			if !yield(rec, err) || err != nil {
				return
			}
		}
	}
}

func releaseAll(batch []*spooled) {
	for _, one := range batch {
		one.log.release()
	}
}

// slowBlob is a blob that is read at a pace.
type slowBlob struct {
	io.ReadCloser
	ctx context.Context // of whoever opened it
	p   *pacer
}

// Read implements io.Reader.
func (b *slowBlob) Read(buf []byte) (int, error) {
	n, err := b.ReadCloser.Read(buf)
	if paced := b.p.wait(b.ctx, int64(n)); paced != nil {
		return n, paced
	}
	return n, err
}
