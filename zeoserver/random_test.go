package zeoserver_test

import (
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// randomValue is any value, more often one that some method takes.
func randomValue(random *rand.Rand, depth int) zeowire.Value {
	switch n := random.IntN(18); {
	case n < 3:
		return oid(random.Uint64N(4))
	case n == 3:
		return tid(raidstorage.TID(random.Uint64()))
	case n == 4:
		return tid([]raidstorage.TID{0, 1, raidstorage.MaxTID, 1<<64 - 1}[random.IntN(4)])
	case n < 8:
		return number([]int64{0, 1, -1, 2, -1 << 63, 1<<63 - 1, 100, 1 << 32}[random.IntN(8)])
	case n == 8:
		return zeowire.Float([]float64{0, -1, 1e300, -1e300, 1.7e9}[random.IntN(5)])
	case n == 9:
		return zeowire.Bool(random.IntN(2) == 0)
	case n < 12:
		return text([]string{"", " ", "p", "1", "\u00e4\u20ac", "AAAAAAAAAAE=", strings.Repeat("x", 300)}[random.IntN(7)])
	case n < 14:
		return data([]string{"", "x", "AAAAAAAAAAE=", "1234567", "123456789", strings.Repeat("y", 70000)}[random.IntN(6)])
	case n == 14 && depth > 0:
		return zeowire.Tuple(randomValue(random, depth-1), randomValue(random, depth-1))
	case n == 15 && depth > 0:
		return zeowire.List(randomValue(random, depth-1))
	case n == 16 && depth > 0:
		return zeowire.Dict(zeowire.Entry("user_name", randomValue(random, depth-1)))
	}
	return zeowire.None()
}

// someMethods are those that clients call, with how many arguments they take.
func someMethods() map[string]int {
	return map[string]int{
		"loadBefore": 2, "storea": 4, "tpc_begin": 6, "vote": 1, "tpc_finish": 1, "tpc_abort": 1,
		"checkCurrentSerialInTransaction": 3, "deleteObject": 3, "undoa": 2, "restorea": 5, "storeBlobStart": 0,
		"storeBlobChunk": 1, "storeBlobEnd": 4, "storeBlobShared": 5, "loadSerial": 2, "getTid": 1, "sendBlob": 2,
		"new_oids": 1, "new_oid": 0, "lastTransaction": 0, "getInvalidations": 1, "get_info": 0, "history": 2,
		"undoLog": 2, "undoInfo": 3, "record_iternext": 1, "iterator_start": 2, "iterator_next": 1,
		"iterator_record_start": 2, "iterator_record_next": 1, "iterator_gc": 1, "pack": 2, "server_status": 0,
		"set_client_label": 1, "ping": 0,
	}
}

// TestRandomCalls calls all methods with arguments of all types, and cuts connections
// at random: nothing panics, each call that wants an answer gets one, and in the end
// no transaction, lock, file or goroutine is left.
func TestRandomCalls(t *testing.T) {
	t.Parallel()
	const rounds, calls = 60, 60
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	srv := serve(t, zeoserver.Config{TempDir: dir, StageMemoryBytes: 1 << 10, ClientConflictResolution: true,
		InvalidationAge: time.Hour, TransactionTimeout: patience / 2})
	names := make([]string, 0, 40)
	methods := someMethods()
	for name := range methods {
		names = append(names, name)
	}
	slices.Sort(names)
	for round := range rounds {
		enc := []zeowire.Encoding{zeowire.Pickle, zeowire.Msgpack}[random.IntN(2)]
		c := srv.dial(t, enc)
		c.must("register", text("1"), zeowire.Bool(round%10 == 9))
		waiting := make(map[zeowire.ID]string)
		for range calls {
			name := names[random.IntN(len(names))]
			if random.IntN(3) == 0 {
				name = []string{"tpc_begin", "storea", "vote", "tpc_finish", "tpc_abort"}[random.IntN(5)]
			}
			var args []zeowire.Value
			for range methods[name] {
				args = append(args, randomValue(random, 2))
			}
			if name == "tpc_begin" && random.IntN(2) == 0 {
				args = []zeowire.Value{number(1), data("u"), data("d"), zeowire.Dict(), zeowire.None(), text(" ")}
			} else if name == "tpc_begin" {
				args[4] = zeowire.None() // a far tid would end all commits
			} else if name == "pack" {
				args[1] = zeowire.Bool(false) // it may wait for the client's own vote
			} else if len(args) > 0 && random.IntN(2) == 0 {
				args[len(args)-1] = number(1)
			}
			waiting[c.send(name, args...)] = name
		}
		last := c.send("ping")
		waiting[last] = "ping"
		if _, err := c.nc.Write(c.w.Bytes()); err != nil {
			t.Fatal(err)
		}
		c.w.Reset()
		if random.IntN(3) == 0 { // the client dies
			c.nc.Close()
			continue
		}
		for len(waiting) > 0 {
			m, err := c.receive()
			if err != nil {
				t.Fatalf("round %d: %v; without an answer: %v", round, err, waiting)
			}
			if m.IsReply() {
				delete(waiting, m.ID)
			}
		}
		c.nc.Close()
	}
	srv.until(t, "no connection and no transaction", func(st zeoserver.Status) bool {
		return st.Connections == 0 && st.ActiveTxns == 0 && st.Waiting == 0 && st.LockedSince.IsZero()
	})
	c := srv.connect(t)
	c.commit(write{1 << 30, 0, "still alive"})
	if strings.Contains(srv.log.String(), "bug:") {
		t.Error(srv.log)
	}
	srv.Close()
	if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
		t.Errorf("left behind: %v %v", files, err)
	}
}
