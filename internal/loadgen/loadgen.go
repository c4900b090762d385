// Package loadgen loads a ZEO server as its clients do and counts what it gets done: the
// generator behind `zeoraid bench`. It speaks the protocol itself, without a cache, and
// spends as little time as it can, so that the figures are the server's and not its own.
// Any server of protocol 5 can be measured, so the same program compares two of them.
package loadgen

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// Target is the server to measure.
type Target struct {
	// Address is a host and port, or the path of a Unix socket, which has a slash.
	Address string
	Storage string // its name at the server
	// Encoding of the messages; 0: as the server prefers.
	Encoding zeowire.Encoding
}

// Work is what is measured. With a Writes of 0 each connection loads; otherwise each
// commits transactions of so many objects, one after the other.
type Work struct {
	Connections int           // at least 1
	InFlight    int           // loads that a connection waits for at the same time, at least 1
	Writes      int           // objects of a transaction
	RecordBytes int           // length of the records that are written
	Duration    time.Duration // how long
}

// Result is what was done.
type Result struct {
	Operations int64         // loads or transactions
	Elapsed    time.Duration // from the first request to the last reply
	P50, P99   time.Duration // how long an operation took, from its request to its reply
}

// PerSecond returns the operations of a second.
func (r Result) PerSecond() float64 { return float64(r.Operations) / r.Elapsed.Seconds() }

// Objects is a set of objects at the server, with the last serials.
type Objects struct {
	oids []raidstorage.OID
}

// grace is how much longer than its duration a run may take.
const grace = 30 * time.Second

// Populate commits n new objects with records of recordBytes bytes, for loads to read.
func Populate(ctx context.Context, target Target, n, recordBytes int) (*Objects, error) {
	c, err := dial(ctx, target, grace)
	if err != nil {
		return nil, err
	}
	defer c.close()
	const batch = 100
	objects := &Objects{}
	for len(objects.oids) < n {
		w := writer{conn: c, data: record(recordBytes)}
		if err := w.take(min(batch, n-len(objects.oids))); err != nil {
			return nil, err
		}
		if err := w.commit(); err != nil {
			return nil, err
		}
		objects.oids = append(objects.oids, w.oids...)
	}
	return objects, nil
}

// Run does the work. objects are those that are loaded.
func Run(ctx context.Context, target Target, objects *Objects, work Work) (Result, error) {
	if work.Connections < 1 || work.InFlight < 1 || work.Duration <= 0 || work.Writes < 0 || work.RecordBytes < 0 {
		return Result{}, &raidstorage.InvalidError{Reason: fmt.Sprintf("work that cannot be done: %+v", work)}
	}
	if work.Writes == 0 && (objects == nil || len(objects.oids) == 0) {
		return Result{}, &raidstorage.InvalidError{Reason: "no objects to load"}
	}
	workers := make([]worker, work.Connections)
	var conns []*conn
	defer func() {
		for _, c := range conns {
			c.close()
		}
	}()
	for i := range workers {
		c, err := dial(ctx, target, work.Duration+grace)
		if err != nil {
			return Result{}, err
		}
		conns = append(conns, c)
		if work.Writes == 0 {
			workers[i] = &loader{conn: c, oids: objects.oids, next: i * 7919, inFlight: work.InFlight}
			continue
		}
		w := &writer{conn: c, data: record(work.RecordBytes)}
		if err := w.take(work.Writes); err != nil {
			return Result{}, err
		}
		workers[i] = w
	}
	return measure(workers, conns, work.Duration)
}

// worker does operations on one connection until the time is up.
type worker interface {
	work(until time.Time) error
}

// measure runs all workers at the same time.
func measure(workers []worker, conns []*conn, d time.Duration) (Result, error) {
	var group errgroup.Group
	start := time.Now()
	for _, w := range workers {
		group.Go(func() error { return w.work(start.Add(d)) })
	}
	if err := group.Wait(); err != nil {
		return Result{}, err
	}
	r := Result{Elapsed: time.Since(start)}
	var all []time.Duration
	for _, c := range conns {
		r.Operations += c.operations
		all = append(all, c.latencies...)
	}
	if r.Operations == 0 {
		return r, errors.New("loadgen: no operation ended in time")
	}
	slices.Sort(all)
	r.P50, r.P99 = all[len(all)/2], all[len(all)*99/100]
	return r, nil
}

// record makes the bytes of a record: a class and a state as ZODB pickles them, the
// state being so long that all is about n bytes.
func record(n int) []byte {
	const class = "\x80\x03cpersistent.mapping\nPersistentMapping\nq\x01."
	state := make([]byte, max(0, min(n-len(class)-8, 255)))
	data := append([]byte(class+"\x80\x03}X\x01\x00\x00\x00dC"), byte(len(state)))
	return append(append(data, state...), "s."...)
}
