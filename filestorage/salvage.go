package filestorage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/pickleref"
)

// Recover copies what can be read of the FileStorage at damaged to a new one at fresh,
// which must not exist. Transactions keep their ids, metadata and order. opts.Found is
// called with what is wrong, as by Check, and with a finding of kind "lost" for all
// that was not copied: ranges of bytes, transactions, and objects that they are known
// to have changed. The rules:
//
//   - Of a damaged transaction the readable records are copied (see
//     InspectOptions.WholeOnly), also where its header is gone, but not from bytes at
//     the end of the file that no whole transaction follows: that one was never
//     finished.
//   - A record whose data are no pickles is lost, unless opts.Opaque is true. Its
//     object is then what it was before.
//   - Where a record's data stood in a record that is lost, the object does not exist
//     from then on.
//   - A transaction whose id is out of order is lost, unless its records agree on one
//     that is in order.
//   - Pointers, lengths and status are set right.
//   - With opts.FreshBlobDir, the blobs of the records that are copied go there, as hard
//     links if the file system has them: blob files are never changed. A record whose
//     blob is missing is copied without it, with a finding of kind "blob": its oid keeps
//     its class, so that what refers to it can be loaded, and opening the blob tells
//     that it is missing. Without opts.FreshBlobDir, blobs are not looked at.
//
// Check finds nothing in the result, but for missing blobs, references to objects that
// are lost, and those that dangled before. damaged and its blobs are only read. On an
// error nothing is left at fresh and opts.FreshBlobDir; *raidstorage.InvalidError if one
// of them exists already, if only one of the two blob directories is given, or if
// damaged holds no transaction and does not begin as a FileStorage; *LockedError if
// another process is writing fresh.
func Recover(ctx context.Context, damaged, fresh string, opts InspectOptions) (report *Report, err error) {
	in, err := inspect(damaged, opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.f.Close()) }()
	for _, path := range []string{fresh, fresh + indexSuffix} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(&raidstorage.InvalidError{Op: "recover", Reason: path + " exists already"}, err)
		}
	}
	lock, err := lockFile(fresh + ".lock")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	blobs, err := newBlobSalvage(&opts)
	if err != nil {
		return nil, err
	}
	out, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, errors.Join(err, blobs.remove())
	}
	s := &salvager{inspection: in, out: out, b: bufio.NewWriterSize(out, 256<<10), index: newIndex(), blobs: blobs}
	err = s.run(ctx)
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = syncDir(fresh)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(fresh), blobs.remove())
	}
	in.report.Objects = int64(s.index.count)
	return &in.report, err
}

// salvager writes the new file.
type salvager struct {
	*inspection
	out   *os.File
	b     *bufio.Writer
	at    int64  // where the next byte goes
	index *index // of the new file
	wrote raidstorage.TID
	moved []moved
	gap   bool // something was left out since the last of moved
	blobs *blobSalvage

	// Of the transaction being written:
	txn        txnHeader // as it will be
	oldPos     int64     // of the transaction in the old file
	lostBefore int64
	undo       []entry // where the objects were before
	undoMove   []moved // the last of moved before, if there was one
	undoLen    int     // how many there were
	kept       int     // records that were copied
	dropped    int     // records that were not

	pickles pickleref.Scanner
	refs    []raidstorage.OID
	data    []byte
}

// moved is a range of the old file whose records have gone to where they were plus
// delta.
type moved struct{ from, to, delta int64 }

func (s *salvager) run(ctx context.Context) error {
	ok, err := s.magic()
	if err != nil {
		return err
	}
	var start [magicLen]byte
	copy(start[:], magic)
	if ok {
		if err := readFull(s.f, start[:], 0); err != nil {
			return err
		}
	}
	s.write(start[:])
	for pos := int64(magicLen); pos < s.end; {
		p, err := s.walker.next(ctx, pos)
		if err == nil {
			err = s.piece(ctx, &p)
		}
		if err != nil {
			return err
		}
		pos = p.next
		s.progress(0, pos)
	}
	if !ok && s.report.Transactions == 0 {
		return &raidstorage.InvalidError{Op: "recover", Reason: s.f.Name() + " holds no transaction"}
	}
	return s.b.Flush()
}

func (s *salvager) piece(ctx context.Context, p *piece) error {
	switch {
	case !p.whole:
		return s.ruins(ctx, p)
	case p.tail:
		return s.leave(ctx, p, "an unfinished transaction")
	case p.status == statusUndone:
		s.gap = true // readers pass over it, and so does the copy
		return nil
	}
	start, err := s.firstItem(ctx, p)
	if err != nil {
		return err
	}
	tid, err := s.tidOf(ctx, p, start)
	if err != nil {
		return err
	}
	if tid == 0 {
		return s.leave(ctx, p, "a transaction whose id is out of order")
	}
	return s.transaction(ctx, p, start, tid)
}

// tidOf returns the tid that the copy of p gets, 0 if none fits.
func (s *salvager) tidOf(ctx context.Context, p *piece, start int64) (raidstorage.TID, error) {
	tell := s.found
	s.found = func(Finding) {} // they are told when the records are copied
	defer func() { s.found = tell }()
	var agreed raidstorage.TID
	n := 0
	for pos := start; pos < p.end(); n++ {
		it, err := s.item(ctx, pos, p)
		if err != nil {
			return 0, err
		}
		pos = it.next
		if it.garbage {
			continue
		}
		if n == 0 && p.inOrder && p.tid > s.wrote && it.tid == p.tid {
			return p.tid, nil // the usual case
		}
		if agreed != 0 && agreed != it.tid {
			agreed = 0
			break
		}
		agreed = it.tid
	}
	next, err := s.nextTID(p.next)
	if err != nil {
		return 0, err
	}
	header := p.inOrder && p.tid > s.wrote
	switch {
	case agreed > s.wrote && agreed < next && (!header || n > 1):
		s.last = agreed
		return agreed, nil
	case header:
		return p.tid, nil
	}
	return 0, nil
}

// nextTID returns the tid of the transaction at pos, MaxTID if there is none.
func (s *salvager) nextTID(pos int64) (raidstorage.TID, error) {
	if s.end-pos < minTxnLen {
		return raidstorage.MaxTID, nil
	}
	var b [txnHeaderLen]byte
	if err := readFull(s.f, b[:], pos); err != nil {
		return 0, err
	}
	h, bad := parseTxnHeader(b[:], pos, s.end)
	if bad != nil {
		return raidstorage.MaxTID, nil
	}
	return h.tid, nil
}

// leave does not copy p.
func (s *salvager) leave(ctx context.Context, p *piece, what string) error {
	s.lose(Finding{Offset: p.pos, Length: p.next - p.pos, TID: p.tid, Text: what})
	tell := s.found
	s.found = func(Finding) {}
	defer func() { s.found = tell }()
	pos, err := s.firstItem(ctx, p)
	for err == nil && pos < p.end() {
		var it item
		if it, err = s.item(ctx, pos, p); err == nil && !it.garbage {
			s.found = tell
			s.loseObject(it.recordHeader, "a change of the object, in "+what)
			s.found = func(Finding) {}
		}
		pos = it.next
	}
	return err
}

// lose reports bytes that are not copied.
func (s *salvager) lose(f Finding) {
	s.gap = true
	s.report.LostBytes += f.Length
	f.Kind = kindLost
	s.found(f)
}

// loseObject reports an object among bytes that are reported as well.
func (s *salvager) loseObject(rec recordHeader, text string) {
	s.gap = true
	s.found(Finding{Kind: kindLost, Offset: rec.pos, TID: rec.tid, OID: rec.oid, Object: true, Text: text})
}

// transaction copies p.
func (s *salvager) transaction(ctx context.Context, p *piece, start int64, tid raidstorage.TID) error {
	var meta raidstorage.Meta
	if p.badMeta {
		s.lose(Finding{Offset: p.pos + txnHeaderLen, Length: max(0, start-p.pos-txnHeaderLen), TID: tid,
			Text: "user, description and extension of the transaction"})
	} else {
		var err error
		if meta, err = s.w.meta(p.txnHeader); err != nil {
			return err
		}
	}
	meta.TID = tid
	s.begin(p.txnHeader, &meta)
	if p.badMeta && s.opts.WholeOnly {
		s.dropped++
	}
	for pos := start; pos < p.end(); {
		it, err := s.item(ctx, pos, p)
		if err != nil {
			return err
		}
		pos = it.next
		if it.garbage {
			s.dropped++
			s.lose(Finding{Offset: it.pos, Length: it.next - it.pos, TID: tid, Text: "bytes within a transaction"})
			continue
		}
		if err := s.record(ctx, &it); err != nil {
			return err
		}
	}
	return s.finish()
}

// ruins copies the records that are among lost bytes, of one transaction or more.
func (s *salvager) ruins(ctx context.Context, p *piece) error {
	// The header is believed only if the first record agrees with it.
	var meta raidstorage.Meta
	rec, ok, err := s.recordOf(p.records(), p.next, p.pos)
	if err != nil {
		return err
	}
	if ok && rec.tid == p.tid {
		if meta, err = s.w.meta(p.txnHeader); err != nil {
			return err
		}
	}
	limit, err := s.nextTID(p.next)
	if err != nil {
		return err
	}
	copied, open, lost := int64(0), false, s.report.LostBytes
	err = s.strays(ctx, p.pos, p.next, func(rec recordHeader) (bool, error) {
		if !open || rec.txn != s.oldPos {
			if open {
				open = false
				if err := s.finish(); err != nil {
					return false, err
				}
			}
			if p.tail || s.opts.WholeOnly || rec.tid <= s.wrote || rec.tid >= limit {
				s.loseObject(rec, "a change of the object")
				return true, nil
			}
			m := raidstorage.Meta{TID: rec.tid}
			if rec.tid == meta.TID && rec.txn == p.pos {
				m = meta
			}
			s.begin(txnHeader{pos: rec.txn, status: m.Status}, &m)
			open = true
		}
		if rec.tid != s.txn.tid {
			s.loseObject(rec, "a change of the object")
			return true, nil
		}
		before := s.kept
		err := s.record(ctx, &item{recordHeader: rec, next: rec.next()})
		if s.kept > before {
			copied += rec.length()
		}
		return true, err
	})
	if err != nil {
		return err
	}
	if open {
		if err := s.finish(); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("%d bytes that are no whole transaction", p.next-p.pos)
	if copied > 0 {
		text += fmt.Sprintf("; %d bytes of records in them were copied", copied)
	}
	s.report.LostBytes = lost - copied // single records in it may have been counted
	s.lose(Finding{Offset: p.pos, Length: p.next - p.pos, TID: meta.TID, Text: text})
	return nil
}
