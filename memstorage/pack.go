package memstorage

import (
	"context"
	"maps"
	"slices"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/pickleref"
)

// Pack implements raidstorage.Packer.
//
// The references of what is there at the beginning are read without a lock, as the
// log's entries never change; those of the transactions that come meanwhile, and the
// dropping itself, under the commit lock. So a transaction that finishes after Pack
// began counts as later than opts.Through, whatever its tid. An object that was
// garbage at opts.Through and was written again later keeps the later revisions only,
// as in Python's FileStorage, unless one of those repeats an earlier one. The last
// transaction stays even if it has lost all its records, so that LastTID does not go
// back. There is no garbage for who has been packed to a later time already.
func (s *Storage) Pack(ctx context.Context, opts raidstorage.PackOptions) error {
	h := s.handle()
	db := h.db
	// No other rewrites the log meanwhile.
	if err := h.take(ctx, db.packing); err != nil {
		return err
	}
	defer func() { <-db.packing }()
	p, log, err := s.newPacker(ctx, h, opts)
	if err != nil {
		return err
	}
	if err := p.read(ctx, log); err != nil {
		return err
	}
	if err := h.take(ctx, db.commit); err != nil {
		return err
	}
	defer func() { <-db.commit }()
	if err := p.read(ctx, db.log[len(log):]); err != nil {
		return err
	}
	w := &rewrite{p: p, objects: make(map[raidstorage.OID]*object)}
	w.add(db.log)
	return w.install()
}

// FindGarbage implements raidstorage.GarbageFinder.
func (s *Storage) FindGarbage(ctx context.Context, through raidstorage.TID, decide func(context.Context) error) ([]raidstorage.OID, error) {
	garbage, _, err := s.FindKept(ctx, through, decide)
	return garbage, err
}

// newPacker returns a packer and the log as it is now. The caller holds packing.
func (s *Storage) newPacker(ctx context.Context, h *handle, opts raidstorage.PackOptions) (*packer, []*transaction, error) {
	if err := h.rlock(ctx); err != nil {
		return nil, nil, err
	}
	log, last := h.db.log, h.db.last
	h.db.mu.RUnlock()
	p := &packer{s: s, h: h, through: min(opts.Through, last), gc: opts.GC && !opts.Decided && !packedLater(log, opts.Through), references: s.References,
		packed: make(map[raidstorage.OID]*record), keep: make(map[raidstorage.OID]bool), repeated: make(map[raidstorage.OID]bool)}
	if p.references == nil {
		p.references = func(data []byte) ([]raidstorage.OID, error) { return pickleref.References(nil, data) }
	}
	if opts.Decided {
		p.decided = true
		p.garbage = make(map[raidstorage.OID]bool, len(opts.Garbage))
		for _, oid := range opts.Garbage {
			p.garbage[oid] = true
		}
	}
	return p, log, nil
}

// packedLater tells whether the log was packed to a time after through: what led to an
// object then may be gone.
func packedLater(log []*transaction, through raidstorage.TID) bool {
	later, _ := findTxn(log, through+1)
	if later == len(log) {
		return false
	}
	for _, txn := range log[:later+1] {
		if txn.Status != raidstorage.StatusPacked {
			return false
		}
	}
	return true
}

// packer is one run of Pack.
type packer struct {
	s          *Storage
	h          *handle
	through    raidstorage.TID
	gc         bool
	decided    bool // see raidstorage.PackOptions
	references func([]byte) ([]raidstorage.OID, error)

	packed  map[raidstorage.OID]*record // what was current at through
	keep    map[raidstorage.OID]bool    // the reachable ones, with gc
	then    map[raidstorage.OID]bool    // those that could be reached at through
	repeats []*record                   // the later ones that repeat an earlier one, or may, in order
	// repeated are the objects with a later record that repeats an earlier one's
	// data, with gc: what was current at through stays.
	repeated map[raidstorage.OID]bool
	garbage  map[raidstorage.OID]bool // what to drop, if that is decided
}

// read takes in further transactions.
func (p *packer) read(ctx context.Context, log []*transaction) error {
	later, _ := findTxn(log, p.through)
	if later < len(log) && log[later].TID == p.through {
		later++
	}
	for _, txn := range log[:later] {
		for i := range txn.records {
			p.packed[txn.records[i].oid] = &txn.records[i]
		}
	}
	if !p.gc {
		return nil
	}
	if p.then == nil {
		if err := p.reach(ctx, []raidstorage.OID{0}); err != nil { // the root object
			return err
		}
		p.then = maps.Clone(p.keep)
	}
	var todo []raidstorage.OID
	for _, txn := range log[later:] {
		for i := range txn.records {
			rec := &txn.records[i]
			refs, err := p.follow(ctx, rec)
			if err != nil {
				return err
			}
			todo = append(todo, refs...)
			if rec.dataTID != 0 && rec.dataTID <= p.through {
				p.repeated[rec.oid] = true
			}
			if rec.dataTID != 0 && rec.dataTID <= p.through || rec.dataTID == 0 && rec.data == nil {
				p.repeats = append(p.repeats, rec)
			}
		}
	}
	return p.reach(ctx, todo)
}

// reach marks todo, and what can be reached from there, as to be kept.
func (p *packer) reach(ctx context.Context, todo []raidstorage.OID) error {
	for len(todo) > 0 {
		oid := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if p.keep[oid] {
			continue
		}
		p.keep[oid] = true
		rec := p.packed[oid]
		if rec == nil { // dangling, or created later: then it has been read already
			continue
		}
		refs, err := p.follow(ctx, rec)
		if err != nil {
			return err
		}
		for _, ref := range refs {
			if !p.keep[ref] {
				todo = append(todo, ref)
			}
		}
	}
	return nil
}

// follow returns the oids that rec refers to.
func (p *packer) follow(ctx context.Context, rec *record) ([]raidstorage.OID, error) {
	if err := p.h.alive(ctx); err != nil {
		return nil, err
	}
	if rec.data == nil {
		return nil, nil
	}
	refs, err := p.references(rec.data)
	if err != nil {
		return nil, &raidstorage.CorruptError{Storage: p.s.Name(), Offset: -1, OID: rec.oid, TID: rec.tid,
			Reason: "its references cannot be read: " + err.Error()}
	}
	return refs, nil
}

// stays tells whether the pack leaves rec in the log.
func (p *packer) stays(rec *record) bool {
	if rec.tid > p.through {
		return true
	}
	return rec.data != nil && p.packed[rec.oid] == rec && !p.garbage[rec.oid] &&
		(!p.gc || p.keep[rec.oid] || p.repeated[rec.oid])
}

// rewrite is the log and the objects as a pack leaves them. They can be made while reads
// go on, and are put in place at once.
type rewrite struct {
	p           *packer
	log         []*transaction
	objects     map[raidstorage.OID]*object
	bytes, live int64
}

// add takes in further transactions. Those up to the pack time must be in one call.
func (w *rewrite) add(log []*transaction) {
	p := w.p
	for n, old := range log {
		txn := old
		if old.TID <= p.through {
			last := n == len(log)-1 || p.decided && log[n+1].TID > p.through
			if txn = p.shrink(old); len(txn.records) == 0 && !last {
				continue
			}
		}
		txn = p.detach(txn, w.objects)
		for i := range txn.records {
			w.addRecord(&txn.records[i])
		}
		if txn != old { // else iterations may be reading it
			txn.bytes = txn.size()
		}
		w.bytes += txn.bytes
		w.log = append(w.log, txn)
	}
}

func (w *rewrite) addRecord(rec *record) {
	obj := w.objects[rec.oid]
	if obj == nil {
		obj = &object{}
		obj.revs = obj.first[:0]
		w.objects[rec.oid] = obj
	} else if obj.revs[len(obj.revs)-1].data != nil {
		w.live--
	}
	if rec.data != nil {
		w.live++
	}
	obj.revs = append(obj.revs, rec)
}

// install puts it in place. The caller holds the commit lock.
func (w *rewrite) install() error {
	db := w.p.h.db
	db.mu.Lock()
	defer db.mu.Unlock()
	if w.p.h.closed.Load() {
		return raidstorage.ErrClosed
	}
	db.log, db.objects, db.bytes, db.live = w.log, w.objects, w.bytes, w.live
	db.rewrites++
	return nil
}

// shrink returns what stays of a transaction that the pack goes over.
func (p *packer) shrink(old *transaction) *transaction {
	txn := &transaction{Meta: old.Meta}
	txn.Status = raidstorage.StatusPacked
	for i := range old.records {
		if p.stays(&old.records[i]) {
			txn.records = append(txn.records, old.records[i])
		}
	}
	txn.records = slices.Clip(txn.records)
	return txn
}

// detach returns txn without hints to data that is gone, a copy if there are any.
// objects has what stays of the earlier transactions.
func (p *packer) detach(txn *transaction, objects map[raidstorage.OID]*object) *transaction {
	copied := false
	for i := range txn.records {
		rec := &txn.records[i]
		if rec.dataTID == 0 {
			continue
		}
		if src, _ := objects[rec.oid].before(rec.dataTID + 1); src != nil && src.tid == rec.dataTID {
			continue
		}
		if !copied { // iterations may go on over the old one
			txn = &transaction{Meta: txn.Meta, records: slices.Clone(txn.records)}
			copied = true
		}
		txn.records[i].dataTID = 0
	}
	return txn
}
