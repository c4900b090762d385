package filestorage

import (
	"context"
	"io"
	"time"

	"github.com/zeoraid/raidstorage"
)

// How a pack goes, and why it can stop anywhere:
//
//  1. Read the log up to the pack time: where was each object then (pack_scan.go)?
//  2. With garbage collection, follow the references from the root object and from
//     all that was written later (pack_mark.go).
//  3. Write what stays to Data.fs.pack, then all that came after the pack time,
//     with its pointers moved (pack_copy.go). Readers and committers go on; what
//     they commit meanwhile is copied in further rounds, until little is left.
//  4. Take the commit lock, copy that little, sync Data.fs.pack.
//  5. Remove Data.fs.index and Data.fs.old, link Data.fs to Data.fs.old, sync the
//     directory. A whole Data.fs is there all the time: Python renames it away
//     first, and a crash then leaves none.
//  6. Rename Data.fs.pack to Data.fs, sync the directory, go on with the new file,
//     release the lock (pack_switch.go).
//  7. Remove the blobs of the revisions that are gone (blob_pack.go).
//
// Before the rename of step 6 the database is what it was, after it it is packed.
// Data.fs.pack is of no use to anybody before that: the next open removes it.
// No commit may be acknowledged between the rename and the sync that makes it
// durable, else a crash could bring the old file back without that commit.

// Pack implements raidstorage.Packer, by the rules of Python's FileStorage: the same
// log packed to the same time becomes the same file, byte for byte. So a pack that
// would not free anything leaves all as it is, the transactions' status too; and so
// does, as redundant, one of a log that was packed to that time or a later one, or
// has not grown since: both are logged, and no error. Where Python's pack fails or loses data this one does not:
//
//   - An object that is garbage at the pack time but linked again by a record that was
//     written later, even while the pack goes on, stays.
//   - A reference to an object that does not exist does not stop it.
//   - A record after the pack time that repeats data of a revision that is dropped
//     gets the data itself.
//
// The revision that such a record repeats is kept if GC is set, as Python keeps it.
//
// If it is decided what is garbage (raidstorage.PackOptions), that is dropped even where
// Python would call the pack redundant, and the last transaction up to the pack time
// stays, with no records perhaps.
//
// With GC and objects but no root object Pack returns *raidstorage.InvalidError: all
// would be garbage. *raidstorage.TIDOrderError says that TruncateAfter cut
// transactions off meanwhile. A second Pack waits until the first one is through.
// Commits wait for the switch to the new file only; how long is logged. Memory is
// about 7 bytes for each object besides what the storage takes, and few MiB.
func (s *Storage) Pack(ctx context.Context, opts raidstorage.PackOptions) error {
	leave, err := s.enterPack(ctx)
	if err != nil {
		return err
	}
	defer leave()
	start := time.Now()
	p, err := s.newPacker(ctx, opts)
	if p == nil || err != nil {
		return err
	}
	defer s.unpin(p.src)
	if err := p.pack(); err != nil {
		return p.because(err)
	}
	if err := p.removeBlobs(); err != nil { // the file is packed all the same
		return err
	}
	s.log.Info("packed", "backend", s.path, "tid", opts.Through, "gc", opts.GC, "outcome", p.outcome,
		"bytes_before", p.before, "bytes", p.after, "duration", time.Since(start), "commits_waited", p.locked)
	return nil
}

// enterPack makes this call the only one that packs.
func (s *Storage) enterPack(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	select {
	case s.packing <- struct{}{}:
		return func() { <-s.packing; s.calls.Done() }, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-s.closing:
		err = raidstorage.ErrClosed
	}
	s.calls.Done()
	return nil, err
}

// packer is one run of Pack.
type packer struct {
	s       *Storage
	ctx     context.Context
	through raidstorage.TID
	gc      bool
	garbage []raidstorage.OID // what to drop, if decided
	decided bool
	finding bool        // only finds out what is garbage
	src     *source     // what is packed
	f       io.ReaderAt // its file
	cuts    uint64      // see Storage.cuts
	last    raidstorage.TID
	end     int64  // of what is known of the file
	w       window // reads it from front to back
	earlier window // reads what records point back to

	packPos  int64  // of the first transaction after the pack time
	unpacked bool   // whether a transaction before it has another status than packed
	cur      *index // of the records that were current then; while they are copied, see copyPacked
	marks    *marks // the reachable ones of those, with gc
	markers  []*marker
	// kept has the records before packPos that later ones point back to and that
	// stay, and their positions in the new file as soon as they are there.
	kept map[int64]int64
	// repeated are the objects that kept is about, while finding and estimating.
	repeated map[raidstorage.OID]bool
	later    *keptLater // see FindKept; nil: nobody asks

	out     *packOut
	index   *index  // of the new file; made of cur, which is nil then
	newPack int64   // where the copy of what is before packPos ends
	shifts  []shift // of what is after packPos
	entries []entry // of the transaction being copied
	indexed int64   // what the saved index of the new file covers

	outcome       string
	before, after int64
	locked        time.Duration
}

// maxAttempts bounds how often what is committed meanwhile makes a pack begin again.
const maxAttempts = 4

// newPacker returns nil if there is nothing that a pack could do.
func (s *Storage) newPacker(ctx context.Context, opts raidstorage.PackOptions) (*packer, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.writableLocked(); err != nil {
		return nil, err
	}
	if s.index.count == 0 {
		return nil, nil
	}
	p := &packer{
		s: s, ctx: ctx, through: opts.Through, gc: opts.GC && !opts.Decided, garbage: opts.Garbage, decided: opts.Decided, src: s.pinLocked(), cuts: s.cuts.Load(), last: s.last,
		kept: make(map[int64]int64), before: s.end,
	}
	p.f = p.src.file // long reads are no faster through a mapping
	p.w = window{r: p.f, buf: make([]byte, packBuffer)}
	p.earlier = window{r: p.f}
	p.grow(s.settledLocked())
	return p, nil
}

// settledLocked is the end of what the file has for certain: not of deferred
// transactions, which readers see but whose status is 'c' still.
func (s *Storage) settledLocked() int64 {
	if len(s.unsettled) > 0 {
		return s.unsettled[0].pos
	}
	return s.end
}

// grow takes note that the file has transactions up to end.
func (p *packer) grow(end int64) {
	p.end = end
	p.w.end, p.earlier.end = end, end
	p.w.n = 0
}

// packBuffer is how much is read and written at a time.
const packBuffer = 256 << 10

func (p *packer) pack() error {
	if nothing, err := p.read(); nothing || err != nil {
		return err
	}
	for range maxAttempts {
		if p.cur == nil { // became the index of the file that was of no use
			if err := p.readToPackTime(); err != nil {
				return err
			}
		}
		if p.marks != nil && !p.decided {
			if err := p.reach(); err != nil {
				return err
			}
		}
		again, err := p.rewrite()
		if !again || err != nil {
			return err
		}
	}
	return &raidstorage.InvalidError{Op: "pack", Reason: "garbage is linked again and again while the pack goes on; pack to an earlier time"}
}

// read reads the log as far as it is known, and tells whether there is nothing to pack.
func (p *packer) read() (nothing bool, err error) {
	if err := p.readToPackTime(); err != nil {
		return false, err
	}
	if p.packPos == magicLen {
		p.finish("nothing is as old")
		return true, nil
	}
	redundant, err := p.redundant()
	if err != nil {
		return false, err
	}
	if redundant && len(p.garbage) == 0 {
		p.finish("redundant: already packed to this time or later, or nothing was committed since")
		return true, nil
	}
	if err := p.startMarks(); err != nil {
		return false, err
	}
	return false, p.readLater(p.packPos)
}

// startMarks marks the root object, or all that is not decided to be garbage.
func (p *packer) startMarks() error {
	switch {
	case p.decided && len(p.garbage) > 0:
		p.marks = newMarks(p.cur)
		p.marks.addAllBut(p.garbage)
	case p.gc && p.cur.count > 0:
		if p.cur.get(0) == 0 {
			return &raidstorage.InvalidError{Op: "pack", Reason: "there was no root object at the pack time, so all objects would be garbage"}
		}
		p.marks = newMarks(p.cur)
		p.marks.add(0)
	}
	return nil
}

// finish notes an end that left the file as it was.
func (p *packer) finish(outcome string) {
	p.outcome, p.after = outcome, p.before
}

// alive returns why the pack must not go on.
func (p *packer) alive() error {
	select {
	case <-p.s.closing:
		return raidstorage.ErrClosed
	default:
		return p.ctx.Err()
	}
}

// because returns what made the pack fail with err: bytes that a truncation took
// away are no damage.
func (p *packer) because(err error) error {
	s := p.s
	if s.cuts.Load() == p.cuts || p.out != nil && p.out.adopted {
		return err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return &raidstorage.TIDOrderError{TID: p.last, Last: s.last}
}

// transactions calls visit for each transaction from pos on, until it returns false
// or to is reached, and returns where that was.
func (p *packer) transactions(pos, to int64, visit func(txnHeader) (bool, error)) (int64, error) {
	for pos < to {
		if err := p.alive(); err != nil {
			return 0, err
		}
		h, bad, err := p.w.header(pos)
		if err := p.s.check(bad, err); err != nil {
			return 0, err
		}
		if h.status == statusCheckpoint {
			return 0, p.s.corrupt(&flaw{pos: pos, tid: h.tid, reason: "unfinished transaction before the end of the file"})
		}
		more, err := visit(h)
		if !more || err != nil {
			return pos, err
		}
		bad, err = p.w.trailer(h)
		if err := p.s.check(bad, err); err != nil {
			return 0, err
		}
		pos = h.next()
	}
	return pos, nil
}

// records calls visit for each record of the transaction with header h.
func (p *packer) records(h txnHeader, visit func(recordHeader) error) error {
	const often = 4096
	for pos, n := h.records(), 1; pos < h.end(); n++ {
		rec, bad, err := p.w.record(pos, h)
		if err := p.s.check(bad, err); err != nil {
			return err
		}
		if n%often == 0 {
			if err := p.alive(); err != nil {
				return err
			}
		}
		if err := visit(rec); err != nil {
			return err
		}
		pos = rec.next()
	}
	return nil
}

// dataSource follows back pointers to the record that has the data; its size is 0 if
// there is none.
func (p *packer) dataSource(rec recordHeader) (recordHeader, error) {
	for rec.size == 0 && rec.back != 0 {
		next, err := p.recordIn(p.f, rec.back, rec.pos)
		if err != nil {
			return rec, err
		}
		if next.oid != rec.oid {
			return rec, p.s.corrupt(&flaw{pos: rec.back, oid: rec.oid, tid: next.tid, reason: "a record of another object is where one of this object must be"})
		}
		rec = next
	}
	return rec, nil
}
