package raidstorage

// How a verification reads. An I/O error, a lost connection or a deadline says nothing
// about what a backend holds: the read is made again, with pauses, and if it goes on
// failing the backend is treated as after any read that failed. Only *CorruptError, by
// which a storage says that its own bytes are not what they must be, is a finding.

import (
	"context"
	"errors"
	"io"
	"iter"
	"strings"
	"time"
)

// readAttempts is how often a read is made before it counts as failed.
const readAttempts = 3

// again waits before a read of x is made another time, after failures of them; false
// if it is not to be.
func (v *verification) again(ctx context.Context, x *side, failures int, err error) bool {
	if failures >= readAttempts || x.dead.Load() || ctx.Err() != nil || Classify(err) != ClassFailure {
		return false
	}
	return v.sleep(ctx, v.m.cfg.RetryMin<<(failures-1)) == nil
}

// patient makes a read of x, again if it fails.
func patient[T any](ctx context.Context, v *verification, x *side, ask func() (T, error)) (T, error) {
	for failures := 1; ; failures++ {
		value, err := ask()
		if err == nil || !v.again(ctx, x, failures, err) {
			return value, err
		}
	}
}

// lost goes on without a backend that cannot be read.
func (v *verification) lost(ctx context.Context, x *side, err error) {
	if ctx.Err() != nil {
		return
	}
	x.failed, x.more = true, false
	name := x.b.cfg.Name
	if c, ok := errors.AsType[*CorruptError](err); ok {
		f := Finding{Backend: name, Kind: FindingUnreadable, OID: c.OID, TID: c.TID, Detail: err.Error(), Wrong: true}
		if v.report.Phase == VerifyObjects { // its log was read
			f.Detail += "; it may be its index alone: " + rebuildIndex
		}
		v.broken = append(v.broken, f)
		return
	}
	v.report.Unread[name] = err.Error()
	if Classify(err) == ClassFailure && !v.opts.KeepAll && len(v.m.view.Load().sessions) > 1 {
		v.m.fault(x.session, &BackendError{Backend: name, Op: "verify", Err: err})
	}
}

// advance moves x on to its next transaction after report.TID.
func (v *verification) advance(ctx context.Context, x *side) {
	for failures := 1; ; failures++ {
		if x.next == nil {
			x.next, x.stop = pull(ctx, readLog{x.timely, v, x}, v.report.TID+1, v.report.Through)
		}
		var err error
		if x.id, x.more, err = x.next(); err == nil {
			return
		}
		x.end()
		if !v.again(ctx, x, failures, err) {
			v.lost(ctx, x, err)
			return
		}
	}
}

// readAgain reads the transaction at hand of x a second time.
func (v *verification) readAgain(ctx context.Context, x *side) {
	type answer struct {
		id   identity
		more bool
	}
	tid := x.id.tid
	got, err := patient(ctx, v, x, func() (a answer, err error) {
		next, stop := pull(ctx, readLog{x.timely, v, x}, tid, tid)
		defer stop()
		a.id, a.more, err = next()
		return a, err
	})
	switch {
	case err != nil:
		v.lost(ctx, x, err)
	case got.more:
		x.id = got.id
	}
}

// end lets go of the log.
func (x *side) end() {
	if x.next != nil {
		x.stop()
		x.next = nil
	}
}

// reads counts n bytes that were read of x: for the rate those of all sides, for the
// report those of the first one.
func (v *verification) reads(x *side, n int) {
	v.read += int64(n)
	if x == v.sides[0] {
		v.report.Bytes += int64(n)
	}
}

// pace waits as long as the rate wants.
func (v *verification) pace(ctx context.Context) error {
	v.progress(false)
	if v.opts.BytesPerSecond <= 0 {
		return nil
	}
	each := float64(v.read) / float64(len(v.sides))
	due := v.began.Add(time.Duration(each / float64(v.opts.BytesPerSecond) * float64(time.Second)))
	return v.sleep(ctx, time.Until(due))
}

func (v *verification) sleep(ctx context.Context, wait time.Duration) error {
	if wait <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readLog is the log of a side, of which it counts what is read. It hides blobs unless
// they are to be compared.
type readLog struct {
	Storage
	v *verification
	x *side
}

// Iterate implements Storage.
func (l readLog) Iterate(ctx context.Context, from, through TID) iter.Seq2[*Transaction, error] {
	return func(yield func(*Transaction, error) bool) {
		for txn, err := range l.Storage.Iterate(ctx, from, through) {
			if err == nil {
				l.x.noBlob = nil
				out := *txn
				out.Records = l.records(txn.Records)
				txn = &out
			}
			if !yield(txn, err) {
				return
			}
		}
	}
}

func (l readLog) records(records iter.Seq2[Record, error]) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for r, err := range records {
			if r.OpenBlob != nil && l.v.opts.Blobs {
				r.OpenBlob = l.opener(r)
			} else {
				r.OpenBlob = nil
			}
			l.v.reads(l.x, len(r.Data))
			if !yield(r, err) {
				return
			}
		}
	}
}

// opener opens the blob of r. One that is not there is noted, and read as an empty one:
// the log can be read on.
func (l readLog) opener(r Record) func(context.Context) (io.ReadCloser, error) {
	return func(ctx context.Context) (io.ReadCloser, error) {
		blob, err := r.OpenBlob(ctx)
		if isA[*NotFoundError](err) {
			if l.x.noBlob == nil {
				l.x.noBlob = make(map[OID]bool)
			}
			l.x.noBlob[r.OID] = true
			return io.NopCloser(strings.NewReader("")), nil
		}
		if err != nil {
			return nil, err
		}
		return &pacedBlob{ReadCloser: blob, ctx: ctx, log: l}, nil
	}
}

// pacedBlob counts what is read of a blob, and keeps the rate within it.
type pacedBlob struct {
	io.ReadCloser
	ctx context.Context // of the one comparison that reads it
	log readLog
}

// Read implements io.Reader.
func (b *pacedBlob) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.log.v.reads(b.log.x, n)
	if n > 0 {
		if wait := b.log.v.pace(b.ctx); wait != nil {
			return n, wait
		}
	}
	return n, err
}
