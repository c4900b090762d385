package storagetest_test

import (
	"context"
	"errors"
	"io"
	"iter"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// defect is a storage that breaks one rule, and the subjects whose cases must
// notice it.
type defect struct {
	name   string
	broken func() *broken
	fails  []string
}

// txnDefect is a storage whose transactions are changed by change.
func txnDefect(change func(s *broken, t *brokenTxn)) func() *broken {
	return func() *broken { return &broken{txn: change} }
}

func metaDefect(change func(*raidstorage.Meta)) func() *broken {
	return func() *broken {
		return &broken{begin: func(m raidstorage.Meta) raidstorage.Meta { change(&m); return m }}
	}
}

func readDefects() []defect {
	return []defect{
		{"LoadBefore takes its bound as inclusive", func() *broken {
			return &broken{load: func(s *broken, ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
				return s.Storage.LoadBefore(ctx, oid, min(before, raidstorage.MaxTID-1)+1)
			}}
		}, []string{"read", "undo", "restore"}},
		{"LoadBefore forgets that the object came later", func() *broken {
			return &broken{load: func(s *broken, ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
				rev, err := s.Storage.LoadBefore(ctx, oid, before)
				if e, ok := errors.AsType[*raidstorage.NotFoundError](err); ok {
					err = &raidstorage.NotFoundError{OID: e.OID}
				}
				return rev, err
			}}
		}, []string{"read"}},
		{"LoadBefore forgets the next revision", func() *broken {
			return &broken{load: func(s *broken, ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
				rev, err := s.Storage.LoadBefore(ctx, oid, before)
				rev.Next = 0
				return rev, err
			}}
		}, []string{"read", "concurrency"}},
		{"the last transaction is seen in part", func() *broken {
			return &broken{load: func(s *broken, ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
				rev, err := s.Storage.LoadBefore(ctx, oid, before)
				if older, e := s.Storage.LoadBefore(ctx, oid, rev.Serial); oid == 11 && err == nil && e == nil {
					return older, nil
				}
				return rev, err
			}}
		}, []string{"concurrency"}},
		{"new oids start at 1", func() *broken {
			return &broken{newOIDs: func(s *broken, ctx context.Context, n int) ([]raidstorage.OID, error) {
				if _, err := s.Storage.NewOIDs(ctx, n); err != nil {
					return nil, err
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				var oids []raidstorage.OID
				for range n {
					s.lastID++
					oids = append(oids, s.lastID)
				}
				return oids, nil
			}}
		}, []string{"oids", "reopen", "garbage collection"}},
		{"Iterate takes through as exclusive", func() *broken {
			return &broken{iterate: func(s *broken, ctx context.Context, from, through raidstorage.TID) iter.Seq2[*raidstorage.Transaction, error] {
				return s.Storage.Iterate(ctx, from, max(through, 1)-1)
			}}
		}, []string{"iterate"}},
	}
}

func commitDefects() []defect {
	return []defect{
		{"conflicts are forgotten", txnDefect(func(s *broken, t *brokenTxn) {
			t.store = func(ctx context.Context, oid raidstorage.OID, _ raidstorage.TID, data []byte) error {
				rev, _ := s.Storage.LoadBefore(ctx, oid, raidstorage.MaxTID)
				return t.fullTxn.Store(ctx, oid, rev.Serial, data)
			}
		}), []string{"conflict"}},
		{"dependencies are forgotten", txnDefect(func(_ *broken, t *brokenTxn) {
			t.check = func(context.Context, raidstorage.OID, raidstorage.TID) error { return nil }
		}), []string{"conflict", "transaction state"}},
		{"a tid is given out twice", txnDefect(func(_ *broken, t *brokenTxn) {
			t.finish = func(ctx context.Context) (raidstorage.TID, error) {
				_, err := t.fullTxn.Finish(ctx)
				return t.voted.Last, err
			}
		}), []string{"tids", "commit lock"}},
		{"changes are visible after the vote", func() *broken {
			return &broken{
				txn: func(s *broken, t *brokenTxn) {
					t.store = func(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte) error {
						s.mu.Lock()
						defer s.mu.Unlock()
						s.early[oid] = data
						return t.fullTxn.Store(ctx, oid, serial, data)
					}
				},
				load: func(s *broken, ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
					rev, err := s.Storage.LoadBefore(ctx, oid, before)
					s.mu.Lock()
					defer s.mu.Unlock()
					if data, ok := s.early[oid]; ok && before == raidstorage.MaxTID && err == nil {
						rev.Data = data
					}
					return rev, err
				},
			}
		}, []string{"commit", "conflict"}},
		{"finish does nothing", txnDefect(func(_ *broken, t *brokenTxn) {
			t.finish = func(ctx context.Context) (raidstorage.TID, error) {
				return t.voted.Last + 1, t.fullTxn.Abort(ctx)
			}
		}), []string{"commit", "read"}},
		{"a failed vote keeps the lock", txnDefect(func(s *broken, t *brokenTxn) {
			t.vote = func(ctx context.Context) (raidstorage.Vote, error) {
				vote, err := t.fullTxn.Vote(ctx)
				if err != nil && ctx.Err() == nil {
					if holder, e := s.Storage.Begin(ctx, raidstorage.Meta{}); e == nil {
						_, _ = holder.Vote(ctx)
					}
				}
				return vote, err
			}
		}), []string{"conflict", "commit lock", "undo", "tids"}},
		{"a waiting vote ignores its context", txnDefect(func(_ *broken, t *brokenTxn) {
			t.vote = func(ctx context.Context) (raidstorage.Vote, error) {
				if err := ctx.Err(); err != nil {
					return raidstorage.Vote{}, err // else other cases would wait for ever
				}
				return t.fullTxn.Vote(context.WithoutCancel(ctx))
			}
		}), []string{"commit lock"}},
		{"abort under an ended context keeps the lock", txnDefect(func(_ *broken, t *brokenTxn) {
			t.abort = func(ctx context.Context) error {
				if err := ctx.Err(); err != nil {
					return err
				}
				return t.fullTxn.Abort(ctx)
			}
		}), []string{"commit"}},
		{"the vote tells a wrong last tid", txnDefect(func(_ *broken, t *brokenTxn) {
			t.vote = func(ctx context.Context) (raidstorage.Vote, error) {
				vote, err := t.fullTxn.Vote(ctx)
				vote.Last++
				return vote, err
			}
		}), []string{"commit lock"}},
		{"the vote does not tell what undo changed", txnDefect(func(_ *broken, t *brokenTxn) {
			t.vote = func(ctx context.Context) (raidstorage.Vote, error) {
				vote, err := t.fullTxn.Vote(ctx)
				vote.Changed = nil
				return vote, err
			}
		}), []string{"undo"}},
		{"restored records lose their back pointers", txnDefect(func(_ *broken, t *brokenTxn) {
			t.restore = func(ctx context.Context, rec raidstorage.Record) error {
				rec.DataTID = 0
				return t.fullTxn.Restore(ctx, rec)
			}
		}), []string{"restore"}},
		{"restored records lose their blobs", txnDefect(func(_ *broken, t *brokenTxn) {
			t.restore = func(ctx context.Context, rec raidstorage.Record) error {
				rec.OpenBlob = nil
				return t.fullTxn.Restore(ctx, rec)
			}
		}), []string{"blobs"}},
		{"the extension is lost", metaDefect(func(m *raidstorage.Meta) { m.Extension = nil }), []string{"metadata", "restore", "undo log"}},
		{"the status is lost", metaDefect(func(m *raidstorage.Meta) { m.Status = 0 }), []string{"metadata", "restore", "undo"}},
		{"given tids are ignored", metaDefect(func(m *raidstorage.Meta) { m.TID = 0 }), []string{"tids", "restore"}},
		{"too long metadata is cut", metaDefect(func(m *raidstorage.Meta) {
			m.User = m.User[:min(len(m.User), raidstorage.MaxMetaBytes)]
		}), []string{"metadata"}},
	}
}

func optionalDefects() []defect {
	return []defect{
		{"a capability is lost", func() *broken {
			return &broken{lacks: reflect.TypeFor[raidstorage.Sizer]()}
		}, []string{"capabilities", "size"}},
		{"Close does not close", func() *broken {
			return &broken{close: func(*broken) error { return nil }}
		}, []string{"close"}},
		{"Close cannot be called again", func() *broken {
			return &broken{close: func(s *broken) error {
				if _, err := s.LastTID(context.Background()); err != nil {
					return err
				}
				return s.Storage.Close()
			}}
		}, []string{"close"}},
		{"a restart loses the last transaction", func() *broken {
			return &broken{close: func(s *broken) error {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second) // the lock may be held
				defer cancel()
				if last, err := s.LastTID(ctx); err == nil && last > 0 {
					_ = s.Storage.TruncateAfter(ctx, last-1, last)
				}
				return s.Storage.Close()
			}}
		}, []string{"reopen"}},
		{"truncation does not compare", func() *broken {
			return &broken{truncate: func(s *broken, ctx context.Context, tid, _ raidstorage.TID) error {
				last, err := s.LastTID(ctx)
				if err != nil {
					return err
				}
				return s.Storage.TruncateAfter(ctx, tid, last)
			}}
		}, []string{"truncate"}},
		{"the undo log is upside down", func() *broken {
			return &broken{undoLog: func(s *broken, ctx context.Context, skip, limit int, match func(raidstorage.TxnInfo) bool) ([]raidstorage.TxnInfo, error) {
				infos, err := s.Storage.UndoLog(ctx, skip, limit, match)
				slices.Reverse(infos)
				return infos, err
			}}
		}, []string{"undo log"}},
		{"pack drops too much", func() *broken {
			return &broken{pack: func(s *broken, ctx context.Context, opts raidstorage.PackOptions) error {
				if last, err := s.LastTID(ctx); err == nil && last > 0 {
					opts.Through = last
				}
				return s.Storage.Pack(ctx, opts)
			}}
		}, []string{"pack", "garbage collection"}},
		{"pack collects no garbage", func() *broken {
			return &broken{pack: func(s *broken, ctx context.Context, opts raidstorage.PackOptions) error {
				opts.GC = false
				return s.Storage.Pack(ctx, opts)
			}}
		}, []string{"garbage collection"}},
		{"blobs lose their last byte", func() *broken {
			return &broken{blob: func(r io.ReadCloser) io.ReadCloser {
				data, _ := io.ReadAll(r)
				return io.NopCloser(strings.NewReader(string(data[:max(len(data), 1)-1])))
			}}
		}, []string{"blobs"}},
		{"invalidations leave objects out", func() *broken {
			return &broken{notify: func(inv raidstorage.Invalidation) raidstorage.Invalidation {
				inv.OIDs = inv.OIDs[:max(len(inv.OIDs), 1)-1]
				return inv
			}}
		}, []string{"notify"}},
	}
}

// failedSubjects runs all cases at the same time and returns the failures by
// subject.
func failedSubjects(t *testing.T, f storagetest.Fixture) map[string][]string {
	var (
		mu     sync.Mutex
		failed = map[string][]string{}
		wg     sync.WaitGroup
	)
	for _, c := range f.Cases() {
		wg.Go(func() {
			for _, failure := range runCase(t, c) {
				mu.Lock()
				failed[c.Subject] = append(failed[c.Subject], c.Name+": "+failure)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return failed
}

func TestTheSuiteNoticesDefects(t *testing.T) {
	t.Parallel()
	for _, d := range slices.Concat(readDefects(), commitDefects(), optionalDefects()) {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			failed := failedSubjects(t, brokenFixture(d.broken, 2*time.Second))
			for _, subject := range d.fails {
				if len(failed[subject]) == 0 {
					t.Errorf("no case about %q failed", subject)
				}
			}
		})
	}
}

func TestTheSuitePassesAWholeStorageInTheWrapper(t *testing.T) {
	t.Parallel()
	failed := failedSubjects(t, brokenFixture(func() *broken { return &broken{} }, 0))
	for subject, failures := range failed {
		t.Errorf("%s: %s", subject, strings.Join(failures, "\n"))
	}
}
