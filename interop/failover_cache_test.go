//go:build interop

package interop_test

import (
	"context"
	"os"
	"testing"
	"time"
)

// TestStoppedClientsComeBack stops clients with persistent caches while others go on.
// Within the server's queue their caches are brought up to date, beyond it they are
// dropped; so it is when the server was started again in between, also with one member
// away. What they read is right each time.
func TestStoppedClientsComeBack(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	m := newNativeMirror(ctx, t)
	m.start(ctx, t)
	f := newFamily(ctx, t, m.address, 3)
	f.startAll(ctx, t)
	away, busy := f.clients[:2], f.clients[2:]
	const queue = 100 // transactions: the default

	// rest takes clients away for so many transactions of the other one.
	rest := func(commits int) {
		t.Helper()
		f.stop(ctx, t, f.clients...)
		f.compare(ctx, t, f.clients...) // which also fills the caches
		for _, c := range f.clients {
			f.end(ctx, t, c)
		}
		f.think = 0
		f.start(ctx, t, busy[0])
		f.moreCommits(ctx, t, commits)
		f.stop(ctx, t, busy[0])
		f.end(ctx, t, busy[0])
	}
	// back starts all again and says how their caches were verified.
	back := func(want string) {
		t.Helper()
		f.think = 150 * time.Millisecond // the first to connect must not fill the queue alone
		f.startAll(ctx, t)
		f.stop(ctx, t, f.clients...)
		f.compare(ctx, t, f.clients...)
		f.noFailures(t)
		for _, c := range away {
			if got := c.account.Verified[len(c.account.Verified)-1]; got != want {
				t.Errorf("%s: %q, want %q", c.name, got, want)
			}
		}
		for _, c := range f.clients {
			f.end(ctx, t, c)
			f.start(ctx, t, c)
		}
	}
	rest(queue / 4)
	back("quick verification")
	rest(queue + queue/2)
	back("cache too old, clearing")

	// After a start the queue is filled again from the log.
	rest(queue / 4)
	m.raid.kill(ctx, t)
	m.start(ctx, t)
	back("quick verification")

	// The server starts without a member: the record says that both have all.
	rest(queue / 4)
	m.raid.kill(ctx, t)
	aside := m.member("1") + "-aside"
	if err := os.Rename(m.member("1"), aside); err != nil {
		t.Fatal(err)
	}
	m.start(ctx, t)
	back("quick verification")
	f.status(ctx, t, m.raid, 2)
	if err := os.Rename(aside, m.member("1")); err != nil {
		t.Fatal(err)
	}
	m.raid.run(ctx, t, "recover", "1", "-wait") // or it has come back by itself already
	f.status(ctx, t, m.raid, 0)
	f.allCommit(ctx, t, 3)
	f.stop(ctx, t, f.clients...)
	f.compare(ctx, t, f.clients...)
	f.noFailures(t)
	m.raid.stop(ctx, t)
	f.files(ctx, t, m.member("1"), m.member("2"))
	m.check(ctx, t)
}
