package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// check judges: the mirror is closed, and the files are opened one by one, as any
// other program would.
func (d *demo) check(ctx context.Context) error {
	var paths []string
	for _, disk := range d.disks {
		paths = append(paths, disk.path())
	}
	if d.beforeCheck != nil {
		d.beforeCheck(paths)
	}
	d.screen.say("")
	for i, other := range paths[1:] {
		n, err := compare(ctx, paths[0], other, false)
		if err != nil {
			return err
		}
		d.screen.say("%s and %s hold the same %d transactions, with the same records.", d.disks[0].name, d.disks[i+1].name, n)
	}
	if d.db != "" {
		n, err := compare(ctx, d.db, paths[0], true)
		if err != nil {
			return err
		}
		d.screen.say("The %d transactions of %s are all there.", n, d.db)
	}
	acked, unknown, conflicts := d.clients.results()
	if err := checkCounters(ctx, paths[0], acked, unknown); err != nil {
		return err
	}
	d.screen.say("All %d acknowledged commits are there (%d conflicts were tried again), and the counters add up.",
		len(acked), conflicts)
	return nil
}

// DifferenceError says where two files part.
type DifferenceError struct {
	A, B string
	TID  raidstorage.TID
	What string
}

func (e *DifferenceError) Error() string {
	return fmt.Sprintf("%s and %s differ in transaction %v: %s", e.A, e.B, e.TID, e.What)
}

// compare compares two files transaction by transaction, and returns how many of a
// are in b. With prefix b may go on where a ends.
func compare(ctx context.Context, a, b string, prefix bool) (n int, err error) {
	open := func(path string) (*filestorage.Storage, error) {
		return filestorage.Open(ctx, path, filestorage.Options{ReadOnly: true})
	}
	one, err := open(a)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, one.Close()) }()
	two, err := open(b)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, two.Close()) }()
	nextOne, stopOne := iter.Pull2(one.Iterate(ctx, 0, raidstorage.MaxTID))
	defer stopOne()
	nextTwo, stopTwo := iter.Pull2(two.Iterate(ctx, 0, raidstorage.MaxTID))
	defer stopTwo()
	for ; ; n++ {
		x, errX, okX := nextOne()
		y, errY, okY := nextTwo()
		if err := errors.Join(errX, errY); err != nil {
			return n, err
		}
		switch {
		case !okX && (!okY || prefix):
			return n, nil
		case !okX:
			return n, &DifferenceError{a, b, y.TID, "only the second one has it"}
		case !okY:
			return n, &DifferenceError{a, b, x.TID, "only the first one has it"}
		}
		what, err := difference(x, y)
		if err != nil {
			return n, err
		}
		if what != "" {
			return n, &DifferenceError{a, b, x.TID, what}
		}
	}
}

// difference says how two transactions differ, nothing if they do not.
func difference(x, y *raidstorage.Transaction) (string, error) {
	switch {
	case x.TID != y.TID:
		return fmt.Sprintf("the other one has %v there", y.TID), nil
	case x.Status != y.Status:
		return "status", nil
	case !bytes.Equal(x.User, y.User), !bytes.Equal(x.Description, y.Description), !bytes.Equal(x.Extension, y.Extension):
		return "metadata", nil
	}
	nextX, stopX := iter.Pull2(x.Records)
	defer stopX()
	nextY, stopY := iter.Pull2(y.Records)
	defer stopY()
	for {
		r, errX, okX := nextX()
		s, errY, okY := nextY()
		if err := errors.Join(errX, errY); err != nil {
			return "", err
		}
		switch {
		case !okX && !okY:
			return "", nil
		case okX != okY:
			return "the number of records", nil
		case r.OID != s.OID, r.TID != s.TID, (r.Data == nil) != (s.Data == nil), !bytes.Equal(r.Data, s.Data):
			return fmt.Sprintf("the record of object %v", r.OID), nil
		}
	}
}

// LostError names the acknowledged transactions that are not there.
type LostError struct {
	TIDs []raidstorage.TID // ascending
}

func (e *LostError) Error() string {
	return fmt.Sprintf("%d acknowledged transactions are lost, the first one is %v", len(e.TIDs), e.TIDs[0])
}

// checkCounters looks for every acknowledged commit in a file, and compares the
// counters' final values with the number of commits.
func checkCounters(ctx context.Context, path string, acked map[raidstorage.TID]step, unknown map[raidstorage.OID]int) (err error) {
	s, err := filestorage.Open(ctx, path, filestorage.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	missing := maps.Clone(acked)
	for txn, err := range s.Iterate(ctx, 0, raidstorage.MaxTID) {
		if err != nil {
			return err
		}
		want, ok := missing[txn.TID]
		if !ok {
			continue // loaded, or of unknown outcome
		}
		if err := checkStep(txn, want); err != nil {
			return err
		}
		delete(missing, txn.TID)
	}
	if len(missing) > 0 {
		return &LostError{TIDs: slices.Sorted(maps.Keys(missing))}
	}
	commits := make(map[raidstorage.OID]int)
	for _, step := range acked {
		commits[step.counter]++
	}
	for counter, n := range commits {
		rev, err := s.LoadBefore(ctx, counter, raidstorage.MaxTID)
		if err != nil {
			return err
		}
		value, err := decode(rev.Data)
		if err != nil {
			return err
		}
		if got := int(value); got < n || got > n+unknown[counter] {
			return fmt.Errorf("counter %v is %d after %d acknowledged commits and %d of unknown outcome", counter, got, n, unknown[counter])
		}
	}
	return nil
}

// checkStep looks whether a transaction is the commit that was acknowledged.
func checkStep(txn *raidstorage.Transaction, want step) error {
	for rec, err := range txn.Records {
		if err != nil {
			return err
		}
		if value, err := decode(rec.Data); rec.OID == want.counter && err == nil && value == want.value {
			return nil
		}
	}
	return fmt.Errorf("transaction %v was acknowledged with counter %v at %d, which it does not contain", txn.TID, want.counter, want.value)
}
