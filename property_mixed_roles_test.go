package raidstorage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/zeoraid/raidstorage"
)

// Roles: asynchronous members and spares, that change them and are read from. What must
// hold of them at any time:
//
//	only full members are in the record's set of those in sync
//	an asynchronous one holds a beginning of the log, as clients have seen it, and shows
//	    that and nothing else to who asks for stale reads
//	who is promoted is full in the record, who is demoted is not in sync any more, and a
//	    restart changes no role
//	in the end, when nothing is wrong, the full ones are in sync, the asynchronous ones
//	    have everything, and the spares stand by

// giveRoles makes some of the disks asynchronous or spares; at least one is full.
func (r *mixedRun) giveRoles(rng *rand.Rand) {
	for i, d := range r.disks[1:] {
		switch rng.IntN(10 - 4*min(i, 1)) { // the second one is full more often
		case 0, 1:
			d.role = raidstorage.RoleAsync
		case 2, 3:
			d.role = raidstorage.RoleSpare
		}
	}
	if d := r.spares[0]; rng.IntN(3) == 0 {
		d.role = raidstorage.RoleAsync
	}
}

// configured returns how many of the disks are configured as full.
func configuredFull(disks []*mixedDisk) (n int) {
	for _, d := range disks {
		if d.role == raidstorage.RoleFull {
			n++
		}
	}
	return n
}

// roleOf returns the role that the record has for a member.
func (r *mixedRun) roleOf(name string) raidstorage.Role { return r.reg.record().Roles[name].Actual }

// ofRole picks a disk that the record has in that role, or not in it.
func (r *mixedRun) ofRole(rng *rand.Rand, role raidstorage.Role, is bool) *mixedDisk {
	fit := slices.DeleteFunc(slices.Clone(r.disks), func(d *mixedDisk) bool { return (r.roleOf(d.name) == role) != is })
	if len(fit) == 0 {
		return nil
	}
	return fit[rng.IntN(len(fit))]
}

// well tells whether a backend is as it is when nothing is wrong.
func well(b raidstorage.BackendStatus) bool {
	switch b.Role {
	case raidstorage.RoleAsync:
		return b.State == raidstorage.StateFollowing
	case raidstorage.RoleSpare:
		return b.State == raidstorage.StateStandby
	}
	return b.State == raidstorage.StateInSync
}

func (r *mixedRun) promote(rng *rand.Rand) {
	if r.m == nil {
		return
	}
	m, d := r.m, r.ofRole(rng, raidstorage.RoleFull, false)
	if d == nil {
		return
	}
	r.note("promote %s", d.name)
	r.beside(rng, func() {
		ctx, cancel := r.bounded()
		defer cancel()
		err := m.Promote(ctx, d.name)
		record := r.reg.record()
		r.note("      promote %s: %v", d.name, propShort(err))
		if err == nil && slices.Contains(record.InSync, d.name) && record.Roles[d.name].Actual != raidstorage.RoleFull {
			r.failf("%s was promoted, and the record has it as %v", d.name, record.Roles[d.name].Actual)
		}
	})
}

func (r *mixedRun) demote(rng *rand.Rand) {
	if r.m == nil {
		return
	}
	d := r.ofRole(rng, raidstorage.RoleFull, true)
	ctx, cancel := r.bounded()
	defer cancel()
	err := r.m.Demote(ctx, d.name)
	r.note("demote %s: %v", d.name, propShort(err))
	if err != nil || r.gen.killed() {
		return
	}
	record, quorum := r.reg.record(), r.m.Settings().WriteQuorum
	full := len(r.disks) - slicesCount(r.disks, func(d *mixedDisk) bool { return !fullIn(record, d.name) })
	if slices.Contains(record.InSync, d.name) && !fullIn(record, d.name) || full < quorum {
		r.failf("after %s was demoted %v are in sync, and %d full, of which %d are needed", d.name, record.InSync, full, quorum)
	}
}

func slicesCount[T any](s []T, is func(T) bool) (n int) {
	for _, v := range s {
		if is(v) {
			n++
		}
	}
	return n
}

func fullIn(record raidstorage.Membership, name string) bool {
	return record.Roles[name].Actual == raidstorage.RoleFull
}

// replaceBySpare takes a full disk away until a spare has its place, if one comes in.
func (r *mixedRun) replaceBySpare(rng *rand.Rand) {
	record := r.reg.record()
	d := r.ofRole(rng, raidstorage.RoleFull, true)
	if r.m == nil || r.cfg.AutoRecover == raidstorage.AutoRecoverOff || len(record.InSync) < 2 || r.ofRole(rng, raidstorage.RoleSpare, true) == nil {
		return
	}
	r.note("%v dies, and a spare may come in", d)
	d.die()
	r.touch()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for events := r.m.Watch(ctx); r.roleOf(d.name) == raidstorage.RoleFull; {
		if _, ok := <-events; !ok {
			return
		}
	}
	r.note("      %s is %v now", d.name, r.roleOf(d.name))
}

// readStale reads what an asynchronous member holds.
func (r *mixedRun) readStale(rng *rand.Rand) {
	if r.m == nil || len(r.model.oids) == 0 || !r.settle() || r.failed() {
		return
	}
	d := r.ofRole(rng, raidstorage.RoleAsync, true)
	if d == nil {
		return
	}
	ctx, cancel := r.bounded()
	defer cancel()
	s, err := r.m.Stale(d.name)
	if err != nil {
		r.failf("Stale: %w", err)
		return
	}
	last, err := r.staleLog(ctx, s)
	r.note("stale log of %s, up to %s: %v", d.name, shortTID(last), propShort(err))
	if err == nil {
		err = r.staleLoad(ctx, s, last, r.model.oids[rng.IntN(len(r.model.oids))])
	}
	if wrong, ok := errors.AsType[*wrongError](err); ok {
		r.failf("%s: %w", d.name, wrong)
	}
}

// staleLog compares a beginning of the log.
func (r *mixedRun) staleLog(ctx context.Context, s raidstorage.Storage) (last raidstorage.TID, err error) {
	if last, err = s.LastTID(ctx); err != nil {
		return last, err
	}
	if last > r.model.last() {
		return last, wrongf("it is at %v, and the mirror at %v", last, r.model.last())
	}
	log, err := propLogRange(ctx, s, 1, last)
	if err != nil {
		return last, err
	}
	return last, r.rightLogThrough(log, last)
}

func (r *mixedRun) staleLoad(ctx context.Context, s raidstorage.Storage, last raidstorage.TID, oid raidstorage.OID) error {
	got, err := s.LoadBefore(ctx, oid, last+1)
	if err != nil && raidstorage.Classify(err) != raidstorage.ClassAnswer {
		return err
	}
	want, wantErr := r.model.load(oid, last+1, last)
	horizon := r.horizon()
	rev, _ := r.model.at(oid, last+1, last)
	_, next := r.model.at(oid, last+1, r.model.last())
	switch {
	case err != nil && (wantErr != nil || mayBeGone(rev, next, horizon, r.reach(horizon))):
	case err != nil:
		return wrongf("object %v is not there: %v", oid, err)
	case mayBeGone(rev, next, horizon, r.reach(horizon)): // an older one may be left
	case wantErr != nil || got.Serial != want.Serial || !bytes.Equal(got.Data, want.Data):
		return wrongf("object %v is %q %v instead of %q %v, %v", oid, got.Data, got.Serial, want.Data, want.Serial, wantErr)
	}
	return nil
}

// lookAtRoles checks what holds of roles at any time; last is what is visible.
func (r *mixedRun) lookAtRoles() {
	record := r.reg.record()
	for _, n := range record.InSync {
		if !fullIn(record, n) {
			r.failf("%s is %v, and in sync by the record", n, record.Roles[n].Actual)
		}
	}
	s := r.m.Status()
	last, err := r.m.LastTID(context.Background())
	if err != nil {
		r.failf("LastTID: %w", err)
	}
	for _, b := range s.Backends {
		if b.Role == raidstorage.RoleAsync && b.State == raidstorage.StateFollowing && b.LastTID > last {
			r.failf("%s follows, and is at %v, before the mirror, at %v", b.Name, b.LastTID, last)
		}
		if b.Role != raidstorage.RoleFull && b.State == raidstorage.StateInSync {
			r.failf("%s is %v, and in sync", b.Name, b.Role)
		}
	}
	if s.Scrub == nil || s.Scrub.Last == nil {
		return
	}
	for _, f := range s.Scrub.Last.Listed {
		if f.Kind != raidstorage.FindingUnreadable {
			r.failf("the verification in the background found %v", f)
		}
	}
}

// keptRoles checks, at a start, that the roles are those of the record before. A spare may
// be quicker than the test, and change two of them first.
func (r *mixedRun) keptRoles(before raidstorage.Membership) {
	for _, b := range r.m.Status().Backends {
		known, ok := before.Roles[b.Name]
		if _, swapped := r.gen.swapped.Load(b.Name); swapped {
			continue
		}
		if ok && known.Configured == b.Configured && known.Actual != b.Role {
			r.failf("%s was %v, and is %v after a start", b.Name, known.Actual, b.Role)
		}
	}
}

// awaitFollowers waits until those that follow have everything. One that someone else has
// written to is refused then, at the latest, and one that a pack of the others has left
// behind: they are replaced.
func (r *mixedRun) awaitFollowers() bool {
	ctx, cancel := r.bounded()
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		last, _ := r.m.LastTID(ctx)
		behind := slices.DeleteFunc(r.m.Status().Backends, func(b raidstorage.BackendStatus) bool {
			return b.Role != raidstorage.RoleAsync || well(b) && b.LastTID == last && b.LagTransactions == 0 && b.LagBytes == 0 && b.Lag == 0
		})
		if len(behind) == 0 {
			return true
		}
		for _, b := range behind {
			i := slices.IndexFunc(r.disks, func(d *mixedDisk) bool { return d.name == b.Name })
			if b.State == raidstorage.StateFailed && strings.Contains(b.Reason, "has diverged") &&
				(r.disks[i].written || strings.Contains(b.Reason, "a pack of the others has left nothing")) {
				r.bringBack(b.Name)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false
		}
	}
}

// settledRoles checks, when nothing is wrong and all are back, that each is what its role
// says, and returns the disks of those that must hold everything.
func (r *mixedRun) settledRoles() (whole []*mixedDisk) {
	if !r.awaitFollowers() {
		r.stuck("who follows does not catch up although nothing is wrong: %+v", r.m.Status())
		return nil
	}
	record := r.reg.record()
	for _, d := range r.disks {
		switch role := record.Roles[d.name].Actual; {
		case role == raidstorage.RoleFull && !slices.Contains(record.InSync, d.name):
			r.failf("only %v are in the record after all was recovered, %s is full", record.InSync, d.name)
		case role != raidstorage.RoleSpare: // what a spare holds does not count
			whole = append(whole, d)
		}
	}
	if len(whole) == 0 || len(record.InSync) == 0 {
		r.failf("nobody is full: %+v", record)
	}
	return whole
}

// rightWhole compares one disk, which must hold everything. One that follows, and that
// the record says is not packed yet, may have what was dropped elsewhere.
func (r *mixedRun) rightWhole(ctx context.Context, d *mixedDisk) error {
	record := r.reg.record()
	r.unpacked = !fullIn(record, d.name) && slices.Contains(record.Unpacked, d.name)
	defer func() { r.unpacked = false }()
	if err := r.rightDisk(ctx, d); err != nil {
		return fmt.Errorf("%v: %w", record.Roles[d.name].Actual, err)
	}
	return nil
}
