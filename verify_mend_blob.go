package raidstorage

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"
)

// A blob may be too long to be read with the commit slot held. So the votes are cast
// before: a vote is the digest of what a session gave, and is good as long as that session
// is in sync and the file has the stamp that it had before it was read; where there are no
// stamps, as long as the session is. What is to be put in place is copied before, too, from
// one of those who voted for it, and its digest is made of what is on the disk. Then, with
// the slot held, the votes are counted against all that are in sync at that moment, and all
// that were compared. Where they are no majority any more nothing is changed: one that
// dropped out meanwhile must not make the damaged copy the one that most hold. A file that is missing needs a majority as
// well: what is copied from the only one who has it would vote with it ever after.

// heldBlob is what one backend holds of a blob.
type heldBlob struct {
	x      *side
	open   func(context.Context) (io.ReadCloser, error)
	sum    *BlobSum // nil: it is not there
	mender Mender   // nil: it is none
	stamp  string
}

// mendBlobs decides about a blob, and mends the wrong copies. The data of its record are
// the same everywhere.
func (v *verification) mendBlobs(ctx context.Context, oid OID, tid TID, found []Finding) ([]Finding, error) {
	var held []heldBlob
	for _, x := range v.alive() {
		h, err := patient(ctx, v, x, func() (heldBlob, error) { return v.holdBlob(ctx, x, oid, tid) })
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			return because(found, fmt.Sprintf("not all could be read again (%v)", err)), nil
		}
		held = append(held, h)
	}
	var voters []heldBlob
	for _, h := range held {
		same := slices.DeleteFunc(slices.Clone(held), func(o heldBlob) bool { return h.sum == nil || o.sum == nil || *o.sum != *h.sum })
		same = witnesses(same)
		if 2*len(same) > len(v.sides) {
			voters = same
		}
	}
	if len(voters) == 0 {
		const none = "no copy of the blob has a majority of those in sync"
		if len(found) == 0 && slices.ContainsFunc(held, func(h heldBlob) bool { return h.sum == nil || held[0].sum == nil || *h.sum != *held[0].sum }) {
			for _, h := range held { // found when the data had been put right
				found = append(found, Finding{Backend: h.x.b.cfg.Name, Kind: FindingRecord, OID: oid, TID: tid})
			}
		}
		return because(found, none), nil
	}
	if i := slices.IndexFunc(voters, func(o heldBlob) bool { return o.mender != nil }); i > 0 {
		voters[0], voters[i] = voters[i], voters[0] // the source is one whose file can be told
	}
	right := *voters[0].sum
	decided := because(slices.DeleteFunc(slices.Clone(found), func(f Finding) bool {
		return slices.ContainsFunc(held, func(h heldBlob) bool { return h.x.b.cfg.Name == f.Backend })
	}), "it could not be read again")
	for _, h := range held {
		if h.sum != nil && *h.sum == right {
			continue
		}
		f := Finding{Backend: h.x.b.cfg.Name, Kind: FindingRecord, OID: oid, TID: tid, Wrong: true}
		if h.sum == nil {
			f.Kind, f.Detail = FindingBlob, fmt.Sprintf("most others have it, SHA-256 %x", right.SHA256)
		} else {
			f.Detail = fmt.Sprintf("its blob: most others hold something else; %d bytes, SHA-256 %x, instead of %d bytes, SHA-256 %x",
				h.sum.Size, h.sum.SHA256, right.Size, right.SHA256)
		}
		if err := v.mendBlob(ctx, &f, h, voters); err != nil {
			return decided, err
		}
		decided = append(decided, f)
	}
	return decided, nil
}

// witnesses leaves out those whose file is another one's too: what a copy made of hard
// links, or a directory that two use, has damaged is damaged for both.
func witnesses(same []heldBlob) (each []heldBlob) {
	for _, h := range same {
		if h.stamp == "" || !slices.ContainsFunc(each, func(o heldBlob) bool { return o.stamp == h.stamp }) {
			each = append(each, h)
		}
	}
	return each
}

// holdBlob reads a blob, in its own time: pauses come between the reads of two backends.
func (v *verification) holdBlob(ctx context.Context, x *side, oid OID, tid TID) (h heldBlob, err error) {
	h, err = steadily(ctx, v.m, func(ctx context.Context, steps pulse) (heldBlob, error) {
		return readHeldBlob(ctx, x, oid, tid, steps)
	})
	if err != nil || h.sum == nil {
		return h, err
	}
	v.reads(x, int(h.sum.Size))
	return h, v.pace(ctx)
}

func readHeldBlob(ctx context.Context, x *side, oid OID, tid TID, steps pulse) (h heldBlob, err error) {
	h = heldBlob{x: x}
	h.mender, _ = Can[Mender](x.storage) // nil if it is none
	if h.mender != nil {
		if h.stamp, err = h.mender.BlobStamp(ctx, oid, tid); err != nil {
			return h, err
		}
	}
	r, err := recordAt(ctx, x.session, oid, tid)
	if err != nil {
		return h, err
	}
	if r.TID != tid {
		return h, &NotFoundError{OID: oid, Serial: tid}
	}
	if h.open = r.OpenBlob; h.open == nil {
		return h, nil
	}
	blob, err := steps.open(ctx, h.open)
	if isA[*NotFoundError](err) {
		return h, nil
	}
	if err != nil {
		return h, err
	}
	defer blob.Close()
	sum, err := SumBlob(ctx, steps.reader(blob))
	if err != nil {
		return h, err
	}
	h.sum = &sum
	if h.mender != nil {
		now, err := h.mender.BlobStamp(ctx, oid, tid)
		if err == nil && now != h.stamp {
			err = &InvalidError{Op: "read a blob", Reason: "its file was changed meanwhile"}
		}
		return h, err
	}
	return h, nil
}

// mendBlob has a wrong copy replaced by one of those that voted. The commit slot is not
// held.
func (v *verification) mendBlob(ctx context.Context, f *Finding, h heldBlob, voters []heldBlob) error {
	var staged BlobMend
	_, err := Can[Mender](h.x.storage)
	if err == nil {
		staged, err = v.stageBlob(ctx, f, h, voters[0])
	}
	if ctx.Err() != nil {
		if staged != nil {
			staged.Discard()
		}
		return ctx.Err()
	}
	m := v.m
	if held := m.holdSlot(ctx); held != nil {
		if staged != nil {
			staged.Discard()
		}
		return held
	}
	defer m.unlockCommit()
	kept := ""
	if err == nil {
		kept, err = v.placeBlob(ctx, f, h, voters, staged)
	}
	if isA[*votesError](err) { // as if nothing had been decided
		f.Wrong, f.Detail = false, f.Detail+"; nothing is changed: "+err.Error()
		return nil
	}
	return v.mended(ctx, f, kept, err)
}

// stageBlob copies a good blob.
func (v *verification) stageBlob(ctx context.Context, f *Finding, h, source heldBlob) (BlobMend, error) {
	return steadily(ctx, v.m, func(ctx context.Context, steps pulse) (BlobMend, error) {
		blob, err := steps.open(ctx, source.open)
		if err != nil {
			return nil, err
		}
		defer blob.Close()
		staged, err := h.mender.StageBlob(ctx, f.OID, f.TID, *source.sum, steps.reader(blob))
		if err == nil && ctx.Err() != nil { // nobody may be waiting for it any more
			staged.Discard()
			return nil, ctx.Err()
		}
		return staged, err
	})
}

// votesError says that what was decided about a blob does not hold any more.
type votesError struct{ reason string }

func (e *votesError) Error() string { return e.reason }

// placeBlob counts the votes, and has the copy put in place. The commit slot is held.
func (v *verification) placeBlob(ctx context.Context, f *Finding, h heldBlob, voters []heldBlob, staged BlobMend) (string, error) {
	m := v.m
	var taken atomic.Bool // by the worker, which discards it then
	defer func() {
		if taken.CompareAndSwap(false, true) {
			staged.Discard()
		}
	}()
	live, _ := m.members()
	if !slices.Contains(live, h.x.session) {
		return "", &votesError{"it is not in sync any more"}
	}
	var asked []*session
	votes := 0
	for _, o := range voters {
		switch {
		case !slices.Contains(live, o.x.session):
		case o.mender == nil:
			votes++
		default:
			asked = append(asked, o.x.session)
		}
	}
	stamps := round(ctx, m, "compare", asked, m.tuned().Timeouts.Read, func(ctx context.Context, _ int, s *session) (string, error) {
		mender, err := Can[Mender](s.storage)
		if err != nil {
			return "", err
		}
		return mender.BlobStamp(ctx, f.OID, f.TID)
	}, nil)
	for _, a := range stamps {
		i := slices.IndexFunc(voters, func(o heldBlob) bool { return o.x.session == a.session })
		if a.err == nil && a.value == voters[i].stamp && !a.session.dead.Load() {
			votes++
		} else if i == 0 {
			return "", &votesError{"the copy was made of one that is not in sync or not the same any more"}
		}
	}
	if !slices.Contains(live, voters[0].x.session) || 2*votes <= v.electorate() {
		return "", &votesError{fmt.Sprintf("of %d that are or were in sync, %d hold now what most held before", v.electorate(), votes)}
	}
	return mending(ctx, m, h.x.session, func(ctx context.Context) (string, error) {
		if !taken.CompareAndSwap(false, true) {
			return "", ErrClosed
		}
		defer staged.Discard()
		return staged.Place(ctx, h.stamp)
	})
}

// steadily makes a call that reads a blob, in a goroutine of its own: it may take as long
// as a backend's part of a pack, but each single step only as long as a read.
func steadily[T any](ctx context.Context, m *Mirror, call func(ctx context.Context, steps pulse) (T, error)) (T, error) {
	timeouts := m.tuned().Timeouts
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	value, err := leave(ctx, m, timeouts.Pack, func(inner context.Context) (T, error) {
		return call(inner, pulse{timeouts.Read, func() {
			cancel(fmt.Errorf("no answer for %v: %w", timeouts.Read, context.DeadlineExceeded))
		}})
	})
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return value, err
}

// pulse calls late if a single step takes longer than timeout.
type pulse struct {
	timeout time.Duration
	late    func()
}

func (p pulse) open(ctx context.Context, open func(context.Context) (io.ReadCloser, error)) (io.ReadCloser, error) {
	defer time.AfterFunc(p.timeout, p.late).Stop()
	return open(ctx)
}

func (p pulse) reader(r io.Reader) io.Reader { return pulseReader{p, r} }

type pulseReader struct {
	pulse
	r io.Reader
}

// Read implements io.Reader.
func (r pulseReader) Read(b []byte) (int, error) {
	defer time.AfterFunc(r.timeout, r.late).Stop()
	return r.r.Read(b)
}
