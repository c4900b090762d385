package raidstorage

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"iter"
	"slices"
)

// digest identifies a transaction by content: two different transactions with one
// tid make logs that look equal (rule C2), and a tid alone proves nothing.
type digest [sha256.Size]byte

// digestOf covers tid, user, description, and for each oid its last record: whether
// there is data, the data, and the blob. It leaves out the status, which a pack
// changes, and the extension: that is a pickled dictionary, which ZEO carries as a
// dictionary and which each server pickles anew, while old databases have pickles of
// other protocols, so its bytes say nothing about what it holds.
func digestOf(ctx context.Context, txn *Transaction) (digest, error) {
	i, err := identify(ctx, txn)
	return i.digest, err
}

// identity is a transaction's tid and content.
type identity struct {
	tid     TID
	digest  digest
	meta    digest // of the metadata alone
	records map[OID]digest
}

func identify(ctx context.Context, txn *Transaction) (identity, error) {
	i := identity{tid: txn.TID, records: make(map[OID]digest)}
	for r, err := range txn.Records {
		if err == nil {
			i.records[r.OID], err = recordDigest(ctx, r)
		}
		if err != nil {
			return i, err
		}
	}
	oids := make([]OID, 0, len(i.records))
	for oid := range i.records {
		oids = append(oids, oid)
	}
	slices.Sort(oids)
	h := sha256.New()
	put := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	tid := txn.TID.Bytes()
	put(tid[:])
	put(txn.User)
	put(txn.Description)
	h.Sum(i.meta[:0])
	for _, oid := range oids {
		b, sum := oid.Bytes(), i.records[oid]
		put(b[:])
		put(sum[:])
	}
	h.Sum(i.digest[:0])
	return i, nil
}

func recordDigest(ctx context.Context, r Record) (sum digest, err error) {
	h := sha256.New()
	if r.Data != nil {
		h.Write([]byte{1})
		h.Write(r.Data)
	}
	if r.OpenBlob != nil {
		blob, err := r.OpenBlob(ctx)
		if err != nil {
			return sum, err
		}
		defer blob.Close()
		content := sha256.New()
		if _, err := io.Copy(content, blob); err != nil {
			return sum, err
		}
		h.Write(content.Sum(nil))
	}
	h.Sum(sum[:0])
	return sum, nil
}

// digestAt returns the digest of transaction tid of s; ok is false if there is none.
// The empty log's tail, tid 0, is everywhere.
func digestAt(ctx context.Context, s Storage, tid TID) (d digest, ok bool, err error) {
	if tid == 0 {
		return digest{}, true, nil
	}
	for txn, err := range s.Iterate(ctx, tid, tid) {
		if err != nil {
			return digest{}, false, err
		}
		d, err = digestOf(ctx, txn)
		return d, err == nil, err
	}
	return digest{}, false, nil
}

// common is where two logs part.
type common struct {
	last  TID   // the target's last transaction before that, 0 if none
	first TID   // the first one that only one of them has, or that differs; 0 if the logs are equal
	extra int64 // transactions of the target after last
	// shared is the last transaction that both have, 0 if none. Less than last where
	// a pack of the source has dropped what the target has.
	shared TID
	empty  bool // the target has no transactions
	// The last packed transaction of each side.
	targetHorizon, sourceHorizon TID
}

// firstWindow and windowGrowth shape the search for the last common transaction
// where the target's last one is not it: a second, then ever greater spans back
// from the target's end.
const (
	firstWindow  = TID(1<<32) / 60
	windowGrowth = 8
)

// lastCommon finds the last transaction that target and source have in common, by
// digest. It looks at the target's tail first (rule V1) and goes back in growing
// steps, or compares everything if full is set. Only source transactions up to
// through count. Everything before a common transaction is taken to be equal
// unless full is set. At and before the pack times of both see recovery_pack.go.
func lastCommon(ctx context.Context, target, source Storage, through TID, full bool) (common, error) {
	end, err := target.LastTID(ctx)
	if err != nil {
		return common{}, err
	}
	c := comparer{target: target, source: source, through: through}
	if c.targetHorizon, err = packHorizon(ctx, target); err != nil {
		return common{}, err
	}
	if c.sourceHorizon, err = packHorizon(ctx, source); err != nil {
		return common{}, err
	}
	for span := TID(0); ; span = max(firstWindow, span*windowGrowth) {
		from := TID(1)
		if !full && span < end {
			from = end - span
		}
		found, err := c.compareFrom(ctx, from)
		found.empty = end == 0
		found.targetHorizon, found.sourceHorizon = c.targetHorizon, c.sourceHorizon
		if err != nil || found.shared != 0 || from <= 1 {
			return found, err
		}
		if span > MaxTID/windowGrowth {
			span = MaxTID / windowGrowth
		}
	}
}

// comparer compares two logs.
type comparer struct {
	target, source               Storage
	targetHorizon, sourceHorizon TID
	through                      TID
}

// compareFrom walks both logs from a tid on, side by side, until they part. Source
// transactions after through are not acknowledged and do not count.
func (c *comparer) compareFrom(ctx context.Context, from TID) (found common, err error) {
	targets, stopTargets := pull(ctx, c.target, from, MaxTID)
	defer stopTargets()
	sources, stopSources := pull(ctx, c.source, from, c.through)
	defer stopSources()
	t, okT, err := targets()
	if err != nil {
		return found, err
	}
	s, okS, err := sources()
	for err == nil {
		var goesOn bool
		switch {
		case okT && okS && t.tid == s.tid:
			if goesOn, err = c.same(ctx, t, s); goesOn {
				found.last, found.shared = t.tid, t.tid
			}
		case okT && (!okS || t.tid < s.tid):
			if goesOn, err = droppedAt(ctx, c.source, c.sourceHorizon, t, identity{}); goesOn {
				found.last = t.tid
			}
		case okT:
			goesOn, err = droppedAt(ctx, c.target, c.targetHorizon, s, identity{})
		}
		if !goesOn || err != nil {
			break
		}
		moveT, moveS := okT && (!okS || t.tid <= s.tid), okS && s.tid <= t.tid
		if moveT {
			if t, okT, err = targets(); err != nil {
				break
			}
		}
		if moveS {
			s, okS, err = sources()
		}
	}
	if err != nil {
		return found, err
	}
	switch {
	case okT && (!okS || t.tid <= s.tid):
		found.first = t.tid
	case okS:
		found.first = s.tid
	}
	for ; okT && err == nil; t, okT, err = targets() {
		found.extra++
	}
	return found, err
}

// pull returns the identities of a log one by one.
func pull(ctx context.Context, s Storage, from, through TID) (next func() (identity, bool, error), stop func()) {
	type item struct {
		id  identity
		err error
	}
	seq := func(yield func(item) bool) {
		for txn, err := range s.Iterate(ctx, from, through) {
			i := item{err: err}
			if err == nil {
				i.id, i.err = identify(ctx, txn)
			}
			if !yield(i) || i.err != nil {
				return
			}
		}
	}
	pullItem, stop := iter.Pull(seq)
	return func() (identity, bool, error) {
		i, ok := pullItem()
		return i.id, ok && i.err == nil, i.err
	}, stop
}
