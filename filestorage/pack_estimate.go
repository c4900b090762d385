package filestorage

import (
	"context"
	"errors"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/packtally"
	"github.com/zeoraid/raidstorage/internal/pickleref"
)

var _ raidstorage.PackEstimator = (*Storage)(nil)

// EstimatePack implements raidstorage.PackEstimator: steps 1 and 2 of Pack, and step 3
// without writing anything. PackEstimate.Bytes is what Data.fs would lose. All is 0 where
// Pack would leave the file as it is. Records that no reader sees, of transactions with
// status 'u', count in Bytes only. Memory as of Pack.
func (s *Storage) EstimatePack(ctx context.Context, opts raidstorage.PackOptions) (raidstorage.PackEstimate, error) {
	none := raidstorage.PackEstimate{Through: opts.Through}
	leave, err := s.enterPack(ctx)
	if err != nil {
		return none, err
	}
	defer leave()
	p, err := s.newPacker(ctx, opts)
	if p == nil || err != nil {
		return none, err
	}
	defer s.unpin(p.src)
	p.repeated = make(map[raidstorage.OID]bool)
	nothing, err := p.read()
	if err == nil && !nothing && p.marks != nil && !p.decided {
		err = p.reach()
	}
	e := estimate{packer: p}
	if err == nil && !nothing {
		nothing, err = e.make()
	}
	if err == nil && s.cuts.Load() != p.cuts {
		err = errCut
	}
	switch {
	case err != nil:
		return none, p.because(err)
	case nothing:
		return none, nil
	}
	return e.tally.Estimate(opts.Through, e.freed), nil
}

// estimate goes the way of copyToPackTime and copyLater.
type estimate struct {
	*packer
	tally packtally.Tally
	freed int64
}

// make tells whether there is nothing to free, as copyAll does.
func (e *estimate) make() (nothing bool, err error) {
	newPack := int64(magicLen)
	e.rewind()
	_, err = e.transactions(magicLen, e.packPos, func(h txnHeader) (bool, error) {
		if h.status == statusUndone {
			return true, nil
		}
		n, err := e.packed(h)
		newPack += n
		return true, err
	})
	if err != nil || newPack == e.packPos {
		return true, err
	}
	e.freed = e.packPos - newPack
	_, err = e.transactions(e.packPos, e.end, func(h txnHeader) (bool, error) {
		return true, e.records(h, e.later)
	})
	return false, err
}

// packed returns how long a transaction up to the pack time becomes, 0 if it goes.
func (e *estimate) packed(h txnHeader) (length int64, err error) {
	stays := e.decided && h.next() == e.packPos // see raidstorage.PackOptions
	err = e.records(h, func(rec recordHeader) error {
		if !e.stays(rec) {
			return e.drop(rec)
		}
		source, err := e.dataSource(rec)
		if err != nil {
			return err
		}
		if _, later := e.kept[rec.pos]; later {
			e.kept[rec.pos] = rec.pos // it has a place in the new file
		}
		stays = true
		length += recordLen(source.size)
		return nil
	})
	if !stays {
		return 0, err
	}
	return h.headerLen() + length + trailerLen, err
}

// drop counts a record that goes.
func (e *estimate) drop(rec recordHeader) error {
	garbage := e.marks != nil && e.cur.get(rec.oid) == rec.pos && !e.marks.has(rec.oid) && !e.repeated[rec.oid]
	var data []byte
	source, err := e.dataSource(rec)
	if _, damaged := errors.AsType[*raidstorage.CorruptError](err); damaged {
		source.size, data = 0, []byte{} // which does not stop a pack either
	} else if err != nil {
		return err
	}
	if source.size > 0 {
		w := &e.w
		if source.pos < w.off {
			w = &e.earlier
		}
		if data, err = w.at(source.data(), int(min(source.size, pickleref.MaxClassPickle))); err != nil {
			return e.s.ioError("read", err)
		}
	}
	// A pointer to a deletion is an undone creation.
	e.tally.Drop(garbage && data != nil, rec.size, data)
	return nil
}

// later takes in a record after the pack time: it gets the data that it repeats if that
// goes.
func (e *estimate) later(rec recordHeader) error {
	if rec.size != 0 || rec.back == 0 || rec.back >= e.packPos || e.kept[rec.back] != 0 {
		return nil
	}
	source, err := e.dataSource(rec)
	if err == nil {
		e.freed -= recordLen(source.size) - recordLen(0)
	}
	return err
}

// recordLen is the length of a record with its data, or with a pointer if it has none.
func recordLen(size int64) int64 {
	if size == 0 {
		return maxRecordHeaderLen
	}
	return recordHeaderLen + size
}
