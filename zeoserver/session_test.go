package zeoserver_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/zeoserver"
)

func TestBothEncodingsWhateverIsAnnounced(t *testing.T) {
	t.Parallel()
	for _, msgpack := range []bool{false, true} {
		srv := serve(t, zeoserver.Config{Msgpack: msgpack})
		var last raidstorage.TID
		for i, enc := range []zeowire.Encoding{zeowire.Pickle, zeowire.Msgpack} {
			c := srv.dial(t, enc)
			if v := c.must("register", text("1"), zeowire.Bool(false)); !v.Equal(zeowire.TID(last)) {
				t.Errorf("register: %v, want %v", v, last)
			}
			last = c.commit(write{uint64(i + 1), 0, "x"})
			if got, _, _ := c.load(uint64(i+1), raidstorage.MaxTID); got != "x" {
				t.Errorf("loaded %q", got)
			}
		}
	}
}

func TestRUOK(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{Storages: map[string]raidstorage.Storage{"1": memstorage.New("a"), "two": memstorage.New("b")}})
	srv.connect(t)
	nc := rawDial(t, srv)
	frames := zeowire.NewFrameReader(bufio.NewReader(nc), 0)
	frames.Next()
	writeFrame(t, nc, zeowire.RUOK())
	body, err := frames.Next()
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]map[string]any
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"connections": 1.0, "loads": 0.0, "stores": 0.0, "commits": 0.0, "aborts": 0.0, "active_txns": 0.0,
		"lock_time": nil, "conflicts": 0.0, "conflicts_resolved": 0.0, "start": got["1"]["start"], "waiting": 0.0,
		"timeout-thread-is-alive": "stub", "last-transaction": "0000000000000000",
	}
	if diff := cmp.Diff(got["1"], want); diff != "" {
		t.Error(diff)
	}
	if start, _ := got["1"]["start"].(string); len(start) != len(time.ANSIC) {
		t.Errorf("start is %q", start)
	}
	if len(got) != 2 {
		t.Errorf("%d storages", len(got))
	}
	if _, err := frames.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("not closed: %v", err)
	}
}

func rawDial(t testing.TB, srv *server) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", srv.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return nc
}

func writeFrame(t testing.TB, nc net.Conn, body []byte) {
	t.Helper()
	if _, err := nc.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)); err != nil {
		t.Fatal(err)
	}
}

func TestRegistrationIsRefusedAndTriedAgain(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{ReadOnly: true})
	c := srv.dial(t, zeowire.Pickle)
	c.fails(zeowire.ClassValueError, "register", text("nope"), zeowire.Bool(false))
	c.fails(zeowire.ClassReadOnly, "register", text("1"), zeowire.Bool(false))
	c.must("register", text("1"), zeowire.Bool(true))
	for name, args := range map[string][]zeowire.Value{
		"new_oids":   {number(5)},
		"tpc_begin":  {number(1), data("u"), data("d"), zeowire.Dict()},
		"vote":       {number(1)},
		"tpc_finish": {number(1)},
		"tpc_abort":  {number(1)},
		"storea":     {oid(1), tid(0), data("x"), number(1)},
	} {
		c.fails(zeowire.ClassReadOnly, name, args...)
	}
	c.must("ping")
	c.begin("register", text("1"), zeowire.Bool(true))
	c.closed()
}

func TestAReadOnlyStorageRefusesWriters(t *testing.T) {
	t.Parallel()
	srv := serve(t, serving(readOnly{memstorage.New("mem")}))
	c := srv.dial(t, zeowire.Msgpack)
	c.fails(zeowire.ClassReadOnly, "register", text("1"), zeowire.Bool(false))
	c.must("register", text("1"), zeowire.Bool(true))
	c.must("get_info")
}

func TestInfoAndStatusOverTheWire(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	c := srv.connect(t)
	c.commit(write{1, 0, "x"})
	info := c.must("get_info")
	for key, want := range map[string]zeowire.Value{
		"length": number(1), "name": text("mem"), "supportsUndo": zeowire.Bool(true), "supports_record_iternext": zeowire.Bool(true),
	} {
		if got, _ := info.Get(key); !got.Equal(want) {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	interfaces, _ := info.Get("interfaces")
	for _, name := range []string{"IStorageRestoreable", "IStorageIteration", "IStorageUndoable", "IBlobStorage", "IStorageCurrentRecordIteration", "IExternalGC"} {
		if !strings.Contains(interfaces.String(), name) {
			t.Errorf("%s is not in %v", name, interfaces)
		}
	}
	status := c.must("server_status")
	if v, _ := status.Get("commits"); !v.Equal(number(1)) {
		t.Errorf("status %v", status)
	}
	c.must("set_client_label", text("the label"))
	c.fails(zeowire.ClassAttributeError, "new_oid")
	oids := oidsOf(t, c.must("new_oids"))
	if len(oids) != 100 || oids[0] == 0 {
		t.Errorf("oids %v", oids)
	}
	if got := oidsOf(t, c.must("new_oids", number(1000))); len(got) != 100 || got[0] <= oids[99] {
		t.Errorf("oids %v", got)
	}
	if got := oidsOf(t, c.must("new_oids", number(-1))); len(got) != 1 {
		t.Errorf("oids %v", got)
	}
	// What ends it names it.
	c.begin("no_such_method")
	c.closed()
	srv.until(t, "no connection", func(st zeoserver.Status) bool { return st.Connections == 0 })
}

func TestWrongCalls(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	c := srv.connect(t)
	c.fails(zeowire.ClassTypeError, "loadBefore", oid(1))
	c.fails(zeowire.ClassTypeError, "loadBefore", oid(1), number(1))
	c.fails(zeowire.ClassTypeError, "loadBefore", data("short"), tid(1))
	c.fails(zeowire.ClassTypeError, "iterator_gc", number(1))
	c.fails(zeowire.ClassTypeError, "pack", text("now"))
	c.fails(zeowire.ClassTypeError, "storea", oid(1), tid(0), number(3), number(1))
	c.fails(zeowire.ClassKeyError, "iterator_next", number(7))
	c.fails(zeowire.ClassKeyError, "iterator_record_next", number(7))
	c.fails(zeowire.ClassKeyError, "iterator_record_start", number(7), tid(1))
	c.fails(zeowire.ClassAssertionError, "storeBlobChunk", data("x"))
	c.tpcBegin(1)
	c.fails(zeowire.ClassUnsupported, "storeBlobShared", oid(1), tid(0), data("x"), text("f.tmp"), number(1))
	c.w.Message(zeowire.KeepAlive())
	c.must("ping")

	for name, send := range map[string]func(*client){
		"a call before registration":    func(c *client) { c.begin("ping") },
		"an async call of a wrong type": func(c *client) { c.registered().queue("storea", number(1), number(1), number(1), number(1)); c.flush() },
		"an async call without a begin": func(c *client) { c.registered().queue("storea", oid(1), tid(0), data("x"), number(1)); c.flush() },
		"a frame that is no message":    func(c *client) { c.registered(); writeFrame(c.t, c.nc, []byte("nonsense")) },
		"an empty frame":                func(c *client) { c.registered(); writeFrame(c.t, c.nc, nil) },
		"a frame of 1 GB":               func(c *client) { c.registered().nc.Write([]byte{0x40, 0, 0, 0}) },
		"a large frame while unknown":   func(c *client) { writeFrame(c.t, c.nc, bytes.Repeat([]byte{'x'}, 1<<16)) },
		"deep nesting":                  func(c *client) { c.registered(); writeFrame(c.t, c.nc, bytes.Repeat([]byte{']'}, 1<<16)) },
	} {
		c := srv.dial(t, zeowire.Pickle)
		send(c)
		start := len(c.async)
		c.closed()
		if len(c.async) > start {
			t.Errorf("%s was answered with %v", name, c.async)
		}
	}
	c.must("ping")
}

func (c *client) registered() *client {
	c.t.Helper()
	c.must("register", text("1"), zeowire.Bool(false))
	return c
}

func TestBadHandshakesAreClosed(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{HandshakeTimeout: 50 * time.Millisecond})
	for name, send := range map[string]func(net.Conn){
		"another version": func(nc net.Conn) { writeFrame(t, nc, []byte("Z4")) },
		"no encoding":     func(nc net.Conn) { writeFrame(t, nc, []byte("X5")) },
		"empty":           func(nc net.Conn) { writeFrame(t, nc, nil) },
		"HTTP":            func(nc net.Conn) { nc.Write([]byte("GET / HTTP/1.1\r\n\r\n")) },
		"silence":         func(nc net.Conn) {},
		"half a frame":    func(nc net.Conn) { nc.Write([]byte{0, 0, 0, 2, 'Z'}) },
		"no registration": func(nc net.Conn) { writeFrame(t, nc, []byte("Z5")) },
	} {
		nc := rawDial(t, srv)
		send(nc)
		if _, err := io.ReadAll(nc); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRegisteredClientsMayBeSilent(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{HandshakeTimeout: 3 * time.Second})
	c := srv.connect(t)
	c.nc.Write([]byte{0, 0, 0, 9, 'x'}) // half a frame harms nobody
	nc := rawDial(t, srv)
	io.ReadAll(nc) // until the handshake timeout has passed for another one
	if n := srv.Status()["1"].Connections; n != 1 {
		t.Errorf("%d connections", n)
	}
	other := srv.connect(t)
	other.commit(write{1, 0, "x"})
	if got, _ := c.invalidated(); got == 0 {
		t.Error("no invalidation")
	}
}

func TestMessagesInPieces(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	nc := rawDial(t, srv)
	var w zeowire.Writer
	w.Encoding = zeowire.Pickle
	w.Raw([]byte("Z5"))
	w.Message(zeowire.Call(zeowire.IntID(1), "register", text("1"), zeowire.Bool(false)))
	w.Message(zeowire.Call(zeowire.IntID(2), "ping"))
	for _, b := range w.Bytes() {
		nc.Write([]byte{b})
	}
	frames := zeowire.NewFrameReader(bufio.NewReader(nc), 0)
	for range 3 {
		if _, err := frames.Next(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{MaxConnections: 2})
	a, b := srv.connect(t), srv.connect(t)
	nc := rawDial(t, srv)
	if _, err := io.ReadAll(nc); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
	b.nc.Close()
	srv.until(t, "one connection", func(st zeoserver.Status) bool { return st.Connections == 1 })
	a.must("ping")
}

func TestAClientThatDoesNotReadIsDroppedAndDelaysNobody(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{SendBufferBytes: 4 << 10})
	// The system's buffers of a Unix socket are small, and soon full.
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv.alsoServe(t, l)
	nc, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	stuck, other := shakeHands(t, nc, zeowire.Pickle).registered(), srv.connect(t)
	var writes []write
	for i := range 5000 {
		writes = append(writes, write{uint64(i + 1), 0, "x"})
	}
	last := raidstorage.TID(0)
	for range 1000 {
		for i := range writes {
			writes[i].serial = last
		}
		last = other.commit(writes...)
		if srv.Status()["1"].Connections == 1 {
			break
		}
	}
	srv.until(t, "one connection, and why", func(st zeoserver.Status) bool {
		return st.Connections == 1 && strings.Contains(srv.log.String(), "does not read")
	})
	stuck.closed()
}

func TestAClientThatDoesNotReadItsLoadsWaits(t *testing.T) {
	t.Parallel()
	s := memstorage.New("mem")
	fill(t, s, 1, 1<<20)
	srv := serve(t, zeoserver.Config{Storages: map[string]raidstorage.Storage{"1": s}, SendBufferBytes: 4 << 20, MaxInFlight: 4})
	c, other := srv.connect(t), srv.connect(t)
	const n = 100
	go func() {
		for i := range n {
			c.w.LoadBefore(zeowire.IntID(int64(i)), 1, raidstorage.MaxTID)
		}
		c.nc.Write(c.w.Bytes())
	}()
	srv.until(t, "loads", func(st zeoserver.Status) bool { return st.Loads > 4 })
	other.load(1, raidstorage.MaxTID) // others are served
	for range n {
		if m := c.message(); m.Flag == zeowire.Error {
			t.Fatalf("%v", m.Args)
		}
	}
}

// readOnly is a storage that refuses changes.
type readOnly struct{ *memstorage.Storage }

func (r readOnly) Begin(context.Context, raidstorage.Meta) (raidstorage.Txn, error) {
	return nil, &raidstorage.ReadOnlyError{Storage: r.Name()}
}
