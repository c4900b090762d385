package storagetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
)

// Fixture says how to make the storages under test and what they can do. Its
// functions fail the test that they are given when something goes wrong; they are
// called from many tests at the same time.
type Fixture struct {
	// Open opens a new, empty, writable storage. The suite closes it.
	Open func(t testing.TB) raidstorage.Storage

	// Reopen closes s and opens the same data again. nil if nothing outlives Close.
	Reopen func(t testing.TB, s raidstorage.Storage) raidstorage.Storage

	// Second opens another handle on the data of s, which stays open. Required if
	// Notifier is among the capabilities.
	Second func(t testing.TB, s raidstorage.Storage) raidstorage.Storage

	// ReadOnly closes s and opens the same data read-only. nil if the storage has
	// no such mode.
	ReadOnly func(t testing.TB, s raidstorage.Storage) raidstorage.Storage

	// Capabilities is the set of optional interfaces that the storage has.
	Capabilities Capability

	// Timeout is how long a case waits for what must happen before it fails. 0
	// means one minute.
	Timeout time.Duration
}

// validate tells what is wrong with the fixture itself, all at once.
func (f Fixture) validate() error {
	var errs []error
	if f.Open == nil {
		errs = append(errs, &raidstorage.InvalidError{Op: "fixture", Reason: "Open is nil"})
	}
	if f.Capabilities.Has(Notifier) && f.Second == nil {
		errs = append(errs, &raidstorage.InvalidError{Op: "fixture", Reason: "Notifier needs Second"})
	}
	if unknown := f.Capabilities &^ All; unknown != 0 {
		errs = append(errs, &raidstorage.InvalidError{Op: "fixture", Reason: "unknown capabilities"})
	}
	return errors.Join(errs...)
}

// Case is one rule of the contract and the test that proves it.
type Case struct {
	Subject string // the part of the contract: "read", "commit", "undo", ...
	Name    string // the rule, a sentence
	// Run opens storages with the fixture that the case came from and tests them.
	Run func(t testing.TB)
}

// Run tests the storages of a fixture against the whole contract, each case in a
// parallel subtest that is named Subject/Name.
func Run(t *testing.T, f Fixture) {
	t.Helper()
	if err := f.validate(); err != nil {
		t.Fatal(err)
	}
	bySubject := map[string][]Case{}
	var subjects []string
	for _, c := range f.Cases() {
		if len(bySubject[c.Subject]) == 0 {
			subjects = append(subjects, c.Subject)
		}
		bySubject[c.Subject] = append(bySubject[c.Subject], c)
	}
	for _, subject := range subjects {
		t.Run(subject, func(t *testing.T) {
			t.Parallel()
			for _, c := range bySubject[subject] {
				t.Run(c.Name, func(t *testing.T) {
					t.Parallel()
					c.Run(t)
				})
			}
		})
	}
}

// Cases returns the cases that apply to the fixture's storages, for callers that
// run them in another way than Run, for instance to see a broken storage fail.
func (f Fixture) Cases() []Case {
	var cases []Case
	for _, r := range rules() {
		if !r.applies(f) {
			continue
		}
		cases = append(cases, Case{Subject: r.subject, Name: r.name, Run: func(t testing.TB) {
			t.Helper()
			r.run(newEnv(t, f))
		}})
	}
	return cases
}

// needs is what a fixture must offer for a rule to make sense.
type needs struct {
	has      Capability // all of these capabilities
	lacks    Capability // none of these
	reopen   bool
	readOnly bool
}

// rule is a Case before it knows its fixture.
type rule struct {
	subject string
	name    string
	needs   needs
	run     func(e *env)
}

func (r rule) applies(f Fixture) bool {
	switch {
	case f.Capabilities&r.needs.has != r.needs.has, f.Capabilities&r.needs.lacks != 0:
		return false
	case r.needs.reopen && f.Reopen == nil, r.needs.readOnly && f.ReadOnly == nil:
		return false
	}
	return true
}

// rules returns all rules, subject by subject.
func rules() []rule {
	var all []rule
	for _, subject := range [][]rule{
		capabilityRules(), readRules(), oidRules(), conflictRules(), commitRules(), stateRules(), lockRules(),
		tidRules(), metaRules(), iterateRules(), restoreRules(), undoRules(), undoLogRules(), historyRules(),
		blobRules(), recordRules(), truncateRules(), notifyRules(), packRules(), garbageRules(), decidedRules(), keptRules(), stagedRules(), estimateRules(),
		concurrentRules(), contextRules(), closeRules(), reopenRules(),
	} {
		all = append(all, subject...)
	}
	return all
}

// subject gives each rule its subject and the needs that all of them share.
func subject(name string, shared needs, rules ...rule) []rule {
	for i := range rules {
		rules[i].subject = name
		rules[i].needs.has |= shared.has
		rules[i].needs.lacks |= shared.lacks
		rules[i].needs.reopen = rules[i].needs.reopen || shared.reopen
		rules[i].needs.readOnly = rules[i].needs.readOnly || shared.readOnly
	}
	return rules
}

const defaultTimeout = time.Minute

func newEnv(t testing.TB, f Fixture) *env {
	t.Helper()
	if err := f.validate(); err != nil {
		t.Fatal(err)
	}
	timeout := f.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	e := &env{TB: t, f: f, timeout: timeout, ctx: ctx}
	e.s = e.open()
	return e
}
