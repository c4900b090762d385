package zeoserver

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/zeoraid/raidstorage"
)

// served is one storage with what its connections share.
type served struct {
	name    string
	storage raidstorage.Storage
	starter raidstorage.LoadStarter // the storage, if it is one; else nil
	order   *order
	turn    turn
	stats   stats
	sizes   sizes
	cancel  func() // of the subscription, nil if there is none
}

// stats count since the server started.
type stats struct {
	loads, stores, commits, aborts, active, conflicts, resolved atomic.Int64
}

// serveStorage prepares s: it subscribes to its notifications before it looks where
// the log ends, so that nothing is missed.
func serveStorage(ctx context.Context, name string, s raidstorage.Storage, cfg *Config) (*served, error) {
	st := &served{name: name, storage: s, order: newOrder(cfg.InvalidationQueueSize), turn: turn{clock: cfg.Clock}}
	st.starter, _ = s.(raidstorage.LoadStarter)
	logger := cfg.Logger.With("storage", name)
	st.order.onDisorder = func(tid, last raidstorage.TID) {
		logger.Error("a transaction became known too late; all clients must verify their caches", "tid", tid.String(), "last", last.String())
	}
	early := &ticket{} // holds back what is notified meanwhile
	st.order.pending = append(st.order.pending, early)
	if n, err := raidstorage.Can[raidstorage.Notifier](s); err == nil {
		st.order.notified = true
		st.cancel = n.Subscribe(st.order.foreign)
	}
	last, err := s.LastTID(ctx)
	if err != nil {
		st.stop()
		return nil, fmt.Errorf("storage %q: %w", name, err)
	}
	queue := newQueue(cfg.InvalidationQueueSize)
	if err := queue.refill(ctx, s, last); err != nil {
		logger.Warn("the last transactions cannot be read; clients may have to drop their caches", "err", err)
	}
	st.order.started(early, last, queue)
	return st, nil
}

func (st *served) stop() {
	if st.cancel != nil {
		st.cancel()
	}
}

// isReadOnly asks the storage, as it may become so.
func (st *served) isReadOnly(ctx context.Context, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tx, err := st.storage.Begin(ctx, raidstorage.Meta{})
	if err != nil {
		_, readOnly := errors.AsType[*raidstorage.ReadOnlyError](err)
		return readOnly
	}
	abort(tx)
	return false
}

// abortTime bounds an abort of a storage that does not answer.
const abortTime = 30 * time.Second

func abort(tx raidstorage.Txn) error {
	ctx, cancel := context.WithTimeout(context.Background(), abortTime)
	defer cancel()
	return tx.Abort(ctx)
}

func (st *served) status(s *Server) Status {
	waiting, since := st.turn.state()
	return Status{
		Connections: st.order.connections(), Loads: st.stats.loads.Load(), Stores: st.stats.stores.Load(),
		Commits: st.stats.commits.Load(), Aborts: st.stats.aborts.Load(), ActiveTxns: st.stats.active.Load(),
		Conflicts: st.stats.conflicts.Load(), ConflictsResolved: st.stats.resolved.Load(), Waiting: waiting,
		LockedSince: since, Start: s.start, LastTID: st.order.lastTID(), Timeout: s.cfg.TransactionTimeout > 0,
	}
}
