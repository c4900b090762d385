package raidstorage_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/zeoraid/raidstorage"
)

// A test that cannot fail proves nothing: each of these worlds breaks one promise,
// now and then and quietly, and the histories must notice.

// propLiar is a mirror that lies in one way.
type propLiar struct {
	propMirror
	lie string

	mu     sync.Mutex // guards the fields below
	n      int
	staged map[raidstorage.OID][]byte
	oids   []raidstorage.OID
	last   raidstorage.TID
}

// turn tells whether it is time to lie: every third time.
func (l *propLiar) turn() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	return l.n%3 == 0
}

func (l *propLiar) NewOIDs(ctx context.Context, n int) ([]raidstorage.OID, error) {
	if l.lie == "gives oids twice" && n == len(l.oids) && l.turn() {
		return l.oids, nil
	}
	oids, err := l.propMirror.NewOIDs(ctx, n)
	l.oids = oids
	return oids, err
}

func (l *propLiar) LastTID(ctx context.Context) (raidstorage.TID, error) {
	last, err := l.propMirror.LastTID(ctx)
	if l.lie == "forgets what it has shown" && err == nil && l.turn() {
		return l.last, nil
	}
	l.last = last
	return last, err
}

func (l *propLiar) LoadBefore(ctx context.Context, oid raidstorage.OID, before raidstorage.TID) (raidstorage.Revision, error) {
	rev, err := l.propMirror.LoadBefore(ctx, oid, before)
	switch l.lie {
	case "reads the snapshot before":
		if err == nil && rev.Next == 0 {
			return l.propMirror.LoadBefore(ctx, oid, rev.Serial)
		}
	case "shows what is not acknowledged":
		l.mu.Lock()
		defer l.mu.Unlock()
		if data := l.staged[oid]; data != nil && err == nil && rev.Next == 0 {
			rev.Data = data
		}
	case "calls old revisions current":
		rev.Next = 0
	case "does not find objects":
		if err == nil && l.turn() {
			return raidstorage.Revision{}, &raidstorage.NotFoundError{OID: oid}
		}
	}
	return rev, err
}

func (l *propLiar) History(ctx context.Context, oid raidstorage.OID, limit int) ([]raidstorage.TxnInfo, error) {
	infos, err := l.propMirror.History(ctx, oid, limit)
	if l.lie == "leaves revisions out of histories" && len(infos) > 1 {
		infos = infos[1:]
	}
	return infos, err
}

func (l *propLiar) Subscribe(notify func(raidstorage.Invalidation)) (cancel func()) {
	if l.lie == "tells no subscriber" {
		return func() {}
	}
	return l.propMirror.Subscribe(notify)
}

func (l *propLiar) Begin(ctx context.Context, meta raidstorage.Meta) (raidstorage.Txn, error) {
	txn, err := l.propMirror.Begin(ctx, meta)
	if err != nil {
		return nil, err
	}
	u, ok := txn.(raidstorage.UndoTxn)
	if !ok {
		return nil, errors.New("the mirror's transactions cannot undo")
	}
	return &propLiarTxn{UndoTxn: u, l: l}, nil
}

type propLiarTxn struct {
	raidstorage.UndoTxn
	l   *propLiar
	tid raidstorage.TID
}

func (t *propLiarTxn) Store(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID, data []byte) error {
	t.l.mu.Lock()
	if t.l.staged == nil {
		t.l.staged = make(map[raidstorage.OID][]byte)
	}
	t.l.staged[oid] = data
	t.l.mu.Unlock()
	if t.l.lie == "overwrites without a conflict" {
		if rev, err := t.l.propMirror.LoadBefore(ctx, oid, raidstorage.MaxTID); err == nil {
			serial = rev.Serial
		}
	}
	return t.UndoTxn.Store(ctx, oid, serial, data)
}

func (t *propLiarTxn) Vote(ctx context.Context) (raidstorage.Vote, error) {
	v, err := t.UndoTxn.Vote(ctx)
	t.tid = v.Last + 1
	if t.l.lie == "sees conflicts everywhere" && err == nil && t.l.turn() {
		return raidstorage.Vote{}, errors.Join(&raidstorage.ConflictError{OID: 1}, t.UndoTxn.Abort(ctx))
	}
	return v, err
}

func (t *propLiarTxn) Finish(ctx context.Context) (raidstorage.TID, error) {
	if t.l.lie == "acknowledges and aborts" && t.l.turn() {
		return t.tid, t.UndoTxn.Abort(ctx)
	}
	tid, err := t.UndoTxn.Finish(ctx)
	unknown, isUnknown := errors.AsType[*raidstorage.OutcomeUnknownError](err)
	switch {
	case t.l.lie == "acknowledges what is unknown" && isUnknown:
		return unknown.TID, nil
	case t.l.lie == "denies what it committed" && err == nil && t.l.turn():
		return 0, errors.New("refused")
	}
	return tid, err
}

func (t *propLiarTxn) Abort(ctx context.Context) error {
	if t.l.lie == "commits what was aborted" {
		if _, err := t.UndoTxn.Finish(ctx); err == nil {
			return nil
		}
	}
	return t.UndoTxn.Abort(ctx)
}

// propLyingRegister breaks what the Register promises.
type propLyingRegister struct {
	raidstorage.Register
	lie string
}

func (r propLyingRegister) Reserve(ctx context.Context, floor, step raidstorage.Marks) (raidstorage.Marks, error) {
	if r.lie == "keeps no marks" {
		return floor, ctx.Err()
	}
	return r.Register.Reserve(ctx, floor, step)
}

func (r propLyingRegister) CompareAndSet(ctx context.Context, next raidstorage.Membership) error {
	if r.lie == "stores no change" && next.Epoch > 2 {
		return ctx.Err()
	}
	return r.Register.CompareAndSet(ctx, next)
}

// propLyingBackend loses every transaction that it has finished fifth, or so.
type propLyingBackend struct {
	raidstorage.Storage
	n int
}

func (b *propLyingBackend) Begin(ctx context.Context, meta raidstorage.Meta) (raidstorage.Txn, error) {
	txn, err := b.Storage.Begin(ctx, meta)
	b.n++
	return &propLyingBackendTxn{Txn: txn, lose: b.n%5 == 0, tid: meta.TID}, err
}

type propLyingBackendTxn struct {
	raidstorage.Txn
	lose bool
	tid  raidstorage.TID
}

func (t *propLyingBackendTxn) Finish(ctx context.Context) (raidstorage.TID, error) {
	if t.lose {
		return t.tid, t.Abort(ctx)
	}
	return t.Txn.Finish(ctx)
}

// TestPropertyNoticesLies plays histories with mirrors, registers and backends that
// break a promise: each lie must be found within some hundred of them.
func TestPropertyNoticesLies(t *testing.T) {
	t.Parallel()
	worlds := map[string]propLies{
		"a backend loses what it has finished": {backend: func(s raidstorage.Storage) raidstorage.Storage {
			return &propLyingBackend{Storage: s}
		}},
	}
	for _, lie := range []string{"keeps no marks", "stores no change"} {
		worlds["the register "+lie] = propLies{register: func(r raidstorage.Register) raidstorage.Register {
			return propLyingRegister{r, lie}
		}}
	}
	for _, lie := range []string{"gives oids twice", "forgets what it has shown", "reads the snapshot before",
		"shows what is not acknowledged", "calls old revisions current", "does not find objects",
		"leaves revisions out of histories", "tells no subscriber", "overwrites without a conflict",
		"sees conflicts everywhere", "acknowledges and aborts", "acknowledges what is unknown",
		"denies what it committed", "commits what was aborted"} {
		worlds["the mirror "+lie] = propLies{mirror: func(m propMirror) propMirror { return &propLiar{propMirror: m, lie: lie} }}
	}
	for what, lies := range worlds {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= 400; seed++ {
				if _, err := propPlay(t, seed, propPlan(seed), lies); err != nil {
					t.Logf("history %d: %v", seed, err)
					return
				}
			}
			t.Error("nobody noticed")
		})
	}
}
