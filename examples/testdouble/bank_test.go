package testdouble

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

const (
	alice raidstorage.OID = 1
	bob   raidstorage.OID = 2
)

// bank is the test double: a mirror of in-memory storages, each behind a
// FaultyStorage, with 100 on each account.
type bank struct {
	*raidstorage.Mirror
	backends []*backend
}

// backend outlives the storages that the mirror opens, as a disk does.
type backend struct {
	data *memstorage.Storage

	mu     sync.Mutex                 // guards latest
	latest *storagetest.FaultyStorage // what the mirror opened last
}

func (b *backend) open(context.Context) (raidstorage.Storage, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.latest = storagetest.Faulty(b.data.Another(b.data.Name()))
	return b.latest, nil
}

// inject makes the storage that the mirror uses now fail. When the mirror has closed
// it and opened another one, that one works.
func (b *backend) inject(f storagetest.Fault) *storagetest.FaultyStorage {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.latest.Inject(f)
	return b.latest
}

func newBank(t *testing.T, n int) *bank {
	t.Helper()
	b := &bank{}
	cfg := raidstorage.Config{
		Membership: &raidstorage.MemoryRegister{},
		RetryMin:   time.Millisecond, // so that what failed is soon back
	}
	for i := range n {
		m := &backend{data: memstorage.New(fmt.Sprint("b", i+1))}
		b.backends = append(b.backends, m)
		cfg.Backends = append(cfg.Backends, raidstorage.Backend{Name: m.data.Name(), Open: m.open})
	}
	var err error
	if b.Mirror, err = raidstorage.Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	b.put(t, alice, 100)
	b.put(t, bob, 100)
	return b
}

// put sets an account.
func (b *bank) put(t *testing.T, account raidstorage.OID, balance uint64) {
	t.Helper()
	ctx := context.Background()
	rev, err := b.LoadBefore(ctx, account, raidstorage.MaxTID)
	if _, ok := errors.AsType[*raidstorage.NotFoundError](err); err != nil && !ok {
		t.Fatal(err)
	}
	txn, err := b.Begin(ctx, raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	if err := txn.Store(ctx, account, rev.Serial, encode(balance)); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Vote(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Finish(ctx); err != nil {
		t.Fatal(err)
	}
}

// want checks the accounts.
func (b *bank) want(t *testing.T, wantAlice, wantBob uint64) {
	t.Helper()
	for account, want := range map[raidstorage.OID]uint64{alice: wantAlice, bob: wantBob} {
		if got, err := Balance(t.Context(), b, account); err != nil || got != want {
			t.Errorf("account %v has %d, %v; want %d", account, got, err, want)
		}
	}
}

func TestTransfer(t *testing.T) {
	t.Parallel()
	b := newBank(t, 2)
	if err := Transfer(t.Context(), b, alice, bob, 30); err != nil {
		t.Fatal(err)
	}
	b.want(t, 70, 130)
	if err := Transfer(t.Context(), b, alice, bob, 71); err == nil {
		t.Error("more was transferred than there was")
	}
	b.want(t, 70, 130)
}

// TestABackendFails: whatever call of one backend fails, nobody sees it.
func TestABackendFails(t *testing.T) {
	t.Parallel()
	for _, call := range []storagetest.Call{storagetest.CallLoad, storagetest.CallBegin, storagetest.CallStore,
		storagetest.CallVote, storagetest.CallFinish} {
		for _, kind := range []storagetest.Kind{storagetest.Fail, storagetest.LoseReply, storagetest.Disconnect} {
			t.Run(fmt.Sprintf("%v %s", kind, call), func(t *testing.T) {
				t.Parallel()
				b := newBank(t, 2)
				faulty := b.backends[0].inject(storagetest.Fault{Call: call, Kind: kind, Times: 1})
				if err := Transfer(t.Context(), b, alice, bob, 30); err != nil {
					t.Fatal(err)
				}
				if faulty.Fired() == 0 {
					t.Errorf("no such call was made")
				}
				b.want(t, 70, 130)
			})
		}
	}
}

// TestAnotherCommitComesBetween: the fault only observes a read, and its hook commits
// before the read is through. So the transfer meets a conflict and is tried again.
func TestAnotherCommitComesBetween(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1)
	faulty := b.backends[0].inject(storagetest.Fault{Call: storagetest.CallLoad, Kind: storagetest.Observe, Times: 1,
		Hook: func() { b.put(t, alice, 50) }})
	if err := Transfer(t.Context(), b, alice, bob, 30); err != nil {
		t.Fatal(err)
	}
	b.want(t, 20, 130)
	var conflicts int
	for _, c := range faulty.Calls() {
		if c.Call == storagetest.CallVote && c.Err != nil {
			conflicts++
		}
	}
	if conflicts != 1 {
		t.Errorf("%d votes met a conflict, want 1", conflicts)
	}
}

// TestAllRepliesAreLost: both backends commit, and nobody says so. The transfer finds
// out that it happened, and does not do it again.
func TestAllRepliesAreLost(t *testing.T) {
	t.Parallel()
	b := newBank(t, 2)
	for _, backend := range b.backends {
		backend.inject(storagetest.Fault{Call: storagetest.CallFinish, Kind: storagetest.LoseReply, Times: 1})
	}
	b.transferUntilKnown(t)
	b.want(t, 70, 130)
}

// TestNoBackendFinishes: both refuse at the last moment. The transfer did not happen,
// and it says so.
func TestNoBackendFinishes(t *testing.T) {
	t.Parallel()
	b := newBank(t, 2)
	for _, backend := range b.backends {
		backend.inject(storagetest.Fault{Call: storagetest.CallFinish, Times: 1})
	}
	err := Transfer(t.Context(), b, alice, bob, 30)
	if err == nil {
		t.Error("a transfer that cannot have happened succeeded")
	}
	b.waitForCommits(t)
	b.want(t, 100, 100)
}

// transferUntilKnown allows for the time in which no backend is back yet.
func (b *bank) transferUntilKnown(t *testing.T) {
	t.Helper()
	err := Transfer(t.Context(), b, alice, bob, 30)
	unknown, ok := errors.AsType[*raidstorage.OutcomeUnknownError](err)
	if err == nil {
		return
	}
	if !ok {
		t.Fatal(err)
	}
	b.waitForCommits(t)
	if err := resolve(t.Context(), b, alice, unknown); err != nil {
		t.Error(err)
	}
}

// waitForCommits waits until the mirror has enough backends again.
func (b *bank) waitForCommits(t *testing.T) {
	t.Helper()
	events := b.Watch(t.Context())
	for b.Status().Condition == raidstorage.Failed {
		if _, ok := <-events; !ok {
			t.Fatal("the mirror did not come back")
		}
	}
}
