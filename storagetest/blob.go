package storagetest

import (
	"errors"
	"io"
	"strings"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
)

// blobRecord is what ZODB stores as the data of an object with a blob: the class
// and an empty state.
const blobRecord = "\x80\x03cZODB.blob\nBlob\n.\x80\x03N."

func blobRules() []rule {
	return subject("blobs", needs{has: BlobLoader},
		rule{name: "a blob comes back with its revision", run: func(e *env) {
			for oid, content := range map[raidstorage.OID]string{
				1: "hello", 2: "", 3: strings.Repeat("0123456789abcdef", 20000) + "end", 4: "\x00\xff\r\n",
			} {
				tid := e.storeBlob(oid, content)
				e.wantBlob(oid, tid, content)
				e.wantLoad(oid, raidstorage.MaxTID, blobRecord, tid, 0)
			}
		}},
		rule{name: "each revision keeps its own blob", run: func(e *env) {
			first := e.storeBlob(1, "one")
			second := e.storeBlob(1, "two")
			e.wantBlob(1, first, "one")
			e.wantBlob(1, second, "two")
		}},
		rule{name: "a revision stored without a blob has none", run: func(e *env) {
			first := e.storeBlob(1, "one")
			second := e.commit(objs(1, "plain"))
			e.wantBlob(1, first, "one")
			e.wantNoBlob(1, second)
		}},
		rule{name: "what has no blob is not found", run: func(e *env) {
			plain := e.commit(objs(1, "plain"))
			tid := e.storeBlob(2, "blob")
			e.wantNoBlob(1, plain)
			e.wantNoBlob(1, tid)
			e.wantNoBlob(2, plain)
			e.wantNoBlob(2, tid+1)
			e.wantNoBlob(9, tid)
		}},
		rule{name: "an aborted blob is gone", run: func(e *env) {
			for _, vote := range []bool{false, true} {
				txn := e.begin(raidstorage.Meta{TID: testTID(1)})
				e.must("StoreBlob", raidstorage.StoreBlob(e.ctx, txn, 1, 0, []byte(blobRecord), strings.NewReader("never")))
				if vote {
					_, err := txn.Vote(e.ctx)
					e.must("Vote", err)
				}
				e.abort(txn)
				e.wantNoBlob(1, testTID(1))
				e.wantUntouched(0, 1)
			}
		}},
		rule{name: "a blob is read before StoreBlob returns", run: func(e *env) {
			content := strings.NewReader("read at once")
			txn := e.begin(raidstorage.Meta{})
			e.must("StoreBlob", raidstorage.StoreBlob(e.ctx, txn, 1, 0, []byte(blobRecord), iotest.OneByteReader(content)))
			if content.Len() != 0 {
				e.Errorf("%d bytes are left unread", content.Len())
			}
			_, err := txn.Vote(e.ctx)
			e.must("Vote", err)
			e.wantBlob(1, e.finish(txn), "read at once")
		}},
		rule{name: "a blob that cannot be read is not stored", run: func(e *env) {
			broken := errors.New("broken reader")
			txn := e.begin(raidstorage.Meta{})
			source := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken))
			err := raidstorage.StoreBlob(e.ctx, txn, 1, 0, []byte(blobRecord), source)
			if !errors.Is(err, broken) {
				e.Errorf("StoreBlob returned %v, want the reader's error", err)
			}
			e.abort(txn)
			e.wantUntouched(0, 1)
		}},
		rule{name: "a blob of an old revision conflicts like any store", run: func(e *env) {
			first := e.storeBlob(1, "one")
			second := e.storeBlob(1, "two")
			txn := e.begin(raidstorage.Meta{})
			e.must("StoreBlob", raidstorage.StoreBlob(e.ctx, txn, 1, first, []byte(blobRecord), strings.NewReader("three")))
			e.wantConflict(txn, 1, second, first)
			e.wantBlob(1, second, "two")
		}},
		rule{name: "blobs are copied with the log", run: func(e *env) {
			e.storeBlob(1, "one")
			e.commit(objs(2, "plain"))
			second := e.storeBlob(1, strings.Repeat("two", 100000))
			target := e.open()
			e.must("copy", copyLog(e.ctx, target, e.s, 0))
			if diff := cmp.Diff(e.log(e.s), e.log(target)); diff != "" {
				e.Errorf("the copy differs (-want +got):\n%s", diff)
			}
			e.s = target
			e.wantBlob(1, second, strings.Repeat("two", 100000))
		}},
		rule{name: "a blob that came back is copied with the log", needs: needs{has: Undoer}, run: func(e *env) {
			first := e.storeBlob(1, "one")
			deleted := e.transact(raidstorage.Meta{}, func(txn raidstorage.Txn) error { return txn.Delete(e.ctx, 1, first) })
			back, _ := e.undo(deleted)
			created := e.storeBlob(2, "two")
			gone, _ := e.undo(created)
			again, _ := e.undo(gone)
			target := e.open()
			e.must("copy", copyLog(e.ctx, target, e.s, 0))
			e.s = target
			e.wantBlob(1, back, "one")
			e.wantBlob(2, again, "two")
		}},
		rule{name: "undoing brings the blob before back", needs: needs{has: Undoer}, run: func(e *env) {
			e.storeBlob(1, "one")
			second := e.storeBlob(1, "two")
			undone, _ := e.undo(second)
			e.wantBlob(1, undone, "one")
			e.wantBlob(1, second, "two")
		}},
		rule{name: "blobs outlive a restart", needs: needs{reopen: true}, run: func(e *env) {
			first := e.storeBlob(1, "one")
			second := e.storeBlob(1, "two")
			e.reopen()
			e.wantBlob(1, first, "one")
			e.wantBlob(1, second, "two")
		}},
	)
}

func (e *env) blobs() raidstorage.BlobLoader {
	e.Helper()
	b, err := raidstorage.Can[raidstorage.BlobLoader](e.s)
	e.must("Can", err)
	return b
}

// storeBlob commits a new revision of oid with a blob.
func (e *env) storeBlob(oid raidstorage.OID, content string) raidstorage.TID {
	e.Helper()
	rev, err := e.s.LoadBefore(e.ctx, oid, raidstorage.MaxTID)
	if _, unknown := errors.AsType[*raidstorage.NotFoundError](err); err != nil && !unknown {
		e.Fatalf("LoadBefore(%v): %v", oid, err)
	}
	return e.transact(raidstorage.Meta{}, func(txn raidstorage.Txn) error {
		return raidstorage.StoreBlob(e.ctx, txn, oid, rev.Serial, []byte(blobRecord), strings.NewReader(content))
	})
}

func (e *env) wantBlob(oid raidstorage.OID, serial raidstorage.TID, content string) {
	e.Helper()
	got, err := readBlob(e.blobs().OpenBlob(e.ctx, oid, serial))
	if err != nil {
		e.Fatalf("blob of %v at %v: %v", oid, serial, err)
	}
	if string(got) != content {
		e.Errorf("the blob of %v at %v has %d bytes %.40q, want %d bytes %.40q",
			oid, serial, len(got), got, len(content), content)
	}
}

func (e *env) wantNoBlob(oid raidstorage.OID, serial raidstorage.TID) {
	e.Helper()
	got, err := readBlob(e.blobs().OpenBlob(e.ctx, oid, serial))
	if err == nil {
		e.Fatalf("the blob of %v at %v has %d bytes, want none", oid, serial, len(got))
	}
	wantErr[*raidstorage.NotFoundError](e, "OpenBlob", err)
}
