//go:build interop

package interop_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// nativeMirror is `zeoraid serve` over two files of its own, which is killed and started
// again at the same address.
type nativeMirror struct {
	dir, program string
	address      string
	starts       int
	raid         *raid
}

func newNativeMirror(ctx context.Context, t *testing.T) *nativeMirror {
	t.Helper()
	m := &nativeMirror{dir: t.TempDir(), program: build(ctx, t), address: freeAddress(t)}
	for _, name := range []string{"1", "2"} {
		if err := os.Mkdir(m.member(name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *nativeMirror) member(name string) string { return filepath.Join(m.dir, name) }

// start serves; each time with other encodings, and with conflicts resolved by clients
// or not.
func (m *nativeMirror) start(ctx context.Context, t *testing.T) {
	t.Helper()
	path := filepath.Join(m.dir, "zeoraid.conf")
	conf := fmt.Sprintf(`
		<zeo>
		  address %s
		  msgpack %t
		  client-conflict-resolution %t
		</zeo>
		<admin>
		  address 127.0.0.1:0
		</admin>
		<raidstorage 1>
		  state-dir %[4]s/state
		  <filestorage 1>
		    path %[4]s/1/Data.fs
		    blob-dir %[4]s/1/blobs
		  </filestorage>
		  <filestorage 2>
		    path %[4]s/2/Data.fs
		    blob-dir %[4]s/2/blobs
		  </filestorage>
		</raidstorage>
	`, m.address, m.starts%2 == 1, m.starts/2%2 == 1, m.dir)
	if err := os.WriteFile(path, []byte(conf), 0o666); err != nil {
		t.Fatal(err)
	}
	m.starts++
	m.raid = serveProgram(ctx, t, m.program, "-config", path)
}

// check looks at the files after the server has ended.
func (m *nativeMirror) check(ctx context.Context, t *testing.T) {
	t.Helper()
	first := read(t, filepath.Join(m.member("1"), "Data.fs"))
	if !bytes.Equal(first, read(t, filepath.Join(m.member("2"), "Data.fs"))) {
		t.Error("the two Data.fs differ in bytes")
	}
	for _, name := range []string{"1", "2"} {
		path := filepath.Join(m.member(name), "Data.fs")
		if out, err := exec.CommandContext(ctx, m.program, "fs", "check", path).CombinedOutput(); err != nil {
			t.Errorf("fs check %s: %v\n%s", path, err, out)
		}
	}
}

// TestClientsSurviveKills kills the server again and again while Python's clients
// commit, at random moments and between the vote and the finish of a transaction. No
// acknowledged commit is lost, no client ever finds the server behind its cache, and
// what is cached is right.
func TestClientsSurviveKills(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	m := newNativeMirror(ctx, t)
	m.start(ctx, t)
	f := newFamily(ctx, t, m.address, 4)
	f.startAll(ctx, t)
	const kills = 18
	for kill := range kills {
		if kill%4 == 3 {
			f.killBetweenVoteAndFinish(ctx, t, m.raid.process)
		} else {
			f.moment(ctx, t, 25)
			m.raid.kill(ctx, t)
		}
		m.start(ctx, t)
	}
	f.allCommit(ctx, t, 3)
	f.stop(ctx, t, f.clients...)
	f.status(ctx, t, m.raid, 0)
	f.compare(ctx, t, f.clients...)
	m.raid.stop(ctx, t)
	f.files(ctx, t, m.member("1"), m.member("2"))
	m.check(ctx, t)
}

// killBetweenVoteAndFinish kills a server when one client has voted and has not sent its
// finish.
func (f *family) killBetweenVoteAndFinish(ctx context.Context, t *testing.T, server *process) {
	t.Helper()
	c := f.clients[f.random.IntN(len(f.clients))]
	c.order(t, "pause")
	f.await(ctx, t, c.name+" has voted", func() bool { return c.voted })
	server.kill(ctx, t)
	c.voted = false
	c.order(t, "go")
}
