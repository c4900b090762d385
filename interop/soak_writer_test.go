//go:build interop

package interop_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/zeoclient"
)

const (
	// soakPrefix begins the descriptions of our writers' transactions.
	soakPrefix   = "soak "
	soakCounters = 4 // objects that all writers count up
	soakGroup    = 3 // objects that a writer changes together
	soakFixed    = soakGroup + 1

	// soakThink is the longest pause between two transactions, or snapshots, of each:
	// a recovery that has to copy while all cores do nothing but commit takes long.
	soakThink = 150 * time.Millisecond
)

// soakWriter commits, one transaction after the other, of these kinds:
//
//	group   its group of objects, which get the same number, and now and then a shared
//	        counter, over which writers conflict
//	child   a new object, to which its parent refers from then on, and not to the old one
//	blob    a new revision of its blob, of which the parent has the number
//	undo    of its last transaction of kind group, which changes what only it writes
//
// So at each moment the group has one number, and the parent tells those of its child
// and blob.
type soakWriter struct {
	*soak
	index    int
	storage  *zeoclient.Storage
	random   *rand.Rand
	group    []raidstorage.OID
	parent   raidstorage.OID
	counters []raidstorage.OID

	number   int // of the last transaction tried
	lost     bool
	now      map[raidstorage.OID]soakObject
	undoable raidstorage.TID
	before   map[raidstorage.OID]soakObject // undoable's group before it
	child    raidstorage.OID                // the parent's, as of now
	blob     raidstorage.OID
}

// soakObject is an object as a writer knows it.
type soakObject struct {
	serial raidstorage.TID
	data   []byte
}

func (s *soak) newWriter(index int, oids, counters []raidstorage.OID) *soakWriter {
	return &soakWriter{
		soak: s, index: index, storage: s.client(fmt.Sprintf("writer%d", index), 0), random: rand.New(rand.NewPCG(s.random.Uint64(), uint64(index))),
		group: oids[:soakGroup], parent: oids[soakGroup], counters: counters, lost: true, now: make(map[raidstorage.OID]soakObject),
	}
}

func (w *soakWriter) run() {
	for !w.rest.Load() && w.ctx.Err() == nil && !w.broken.Load() {
		if err := w.step(); err != nil {
			w.lost = true
			w.count("writers", err)
			w.nap(100 * time.Millisecond)
			continue
		}
		w.nap(soakThink)
	}
}

// nap leaves some time to others.
func (s *soak) nap(d time.Duration) {
	timer := time.NewTimer(rand.N(d))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.ctx.Done():
	}
}

// count counts an error by its type, and finds those that must never come.
func (s *soak) count(who string, err error) {
	what := "failures"
	switch {
	case strings.Contains(err.Error(), "the log changed while it was iterated over"):
		what = "iterations ended by a pack"
	case is[*zeoclient.BehindError](err), is[*zeoclient.ProtocolError](err), is[*raidstorage.CorruptError](err), is[*raidstorage.NotFoundError](err):
		s.fault("%s: %v", who, err)
	case is[*raidstorage.ConflictError](err):
		what = "conflicts"
	case is[*raidstorage.UndoError](err):
		what = "refused undos"
	case is[*zeoclient.TimeoutError](err):
		what = "timeouts"
		s.record.note(who, "%v", err)
	}
	s.record.count(who + "' " + what)
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// step makes one transaction. After an error what is there must be read again.
func (w *soakWriter) step() error {
	if w.lost {
		if err := w.look(); err != nil {
			return err
		}
	}
	w.number++
	switch p := w.random.IntN(100); {
	case w.child == 0 || p < 10:
		return w.newChild()
	case p < 18:
		return w.newBlob()
	case p < 28 && w.undoable != 0:
		return w.undo()
	}
	return w.change()
}

// look reads what is there.
func (w *soakWriter) look() error {
	clear(w.now)
	w.undoable = 0
	for _, oid := range append([]raidstorage.OID{w.parent}, w.group...) {
		if err := w.load(oid); err != nil {
			return err
		}
	}
	child, _ := soakNumber(w.now[w.parent].data, "child")
	blob, _ := soakNumber(w.now[w.parent].data, "blob")
	w.child, w.blob = raidstorage.OID(child), raidstorage.OID(blob)
	if w.child != 0 {
		for _, oid := range []raidstorage.OID{w.child, w.blob} {
			if err := w.load(oid); err != nil {
				return err
			}
		}
	}
	w.lost = false
	return nil
}

func (w *soakWriter) load(oid raidstorage.OID) error {
	r, err := w.storage.LoadBefore(w.ctx, oid, raidstorage.MaxTID)
	if err != nil {
		return err
	}
	w.now[oid] = soakObject{r.Serial, r.Data}
	return nil
}

func (w *soakWriter) change() error {
	changes := make(map[raidstorage.OID][]byte)
	before := make(map[raidstorage.OID]soakObject)
	for _, oid := range w.group {
		changes[oid] = w.data("")
		before[oid] = w.now[oid]
	}
	t := w.begin("group", changes)
	if t.counts = w.random.IntN(3) == 0; t.counts {
		t.counter = w.counters[w.random.IntN(len(w.counters))]
		if err := w.load(t.counter); err != nil {
			return err
		}
		count, _ := soakNumber(w.now[t.counter].data, "count")
		changes[t.counter] = w.data(fmt.Sprintf("count=%d ", count+1))
	}
	err := w.commit(t, changes, nil)
	if err == nil && !t.counts {
		w.undoable, w.before = t.tid, before
	}
	return err
}

func (w *soakWriter) newChild() error {
	oids, err := w.storage.NewOIDs(w.ctx, 2)
	if err != nil {
		return err
	}
	changes := make(map[raidstorage.OID][]byte)
	blobs := make(map[raidstorage.OID][]byte)
	old, child, blob := w.child, oids[0], w.blob
	number, _ := soakNumber(w.now[w.parent].data, "blobs")
	changes[child] = w.data("")
	if blob == 0 {
		blob, number = oids[1], w.number
		changes[blob], blobs[blob] = blobRecord(w.data("")), soakBlob(w.index, w.number)
	}
	changes[w.parent] = w.data(parentFields(child, blob, w.number, number), child, blob)
	t := w.begin("child", changes)
	t.drops = old
	if err := w.commit(t, changes, blobs); err != nil {
		return err
	}
	delete(w.now, old)
	w.child, w.blob = child, blob
	return nil
}

func parentFields(child, blob raidstorage.OID, childs, blobs int) string {
	return fmt.Sprintf("child=%d blob=%d childs=%d blobs=%d ", child, blob, childs, blobs)
}

func (w *soakWriter) newBlob() error {
	changes := make(map[raidstorage.OID][]byte)
	number, _ := soakNumber(w.now[w.parent].data, "childs")
	changes[w.blob] = blobRecord(w.data(""))
	changes[w.parent] = w.data(parentFields(w.child, w.blob, number, w.number), w.child, w.blob)
	return w.commit(w.begin("blob", changes), changes, map[raidstorage.OID][]byte{w.blob: soakBlob(w.index, w.number)})
}

func (w *soakWriter) undo() error {
	changes := make(map[raidstorage.OID][]byte)
	for oid, o := range w.before {
		changes[oid] = o.data
	}
	return w.commit(w.begin("undo", changes), changes, nil)
}

func (w *soakWriter) begin(kind string, changes map[raidstorage.OID][]byte) *soakTxn {
	return &soakTxn{name: fmt.Sprintf("%s%d/%d %s", soakPrefix, w.index, w.number, kind), content: make(soakContent)}
}

// commit makes a transaction of it and tells the ledger what became of it. changes are
// what an undo comes to.
func (w *soakWriter) commit(t *soakTxn, changes, blobs map[raidstorage.OID][]byte) error {
	ctx, kind := w.ctx, t.name[strings.LastIndexByte(t.name, ' ')+1:]
	undone := w.undoable
	w.undoable = 0
	txn, err := w.storage.Begin(ctx, raidstorage.Meta{User: []byte(fmt.Sprintf("writer %d", w.index)), Description: []byte(t.name)})
	if err != nil {
		return err
	}
	defer txn.Abort(context.WithoutCancel(ctx)) // has no effect after Finish
	for oid, data := range changes {
		var blob io.Reader
		switch b := blobs[oid]; {
		case kind == "undo":
		case b != nil:
			blob = bytes.NewReader(b)
			err = txn.(raidstorage.BlobTxn).StoreBlob(ctx, oid, w.now[oid].serial, data, bytes.NewReader(b))
		default:
			err = txn.Store(ctx, oid, w.now[oid].serial, data)
		}
		if err == nil {
			t.content[oid], err = soakDigest(data, blob)
		}
		if err != nil {
			return err
		}
	}
	if kind == "undo" {
		if err := txn.(raidstorage.UndoTxn).Undo(ctx, undone); err != nil {
			return err
		}
	}
	w.ledger.try(t)
	if _, err := txn.Vote(ctx); err != nil {
		w.ledger.refuse(t)
		return err
	}
	tid, err := txn.Finish(ctx)
	if err != nil {
		w.record.count("unknown outcomes")
		w.ledger.unknown(t)
		return err
	}
	w.ledger.ack(t, tid)
	w.record.acknowledged()
	w.record.count("commits of kind " + kind)
	for oid, data := range changes {
		w.now[oid] = soakObject{tid, data}
	}
	return nil
}
