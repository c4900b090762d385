package loadgen_test

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/loadgen"
	"github.com/zeoraid/raidstorage/internal/zeowire"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/zeoserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves a storage in memory on a listener, as "1".
func serve(t *testing.T, network, address string) (*zeoserver.Server, *memstorage.Storage, string) {
	t.Helper()
	s := memstorage.New("1")
	server, err := zeoserver.New(zeoserver.Config{Storages: map[string]raidstorage.Storage{"1": s}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Close(), <-served, s.Close()); err != nil {
			t.Error(err)
		}
	})
	return server, s, l.Addr().String()
}

// What is counted is what the server has done.
func TestTheServerHasDoneWhatIsCounted(t *testing.T) {
	t.Parallel()
	for _, encoding := range []zeowire.Encoding{0, zeowire.Pickle, zeowire.Msgpack} {
		server, s, address := serve(t, "tcp", "127.0.0.1:0")
		target := loadgen.Target{Address: address, Storage: "1", Encoding: encoding}
		objects, err := loadgen.Populate(t.Context(), target, 250, 200)
		if err != nil {
			t.Fatal(err)
		}
		if n, _, err := s.Size(t.Context()); err != nil || n != 250 {
			t.Errorf("there are %d objects (%v), want 250", n, err)
		}
		for _, work := range []loadgen.Work{
			{Connections: 1, InFlight: 1}, {Connections: 3, InFlight: 8}, {Connections: 2, InFlight: 1, Writes: 3, RecordBytes: 50},
		} {
			work.Duration = 20 * time.Millisecond
			before := server.Status()["1"]
			r, err := loadgen.Run(t.Context(), target, objects, work)
			if err != nil {
				t.Fatal(err)
			}
			after := server.Status()["1"]
			done := after.Loads - before.Loads
			if work.Writes > 0 {
				done = after.Commits - before.Commits
			}
			if r.Operations != done || done == 0 || r.Elapsed < work.Duration || r.P50 <= 0 || r.P99 < r.P50 || r.PerSecond() <= 0 {
				t.Errorf("%+v: %+v, the server has done %d", work, r, done)
			}
		}
	}
}

// One operation is made even if the time is over before it begins.
func TestNoTimeAtAll(t *testing.T) {
	t.Parallel()
	_, _, address := serve(t, "tcp", "127.0.0.1:0")
	target := loadgen.Target{Address: address, Storage: "1"}
	objects, err := loadgen.Populate(t.Context(), target, 1, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, writes := range []int{0, 1} {
		r, err := loadgen.Run(t.Context(), target, objects, loadgen.Work{Connections: 1, InFlight: 1, Writes: writes, Duration: time.Nanosecond})
		if err != nil || r.Operations != 1 {
			t.Errorf("%d writes: %+v, %v", writes, r, err)
		}
	}
}

func TestUnixSockets(t *testing.T) {
	t.Parallel()
	_, _, address := serve(t, "unix", filepath.Join(t.TempDir(), "zeo"))
	if _, err := loadgen.Populate(t.Context(), loadgen.Target{Address: address, Storage: "1"}, 1, 10); err != nil {
		t.Error(err)
	}
}

func TestWhatCannotBeMeasured(t *testing.T) {
	t.Parallel()
	_, _, address := serve(t, "tcp", "127.0.0.1:0")
	target := loadgen.Target{Address: address, Storage: "1"}
	good := loadgen.Work{Connections: 1, InFlight: 1, Duration: time.Millisecond}
	for name, bad := range map[string]loadgen.Work{
		"no connections": {InFlight: 1, Duration: time.Millisecond}, "nothing in flight": {Connections: 1, Duration: time.Millisecond},
		"no time": {Connections: 1, InFlight: 1}, "no objects": good,
	} {
		var invalid *raidstorage.InvalidError
		if _, err := loadgen.Run(t.Context(), target, nil, bad); !errors.As(err, &invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	target.Storage = "2"
	var refused *zeowire.Exception
	if _, err := loadgen.Populate(t.Context(), target, 1, 1); !errors.As(err, &refused) {
		t.Errorf("an unknown storage: %v", err)
	}
}
