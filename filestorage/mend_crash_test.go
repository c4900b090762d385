//go:build linux

package filestorage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// mends has a record of several sectors and a blob change on the disk, and mends them.
func (w *crashWork) mends() {
	ctx := context.Background()
	s := w.open()
	c := w.committer(s, 0)
	text := strings.Repeat("the right data, ", 200)
	c.transaction(false, false, c.store)
	record := c.transaction(false, false, func(txn raidstorage.Txn) {
		w.must(txn.Store(ctx, 1, 0, []byte(storagetest.Pickled(text))))
		w.must(txn.(raidstorage.BlobTxn).StoreBlob(ctx, 2, 0, []byte(blobPickle), strings.NewReader("the right blob")))
	})
	c.transaction(false, false, func(txn raidstorage.Txn) {
		w.must(txn.Store(ctx, 3, 0, []byte(storagetest.Pickled("after"))))
	})
	blob, err := s.BlobPath(ctx, 2, record)
	w.must(err)
	w.must(s.Close())

	w.mark("rotting", "record")
	wrong := strings.ToUpper(text)
	w.overwrite(w.path, text, wrong)
	w.mark("rotten", "record")
	s = w.open()
	_, err = s.MendRecord(ctx, 1, record, []byte(storagetest.Pickled(wrong)), []byte(storagetest.Pickled(text)))
	w.must(err)
	w.mark("mended", "record")

	w.mark("rotting", "blob")
	w.must(os.Chmod(blob, 0o600))
	w.overwrite(blob, "right", "wrong")
	w.mark("rotten", "blob")
	good, err := raidstorage.SumBlob(ctx, strings.NewReader("the right blob"))
	w.must(err)
	stamp, err := s.BlobStamp(ctx, 2, record)
	w.must(err)
	staged, err := s.StageBlob(ctx, 2, record, good, strings.NewReader("the right blob"))
	w.must(err)
	_, err = staged.Place(ctx, stamp)
	w.must(err)
	w.mark("mended", "blob")
	w.must(s.Close())
}

// overwrite changes bytes of a file, durably.
func (w *crashWork) overwrite(path, from, to string) {
	b, err := os.ReadFile(path)
	w.must(err)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	w.must(err)
	_, err = f.WriteAt([]byte(to), int64(bytes.Index(b, []byte(from))))
	w.must(err)
	w.must(f.Sync())
	w.must(f.Close())
}

// TestCrashWhileMending: whenever the power fails, the next open finds the record and the
// blob as they were or as they are to be, and afterwards nothing else than the latter.
func TestCrashWhileMending(t *testing.T) {
	t.Parallel()
	states, seed := int(envNumber(t, envStates, 400)), envNumber(t, envSeed, uint64(os.Getpid()))
	tr := record(t, "mend", seed)
	mixed, err := tr.playMending(states)
	if err != nil {
		tr.fail(t, err)
	}
	t.Logf("%d different states, %d of them with a part of the record written, seed %d", tr.states, mixed, seed)
	if tr.states < min(states/4, 100) || mixed == 0 { // there are no more than some 350
		t.Error("too few states")
	}
}

// The campaign must see what it is for: a patch without its note.
func TestCrashWhileMendingSeesAMissingNote(t *testing.T) {
	t.Parallel()
	tr := record(t, "mend", 1)
	synced := false
	tr.ops = tr.without(func(i int, op fsOp) bool {
		mine := op.Path == crashData+".mending" && (op.Kind == "sync" || op.Kind == "write")
		synced = synced || mine
		return mine
	})
	if _, err := tr.playMending(400); err == nil || !synced {
		t.Errorf("nothing is wrong without the note (%v)", err)
	}
}

// playMending examines crash states, and counts those in which the record was neither
// as it was nor as it is to be before the file was opened.
func (tr *crashTrial) playMending(states int) (mixed int, err error) {
	logs := make(map[string][]loggedTxn) // by mark
	p := newPowerFS(tr.ops)
	for i, op := range tr.ops {
		p.apply(i)
		if op.Kind != "mark" {
			continue
		}
		if err := p.whole().place(tr.dir); err != nil {
			return 0, err
		}
		if logs[string(op.Data)], err = tr.store().open(); err != nil {
			return 0, err
		}
	}
	if slices.Equal(logs["rotten record"], logs["mended record"]) || slices.Equal(logs["rotten blob"], logs["mended blob"]) {
		return 0, errors.New("the logs are the same")
	}
	for pass := 0; pass < maxPasses && tr.states < states; pass++ {
		p, word, what := newPowerFS(tr.ops), "", ""
		for i, op := range tr.ops {
			p.apply(i)
			if op.Kind == "mark" {
				word, what, _ = strings.Cut(string(op.Data), " ")
			}
			if word != "rotten" && word != "mended" {
				continue
			}
			im := p.sample(rand.New(rand.NewPCG(tr.seed, uint64(pass)<<32|uint64(i))))
			if _, known := tr.seen[im.sum()]; known && word != "mended" {
				continue
			}
			if bytes.Contains(im[crashData], []byte("the right")) && bytes.Contains(im[crashData], []byte("THE RIGHT")) {
				mixed++
			}
			if err := im.place(tr.dir); err != nil {
				return mixed, err
			}
			log, err := tr.store().open()
			switch {
			case err != nil:
			case slices.Equal(log, logs["mended "+what]):
			case word == "mended":
				err = errors.New("it is not mended any more")
			case !slices.Equal(log, logs["rotten "+what]):
				err = errors.New("it is neither as it was nor as it is to be")
			}
			if err == nil {
				err = tr.store().goesOn()
			}
			if err != nil {
				return mixed, fmt.Errorf("pass %d, after operation %d: %w", pass, i, tr.explain(i, err))
			}
			tr.seen[im.sum()] = log
			tr.states++
		}
	}
	return mixed, nil
}
