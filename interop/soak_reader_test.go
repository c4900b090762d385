//go:build interop

package interop_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/zeoclient"
)

// soakReader reads snapshots and checks them. The odd ones have a cache.
type soakReader struct {
	*soak
	name    string
	storage *zeoclient.Storage
	random  *rand.Rand
	writers []*soakWriter
	last    raidstorage.TID                     // of the latest snapshot
	serials map[raidstorage.OID]raidstorage.TID // in it
}

func (s *soak) newReader(index int, writers []*soakWriter) *soakReader {
	name := fmt.Sprintf("reader%d", index)
	return &soakReader{
		soak: s, name: name, storage: s.client(name, int64(index%2)<<20), random: rand.New(rand.NewPCG(s.random.Uint64(), uint64(index))),
		writers: writers, serials: make(map[raidstorage.OID]raidstorage.TID),
	}
}

func (r *soakReader) run() {
	for !r.rest.Load() && r.ctx.Err() == nil && !r.broken.Load() {
		if err := r.readAgain(); err != nil {
			r.count("readers", err)
			r.nap(100 * time.Millisecond)
			continue
		}
		r.record.count("snapshots")
		r.nap(soakThink)
	}
}

// readAgain reads a snapshot. A pack may drop an earlier one than the present, so that
// not to find something proves nothing until it was not found several times.
func (r *soakReader) readAgain() error {
	const times = 4
	for try := 1; ; try++ {
		err := r.read()
		if !is[*raidstorage.NotFoundError](err) || try == times {
			return err
		}
		r.record.note(r.name, "%v", err)
	}
}

// read reads what one writer keeps consistent, in one snapshot.
func (r *soakReader) read() error {
	w := r.writers[r.random.IntN(len(r.writers))]
	oids := append([]raidstorage.OID{w.parent}, w.group...)
	least, each := r.ledger.least(oids...)
	last, err := r.storage.LastTID(r.ctx)
	if err != nil {
		return err
	}
	if last < least || last < r.last {
		r.fault("%s: the last tid is %v, %v was acknowledged and %v was seen", r.name, last, least, r.last)
	}
	r.last = last
	found := make(map[raidstorage.OID]raidstorage.Revision)
	for i, oid := range oids {
		if found[oid], err = r.load(oid, each[i]); err != nil {
			return err
		}
	}
	numbers := make(map[int]bool)
	for _, oid := range w.group {
		n, _ := soakNumber(found[oid].Data, "number")
		numbers[n] = true
	}
	if len(numbers) != 1 {
		r.fault("%s: snapshot %v shows the group %v with the numbers %v", r.name, last, w.group, numbers)
	}
	return r.readParent(w.index, found[w.parent].Data)
}

// load reads an object in the snapshot, which must not show less than least.
func (r *soakReader) load(oid raidstorage.OID, least raidstorage.TID) (raidstorage.Revision, error) {
	rev, err := r.storage.LoadBefore(r.ctx, oid, r.last+1)
	if err != nil {
		return rev, err
	}
	if rev.Serial < least || rev.Serial < r.serials[oid] {
		r.fault("%s: snapshot %v shows %v of %v; %v was acknowledged and %v was seen", r.name, r.last, oid, rev.Serial, least, r.serials[oid])
	}
	r.serials[oid] = rev.Serial
	digest, err := soakDigest(rev.Data, nil)
	if err == nil {
		if err := r.ledger.compare(oid, soakVersion{rev.Serial, digest}); err != nil {
			r.fault("%s: snapshot %v: %v", r.name, r.last, err)
		}
	}
	return rev, err
}

// readParent reads what the parent refers to in the snapshot.
func (r *soakReader) readParent(writer int, parent []byte) error {
	child, ok := soakNumber(parent, "child")
	if !ok {
		return nil // its writer has not begun
	}
	blob, _ := soakNumber(parent, "blob")
	for _, c := range []struct {
		oid  raidstorage.OID
		name string
	}{{raidstorage.OID(child), "childs"}, {raidstorage.OID(blob), "blobs"}} {
		rev, err := r.load(c.oid, 0)
		if err != nil {
			return err
		}
		want, _ := soakNumber(parent, c.name)
		if got, _ := soakNumber(rev.Data, "number"); got != want {
			r.fault("%s: snapshot %v shows %v with number %d, and its parent says %d", r.name, r.last, c.oid, got, want)
		}
		if c.name == "blobs" && r.random.IntN(4) == 0 {
			if err := r.readBlob(c.oid, rev.Serial, soakBlob(writer, want)); err != nil {
				return err
			}
		}
	}
	delete(r.serials, raidstorage.OID(child)) // which is garbage some day
	return nil
}

func (r *soakReader) readBlob(oid raidstorage.OID, serial raidstorage.TID, want []byte) error {
	f, err := r.storage.OpenBlob(r.ctx, oid, serial)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err == nil && !bytes.Equal(got, want) {
		r.fault("%s: the blob %v of %v has %d bytes, %.60q; want %d, %.60q", r.name, oid, serial, len(got), got, len(want), want)
	}
	r.record.count("blobs read")
	return err
}

// followLog compares the log that is served with the ledger, again and again.
func (s *soak) followLog() {
	for !s.rest.Load() && s.ctx.Err() == nil && !s.broken.Load() {
		if err := s.followOnce(); err != nil && s.ctx.Err() == nil {
			s.count("follower", err)
		}
		s.nap(600 * time.Millisecond)
	}
}

// followOnce takes in what was committed since the last time. If it fails it has no
// effect.
func (s *soak) followOnce() error {
	storage := s.operator
	last, err := storage.LastTID(s.ctx)
	if err != nil {
		return err
	}
	s.ledger.mu.Lock()
	from := s.ledger.followed + 1
	s.ledger.mu.Unlock()
	var part []*logged
	for txn, err := range storage.Iterate(s.ctx, from, last) {
		if err != nil {
			return err
		}
		g, err := readLogged(s.ctx, txn)
		if err != nil {
			if is[*raidstorage.NotFoundError](err) { // a blob, packed at this moment
				return nil
			}
			return err
		}
		if g != nil {
			part = append(part, g)
		}
	}
	s.ledger.follow(part, last)
	return nil
}
