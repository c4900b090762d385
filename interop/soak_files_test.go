//go:build interop

package interop_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// end compares everything, when writers and readers have ended and all members are in
// sync.
func (s *soak) end() {
	t, f := s.t, s.family
	s.check()
	f.allCommit(s.ctx, t, 3) // nobody is stopped before knowing what became of its last commit
	f.stop(s.ctx, t, f.clients...)
	f.compare(s.ctx, t, f.clients...)
	s.await("the log is read to its end", func() bool {
		err := s.followOnce() // a pack that is made again may cut it off
		if err != nil {
			s.record.note("log", "%v", err)
		}
		return err == nil
	})
	s.verb([]int{0}, "verify", "-blobs", "-quiet")
	s.awaitInSync(members...)
	s.terminateServe()
	s.runzeo.stop(s.ctx, t)
	var accounts []*familyAccount
	for _, c := range f.clients {
		accounts = append(accounts, c.account)
		f.end(s.ctx, t, c)
	}
	s.checkStandstills()
	s.check()
	s.checkFiles()
	s.checkKinds()
	text, err := json.Marshal(accounts)
	path := filepath.Join(f.dir, "accounts.json")
	if err == nil {
		err = os.WriteFile(path, text, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Log(strings.TrimSpace(pythonOutput(s.ctx, t, "soak.py", "files", path, s.member("1"), s.member("2"), s.runzeo.dir)))
}

// checkKinds sees that a run that is long enough had each kind of fault.
func (s *soak) checkKinds() {
	if s.length < soakAll {
		return
	}
	for _, a := range soakActions() {
		if s.faults[a.kind] == 0 {
			s.fault("there was no fault of kind %q", a.kind)
		}
	}
	for _, kind := range []string{"group", "child", "blob", "undo"} {
		if s.record.counts["commits of kind "+kind] == 0 {
			s.fault("there was no commit of kind %s", kind)
		}
	}
}

// checkFiles compares the members' files with the ledger and with each other.
func (s *soak) checkFiles() {
	logs := make(map[string]*soakLog)
	for _, name := range members {
		dir := s.member(name)
		if name == "z" {
			dir = s.runzeo.dir
		}
		logs[name] = s.readFile(name, dir)
		logs[name].check(s)
	}
	for _, name := range members[1:] {
		s.compareLogs(logs["1"], logs[name])
	}
}

// soakLog is what a member's file holds.
type soakLog struct {
	name    string
	horizon raidstorage.TID                 // the last packed one
	all     map[raidstorage.TID]soakDigests // of everybody
	ours    map[raidstorage.TID]*logged
	last    map[raidstorage.OID]soakVersion // what is read now of the objects that must be there
}

// soakDigests are a transaction's metadata, and its records' digests.
type soakDigests struct {
	meta    string
	records soakContent
}

func (s *soak) readFile(name, dir string) *soakLog {
	s.t.Helper()
	l := &soakLog{name: name, all: make(map[raidstorage.TID]soakDigests), ours: make(map[raidstorage.TID]*logged), last: make(map[raidstorage.OID]soakVersion)}
	file, err := filestorage.Open(s.ctx, filepath.Join(dir, "Data.fs"), filestorage.Options{ReadOnly: true, BlobDir: filepath.Join(dir, "blobs")})
	if err != nil {
		s.t.Fatal(err)
	}
	defer file.Close()
	for txn, err := range file.Iterate(s.ctx, 0, raidstorage.MaxTID) {
		if err != nil {
			s.t.Fatal(err)
		}
		if txn.Status == raidstorage.StatusPacked {
			l.horizon = txn.TID
		}
		d := soakDigests{meta: fmt.Sprintf("%q %q", txn.User, txn.Description), records: make(soakContent)}
		for rec, err := range txn.Records {
			if err == nil {
				d.records[rec.OID], err = soakDigest(rec.Data, nil)
			}
			if err != nil {
				s.t.Fatal(err)
			}
		}
		l.all[txn.TID] = d
		g, err := readLogged(s.ctx, txn)
		if err != nil {
			s.t.Fatalf("%s: %q: %v", name, txn.Description, err)
		}
		if g != nil {
			l.ours[g.tid] = g
		}
	}
	want, _ := s.ledger.final()
	for oid, v := range want {
		rev, err := file.LoadBefore(s.ctx, oid, raidstorage.MaxTID)
		if err != nil {
			s.fault("%s: object %v, written last by %v: %v", name, oid, v.tid, err)
			continue
		}
		blob, err := file.OpenBlob(s.ctx, oid, rev.Serial)
		if is[*raidstorage.NotFoundError](err) {
			blob, err = nil, nil
		}
		if err != nil {
			s.t.Fatal(err)
		}
		got := soakVersion{tid: rev.Serial}
		if blob == nil {
			got.digest, err = soakDigest(rev.Data, nil)
		} else {
			got.digest, err = digestAndClose(rev.Data, blob)
		}
		if err != nil {
			s.t.Fatal(err)
		}
		l.last[oid] = got
	}
	return l
}

// check compares the log with the ledger.
func (l *soakLog) check(s *soak) {
	want, txns := s.ledger.final()
	for oid, v := range want {
		if got := l.last[oid]; got != v {
			s.fault("%s: object %v is %v, and was written last as %v", l.name, oid, got, v)
		}
	}
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	for _, t := range txns {
		switch g := l.ours[t.tid]; {
		case g == nil:
			s.ledger.missingLocked(l.name, t, nil, l.horizon)
		case g.name != t.name:
			s.fault("%s: %v is %s, and was given to %s", l.name, t.tid, g.name, t.name)
		default:
			s.ledger.sameLocked(l.name, t, g, l.horizon)
		}
	}
	for tid, g := range l.ours {
		if t := s.ledger.byTID[tid]; t == nil && tid > s.ledger.through {
			s.fault("%s: %s is there as %v, and nobody has committed it", l.name, g.name, tid)
		}
	}
}

// compareLogs compares two members: from the later pack time on they are the same, and
// what both have before it is.
func (s *soak) compareLogs(a, b *soakLog) {
	horizon := max(a.horizon, b.horizon)
	for _, pair := range [][2]*soakLog{{a, b}, {b, a}} {
		for tid, one := range pair[0].all {
			other, ok := pair[1].all[tid]
			if !ok {
				if tid > horizon {
					s.fault("%s has %v (%s), and %s does not", pair[0].name, tid, one.meta, pair[1].name)
				}
				continue
			}
			if one.meta != other.meta || tid > horizon && len(one.records) != len(other.records) {
				s.fault("%s has %v as %s with %d records, %s as %s with %d", pair[0].name, tid, one.meta, len(one.records), pair[1].name, other.meta, len(other.records))
			}
			for oid, digest := range one.records {
				if d, ok := other.records[oid]; ok && d != digest {
					s.fault("%s and %s differ in %v of %v", pair[0].name, pair[1].name, oid, tid)
				}
			}
		}
	}
	later := 0
	for tid := range a.all {
		if tid > horizon {
			later++
		}
	}
	s.t.Logf("members %s and %s: %d and %d transactions, %d of them after the pack time %v", a.name, b.name, len(a.all), len(b.all), later, horizon)
}
