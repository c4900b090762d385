package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/zeoraid/raidstorage"
)

const (
	clientCount  = 4
	counterCount = 8
	// think is the pause of a client between two commits, as if it had a user.
	think = 10 * time.Millisecond
)

// step is one commit of a client: it set a counter to a value.
type step struct {
	counter raidstorage.OID
	value   uint32
}

// clients add to counters in a storage and write down what was acknowledged.
type clients struct {
	storage  raidstorage.Storage
	counters []raidstorage.OID
	ended    chan struct{} // closed to stop them
	failed   chan struct{} // closed when one met an error that it should not have
	stopping sync.Once
	running  sync.WaitGroup

	mu        sync.Mutex // guards the fields below
	acked     map[raidstorage.TID]step
	unknown   map[raidstorage.OID]int // commits by counter whose outcome nobody told
	conflicts int
	err       error // the first unexpected one
}

// startClients creates the counters, with value 0, and starts the clients. stop ends
// them.
func startClients(ctx context.Context, s raidstorage.Storage) (*clients, error) {
	c := &clients{
		storage: s, ended: make(chan struct{}), failed: make(chan struct{}),
		acked: make(map[raidstorage.TID]step), unknown: make(map[raidstorage.OID]int),
	}
	var err error
	if c.counters, err = s.NewOIDs(ctx, counterCount); err != nil {
		return nil, err
	}
	_, err = commit(ctx, s, "create the counters", func(txn raidstorage.Txn) error {
		for _, oid := range c.counters {
			if err := txn.Store(ctx, oid, 0, encode(0)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for range clientCount {
		c.running.Go(func() { c.work(ctx) })
	}
	return c, nil
}

// stop ends the clients after their present commits. It returns the error that ended
// one of them before, if any.
func (c *clients) stop() error {
	c.stopping.Do(func() { close(c.ended) })
	c.running.Wait()
	return c.err
}

// work is one client.
func (c *clients) work(ctx context.Context) {
	timer := time.NewTicker(think)
	defer timer.Stop()
	for {
		select {
		case <-c.ended:
			return
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := c.increment(ctx, c.counters[rand.IntN(len(c.counters))]); err != nil && ctx.Err() == nil {
			c.mu.Lock()
			if c.err == nil {
				c.err = fmt.Errorf("client: %w", err)
				close(c.failed)
			}
			c.mu.Unlock()
			return
		}
	}
}

// increment adds 1 to a counter. A conflict means that another client was faster:
// it is tried again with the new value.
func (c *clients) increment(ctx context.Context, counter raidstorage.OID) error {
	for {
		old, err := c.storage.LoadBefore(ctx, counter, raidstorage.MaxTID)
		if err != nil {
			return err
		}
		value, err := decode(old.Data)
		if err != nil {
			return err
		}
		value++
		tid, err := commit(ctx, c.storage, fmt.Sprintf("counter %v to %d", counter, value), func(txn raidstorage.Txn) error {
			return txn.Store(ctx, counter, old.Serial, encode(value))
		})
		if again, err := c.note(step{counter, value}, tid, err); !again {
			return err
		}
	}
}

// note writes down how a commit ended, and tells whether to try again.
func (c *clients) note(s step, tid raidstorage.TID, err error) (again bool, _ error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.acked[tid] = s
		return false, nil
	}
	if _, ok := errors.AsType[*raidstorage.ConflictError](err); ok {
		c.conflicts++
		return true, nil
	}
	if _, ok := errors.AsType[*raidstorage.OutcomeUnknownError](err); ok {
		c.unknown[s.counter]++ // it may be there or not; the check allows for both
		return false, nil
	}
	return false, err
}

func (c *clients) acknowledged() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.acked)
}

// results returns what is to be found in the files. The clients must have stopped.
func (c *clients) results() (acked map[raidstorage.TID]step, unknown map[raidstorage.OID]int, conflicts int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.acked), maps.Clone(c.unknown), c.conflicts
}

// commit is one transaction of a storage, whatever kind of storage it is.
func commit(ctx context.Context, s raidstorage.Storage, description string,
	change func(raidstorage.Txn) error) (raidstorage.TID, error) {
	txn, err := s.Begin(ctx, raidstorage.Meta{User: []byte("quickstart"), Description: []byte(description)})
	if err != nil {
		return 0, err
	}
	if err := change(txn); err != nil {
		return 0, errors.Join(err, txn.Abort(ctx))
	}
	if _, err := txn.Vote(ctx); err != nil {
		return 0, err // the transaction has ended
	}
	return txn.Finish(ctx)
}

// A counter is a persistent.mapping.PersistentMapping({"value": n}), pickled as ZODB
// does, so that Python can load what is committed here.
const (
	head = "\x80\x03cpersistent.mapping\nPersistentMapping\n." + // the class
		"\x80\x03}X\x04\x00\x00\x00data}X\x05\x00\x00\x00valueJ" // the state, up to the number
	tail = "ss." // SETITEM, SETITEM, STOP
)

func encode(value uint32) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte(head), value), tail...)
}

func decode(record []byte) (uint32, error) {
	if len(record) != len(head)+4+len(tail) || string(record[:len(head)]) != head {
		return 0, fmt.Errorf("not the record of a counter: %q", record)
	}
	return binary.LittleEndian.Uint32(record[len(head):]), nil
}
