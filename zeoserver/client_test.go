package zeoserver_test

import (
	"bufio"
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// patience is how long tests wait for what must come.
const patience = time.Minute

// server is a server under test.
type server struct {
	*zeoserver.Server
	addr string
	log  *logBuffer
}

// logBuffer holds the log.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// serve starts a server on cfg; without storages there is one in memory, "1".
func serve(t testing.TB, cfg zeoserver.Config) *server {
	t.Helper()
	if cfg.Storages == nil {
		cfg.Storages = map[string]raidstorage.Storage{"1": memstorage.New("mem")}
	}
	log := new(logBuffer)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	}
	if cfg.TempDir == "" {
		cfg.TempDir = t.TempDir()
	}
	srv, err := zeoserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		for _, s := range cfg.Storages {
			s.Close()
		}
	})
	return &server{srv, l.Addr().String(), log}
}

// client speaks the protocol, and nothing more.
type client struct {
	t      testing.TB
	nc     net.Conn
	enc    zeowire.Encoding
	w      zeowire.Writer
	frames *zeowire.FrameReader
	dec    zeowire.Decoder
	lastID int64
	async  []zeowire.Message // received and not yet looked at
}

// dial connects and shakes hands.
func (s *server) dial(t testing.TB, enc zeowire.Encoding) *client {
	t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	return shakeHands(t, nc, enc)
}

func shakeHands(t testing.TB, nc net.Conn, enc zeowire.Encoding) *client {
	t.Helper()
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	c := &client{t: t, nc: nc, enc: enc, frames: zeowire.NewFrameReader(bufio.NewReader(nc), 0)}
	c.w.Encoding, c.dec.Encoding = enc, enc
	body, err := c.frames.Next()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := zeowire.ParseAnnouncement(body); err != nil {
		t.Fatal(err)
	}
	c.w.Raw(enc.Handshake())
	c.flush()
	return c
}

// connect is dial and register for storage "1".
func (s *server) connect(t testing.TB) *client {
	t.Helper()
	c := s.dial(t, zeowire.Pickle)
	c.must("register", zeowire.Text("1"), zeowire.Bool(false))
	return c
}

func (c *client) flush() {
	c.t.Helper()
	if _, err := c.nc.Write(c.w.Bytes()); err != nil {
		c.t.Fatal(err)
	}
	c.w.Reset()
}

// queue adds an async call to what the next flush sends.
func (c *client) queue(name string, args ...zeowire.Value) {
	c.t.Helper()
	if err := c.w.Message(zeowire.AsyncCall(name, args...)); err != nil {
		c.t.Fatal(err)
	}
}

// begin sends a call, of which wait or waitError get the answer.
func (c *client) begin(name string, args ...zeowire.Value) zeowire.ID {
	c.t.Helper()
	c.lastID++
	id := zeowire.IntID(c.lastID)
	if err := c.w.Message(zeowire.Call(id, name, args...)); err != nil {
		c.t.Fatal(err)
	}
	c.flush()
	return id
}

// receive returns the next message.
func (c *client) receive() (zeowire.Message, error) {
	body, err := c.frames.Next()
	if err != nil {
		return zeowire.Message{}, err
	}
	c.frames.Keep()
	m, err := c.dec.Message(body)
	c.dec.Keep()
	return m, err
}

func (c *client) message() zeowire.Message {
	c.t.Helper()
	m, err := c.receive()
	if err != nil {
		c.t.Fatalf("receive: %v", err)
	}
	return m
}

// wait returns the answer of a call; async calls before it are kept.
func (c *client) wait(id zeowire.ID) (zeowire.Value, *zeowire.Exception) {
	c.t.Helper()
	for {
		m := c.message()
		if !m.IsReply() {
			c.async = append(c.async, m)
			continue
		}
		if m.ID != id {
			c.t.Fatalf("a reply to %v instead of %v", m.ID, id)
		}
		if e, ok := m.Exception(); ok {
			return zeowire.Value{}, e
		}
		return m.Args, nil
	}
}

func (c *client) call(name string, args ...zeowire.Value) (zeowire.Value, *zeowire.Exception) {
	c.t.Helper()
	return c.wait(c.begin(name, args...))
}

// must is call for what must succeed.
func (c *client) must(name string, args ...zeowire.Value) zeowire.Value {
	c.t.Helper()
	v, e := c.call(name, args...)
	if e != nil {
		c.t.Fatalf("%s: %v", name, e)
	}
	return v
}

// fails is call for what must fail with an exception of a class.
func (c *client) fails(class, name string, args ...zeowire.Value) *zeowire.Exception {
	c.t.Helper()
	v, e := c.call(name, args...)
	if e == nil {
		c.t.Fatalf("%s returned %v, not %s", name, v, class)
	}
	if e.Class != class {
		c.t.Fatalf("%s: %v, not %s", name, e, class)
	}
	return e
}

// closed waits for the server to close the connection.
func (c *client) closed() {
	c.t.Helper()
	for {
		m, err := c.receive()
		if err == nil {
			c.async = append(c.async, m)
			continue
		}
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			c.t.Fatal("the server did not close the connection")
		}
		return
	}
}

// nextAsync returns the next async call of the server, of those named.
func (c *client) nextAsync(name string) zeowire.Message {
	c.t.Helper()
	for {
		for len(c.async) > 0 {
			m := c.async[0]
			c.async = c.async[1:]
			if m.Name == name {
				return m
			}
		}
		m := c.message()
		if m.IsReply() {
			c.t.Fatalf("a reply to %v instead of %s", m.ID, name)
		}
		c.async = append(c.async, m)
	}
}

func oid(n uint64) zeowire.Value { return zeowire.OID(raidstorage.OID(n)) }
func tid(n raidstorage.TID) zeowire.Value {
	return zeowire.TID(n)
}
func data(s string) zeowire.Value  { return zeowire.Bytes([]byte(s)) }
func text(s string) zeowire.Value  { return zeowire.Text(s) }
func number(n int64) zeowire.Value { return zeowire.Int(n) }

// tpcBegin queues the begin of a transaction.
func (c *client) tpcBegin(txn int64) {
	c.t.Helper()
	c.queue("tpc_begin", number(txn), data("user"), data("description"), zeowire.Dict(), zeowire.None(), text(" "))
}

// write is one object of a transaction.
type write struct {
	oid    uint64
	serial raidstorage.TID
	data   string
}

func (c *client) stage(txn int64, writes ...write) {
	c.t.Helper()
	c.tpcBegin(txn)
	for _, w := range writes {
		c.queue("storea", oid(w.oid), tid(w.serial), data(w.data), number(txn))
	}
}

// commit commits and returns the tid.
func (c *client) commit(writes ...write) raidstorage.TID {
	c.t.Helper()
	c.lastID++
	txn := c.lastID + 1000
	c.stage(txn, writes...)
	c.must("vote", number(txn))
	v := c.must("tpc_finish", number(txn))
	got, ok := v.TID()
	if !ok {
		c.t.Fatalf("tpc_finish returned %v", v)
	}
	return got
}

// load returns a revision, as data, serial and end.
func (c *client) load(o uint64, before raidstorage.TID) (string, raidstorage.TID, raidstorage.TID) {
	c.t.Helper()
	return revision(c.t, c.must("loadBefore", oid(o), tid(before)))
}

func revision(t testing.TB, v zeowire.Value) (string, raidstorage.TID, raidstorage.TID) {
	t.Helper()
	items, ok := v.Items()
	if !ok || len(items) != 3 {
		t.Fatalf("loadBefore returned %v", v)
	}
	b, _ := items[0].Bytes()
	serial, _ := items[1].TID()
	end, _ := items[2].TID()
	return string(b), serial, end
}

// invalidated reads the next invalidation.
func (c *client) invalidated() (raidstorage.TID, []uint64) {
	c.t.Helper()
	return invalidationOf(c.t, c.nextAsync("invalidateTransaction"))
}

func invalidationOf(t testing.TB, m zeowire.Message) (raidstorage.TID, []uint64) {
	t.Helper()
	args, _ := m.Args.Items()
	if len(args) != 2 {
		t.Fatalf("%v", m)
	}
	got, _ := args[0].TID()
	return got, oidsOf(t, args[1])
}

func oidsOf(t testing.TB, v zeowire.Value) (oids []uint64) {
	t.Helper()
	items, ok := v.Items()
	if !ok {
		t.Fatalf("%v is no list of oids", v)
	}
	for _, i := range items {
		o, ok := i.OID()
		if !ok {
			t.Fatalf("%v is no list of oids", v)
		}
		oids = append(oids, uint64(o))
	}
	return oids
}

// status waits until a fact of the status is so.
func (s *server) until(t testing.TB, what string, is func(zeoserver.Status) bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !is(s.Status()["1"]) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the status never had %s: %+v", what, s.Status()["1"])
		}
	}
}

// logged waits until the log has a text.
func (s *server) logged(t testing.TB, text string) {
	t.Helper()
	s.until(t, "a log line", func(zeoserver.Status) bool { return strings.Contains(s.log.String(), text) })
}

// fill commits n objects of size bytes, from oid 1 on, directly.
func fill(t testing.TB, s raidstorage.Storage, n, size int) raidstorage.TID {
	t.Helper()
	ctx := context.Background()
	tx, err := s.Begin(ctx, raidstorage.Meta{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := tx.Store(ctx, raidstorage.OID(i+1), 0, bytes.Repeat([]byte{byte(i)}, size)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tx.Vote(ctx); err != nil {
		t.Fatal(err)
	}
	last, err := tx.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return last
}
