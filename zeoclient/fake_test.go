package zeoclient

import (
	"bufio"
	"encoding/base64"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// fake is a ZEO server that does what a test tells it: a small storage, and a hook
// that sees each message first.
type fake struct {
	address  string
	encoding zeowire.Encoding

	mu       sync.Mutex
	listener net.Listener
	conns    map[*fakeConn]bool
	log      []fakeTxn
	nextOID  raidstorage.OID
	readOnly bool
	blobs    map[blobKey]string
	// hook sees a message first; true: it is done with. It is called by the
	// connection's goroutine.
	hook func(*fakeConn, zeowire.Message) bool
	// atEnd is called when a client sends no more, by the connection's goroutine, and
	// with the error of reading. The connection is closed then. May be nil.
	atEnd func(*fakeConn, error)
	calls map[string]int
	turns int // how often a server had to wait for a client
	// beyond counts what was asked for after the end: Python's server logs a traceback.
	beyond  int
	hostile bool // what it asks for is the server's own fault

	wg sync.WaitGroup
}

type fakeTxn struct {
	tid     raidstorage.TID
	records []fakeRecord
}

type fakeRecord struct {
	oid  raidstorage.OID
	data []byte // nil: deleted
}

// fakeConn is one connection of a fake.
type fakeConn struct {
	f  *fake
	nc net.Conn

	mu sync.Mutex // guards w
	w  zeowire.Writer

	txn       fakeTxn
	blob      []byte
	iterators map[int64]*fakeIterator
	nextIter  int64
}

type fakeIterator struct {
	txns    []fakeTxn
	records []fakeRecord
	tid     raidstorage.TID // the transaction given last, or that of the records
	isTxn   bool
	// Records are read from the file of the iterator over the transactions, which a
	// FileStorage closes at the end.
	over *bool
}

// startFake starts a server until the test's end.
func startFake(t testing.TB) *fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "zeo")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{
		address: filepath.Join(dir, "s"), encoding: zeowire.Msgpack, conns: map[*fakeConn]bool{},
		calls: map[string]int{}, blobs: map[blobKey]string{},
	}
	f.listen(t)
	t.Cleanup(func() {
		f.stop()
		if f.beyond > 0 && !f.hostile {
			t.Errorf("%d calls asked for what is after the end", f.beyond)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return f
}

// listen begins to serve, again after a stop.
func (f *fake) listen(t testing.TB) {
	t.Helper()
	listener, err := net.Listen("unix", f.address)
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.listener = listener
	f.mu.Unlock()
	f.wg.Go(func() {
		for {
			nc, err := listener.Accept()
			if err != nil {
				return
			}
			c := &fakeConn{f: f, nc: nc, iterators: map[int64]*fakeIterator{}}
			f.mu.Lock()
			f.conns[c] = true
			f.mu.Unlock()
			f.wg.Go(c.serve)
		}
	})
}

// stop ends all connections.
func (f *fake) stop() {
	f.mu.Lock()
	_ = f.listener.Close()
	f.mu.Unlock()
	f.cut()
	f.wg.Wait()
}

// cut ends the connections that there are.
func (f *fake) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		_ = c.nc.Close()
	}
}

func (f *fake) setHook(hook func(*fakeConn, zeowire.Message) bool) {
	f.mu.Lock()
	f.hook = hook
	f.mu.Unlock()
}

func (f *fake) speak(encoding zeowire.Encoding) {
	f.mu.Lock()
	f.encoding = encoding
	f.mu.Unlock()
}

func (f *fake) count(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[name]
}

// commit adds a transaction, as another client would, and tells all connections.
func (f *fake) commit(tid raidstorage.TID, records ...fakeRecord) {
	f.mu.Lock()
	f.log = append(f.log, fakeTxn{tid, records})
	conns := make([]*fakeConn, 0, len(f.conns))
	for c := range f.conns {
		conns = append(conns, c)
	}
	f.mu.Unlock()
	for _, c := range conns {
		c.invalidate(tid, records)
	}
}

func (c *fakeConn) invalidate(tid raidstorage.TID, records []fakeRecord) {
	var oids []raidstorage.OID
	for _, r := range records {
		if r.data != nil { // as Python's server does
			oids = append(oids, r.oid)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.w.InvalidateTransaction(tid, oids)
	c.flushLocked()
}

func (c *fakeConn) flushLocked() {
	_, _ = c.nc.Write(c.w.Bytes())
	c.w.Reset()
}

func (c *fakeConn) send(m zeowire.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.w.Message(m); err != nil {
		panic(err)
	}
	c.flushLocked()
}

func (c *fakeConn) reply(m zeowire.Message, v zeowire.Value) { c.send(zeowire.ValueReply(m.ID, v)) }
func (c *fakeConn) raise(m zeowire.Message, e *zeowire.Exception) {
	c.send(zeowire.ErrorReply(m.ID, e))
}
func (c *fakeConn) raw(body string) { _, _ = c.nc.Write([]byte(body)) }
func (c *fakeConn) async(name string, args ...zeowire.Value) {
	c.send(zeowire.AsyncCall(name, args...))
}
func (f *fake) last() raidstorage.TID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lastLocked()
}

func (f *fake) lastLocked() raidstorage.TID {
	if len(f.log) == 0 {
		return 0
	}
	return f.log[len(f.log)-1].tid
}

// turnReader counts how often nothing is left to read.
type turnReader struct {
	c *fakeConn
}

func (r turnReader) Read(p []byte) (int, error) {
	r.c.f.mu.Lock()
	r.c.f.turns++
	r.c.f.mu.Unlock()
	return r.c.nc.Read(p)
}

func (c *fakeConn) serve() {
	defer func() {
		_ = c.nc.Close()
		c.f.mu.Lock()
		delete(c.f.conns, c)
		c.f.mu.Unlock()
	}()
	c.f.mu.Lock()
	encoding := c.f.encoding
	c.f.mu.Unlock()
	c.mu.Lock()
	c.w.Encoding = encoding
	_ = c.w.Raw(encoding.Handshake())
	c.flushLocked()
	c.mu.Unlock()
	frames := zeowire.NewFrameReader(bufio.NewReaderSize(turnReader{c}, 1<<20), 0)
	if body, err := frames.Next(); err != nil || string(body) != string(encoding.Handshake()) {
		return
	}
	decoder := &zeowire.Decoder{Encoding: encoding}
	for {
		body, err := frames.Next()
		if err != nil {
			c.f.mu.Lock()
			atEnd := c.f.atEnd
			c.f.mu.Unlock()
			if atEnd != nil {
				atEnd(c, err)
			}
			return
		}
		m, err := decoder.Message(body)
		if err != nil {
			return
		}
		frames.Keep()
		decoder.Keep()
		c.f.mu.Lock()
		c.f.calls[m.Name]++
		hook := c.f.hook
		c.f.mu.Unlock()
		if hook != nil && hook(c, m) {
			continue
		}
		if !c.handle(m) {
			return
		}
	}
}

// handle serves a message; false closes the connection.
func (c *fakeConn) handle(m zeowire.Message) bool {
	f := c.f
	args, _ := m.Args.Items()
	switch m.Name {
	case zeowire.Register:
		if readOnly, _ := args[1].Bool(); f.readOnly && !readOnly {
			c.raise(m, zeowire.ReadOnlyError())
			return true
		}
		c.reply(m, zeowire.TID(f.last()))
	case zeowire.GetInfo:
		var interfaces []zeowire.Value
		for _, name := range []string{"IStorageRestoreable", "IStorageIteration", "IStorageUndoable", "IBlobStorage", "IExternalGC"} {
			interfaces = append(interfaces, zeowire.Tuple(zeowire.Text("ZODB.interfaces"), zeowire.Text(name)))
		}
		c.reply(m, zeowire.Dict(zeowire.Entry("length", zeowire.Int(1)), zeowire.Entry("size", zeowire.Int(2)),
			zeowire.Entry("supportsUndo", zeowire.Bool(true)), zeowire.Entry("supports_record_iternext", zeowire.Bool(true)),
			zeowire.Entry("interfaces", zeowire.Tuple(interfaces...))))
	case zeowire.LastTransaction:
		c.reply(m, zeowire.TID(f.last()))
	case zeowire.Ping, zeowire.Pack:
		c.reply(m, zeowire.None())
	case zeowire.NewOIDs:
		var oids []zeowire.Value
		f.mu.Lock()
		for _, txn := range f.log {
			for _, r := range txn.records {
				f.nextOID = max(f.nextOID, r.oid)
			}
		}
		for range 100 {
			f.nextOID++
			oids = append(oids, zeowire.OID(f.nextOID))
		}
		f.mu.Unlock()
		c.reply(m, zeowire.List(oids...))
	case zeowire.LoadBefore:
		c.loadBefore(m, args)
	case zeowire.RecordIternext:
		c.recordIternext(m, args)
	case zeowire.SendBlob:
		c.sendBlob(m, args)
	case zeowire.IteratorStart, zeowire.IteratorNext, zeowire.IteratorRecordStart, zeowire.IteratorRecordNext, zeowire.IteratorGC:
		c.iterate(m, args)
	default:
		return c.commit(m, args)
	}
	return true
}

func (c *fakeConn) loadBefore(m zeowire.Message, args []zeowire.Value) {
	oid, _ := args[0].OID()
	before, _ := args[1].TID()
	c.f.mu.Lock()
	var data []byte
	var serial, end raidstorage.TID
	known := false
	for _, txn := range c.f.log {
		for _, r := range txn.records {
			if r.oid != oid {
				continue
			}
			known = true
			if txn.tid < before {
				data, serial, end = r.data, txn.tid, 0
			} else if end == 0 {
				end = txn.tid
			}
		}
	}
	c.f.mu.Unlock()
	switch {
	case !known || serial != 0 && data == nil:
		c.raise(m, zeowire.POSKeyError(oid))
	case serial == 0:
		c.reply(m, zeowire.None())
	default:
		c.mu.Lock()
		defer c.mu.Unlock()
		_ = c.w.LoadReply(m.ID, data, serial, end)
		c.flushLocked()
	}
}

func (c *fakeConn) recordIternext(m zeowire.Message, args []zeowire.Value) {
	from, _ := args[0].OID()
	c.f.mu.Lock()
	current := map[raidstorage.OID]fakeRecord{}
	tids := map[raidstorage.OID]raidstorage.TID{}
	for _, txn := range c.f.log {
		for _, r := range txn.records {
			current[r.oid], tids[r.oid] = r, txn.tid
		}
	}
	c.f.mu.Unlock()
	oids := slices.Sorted(maps.Keys(current))
	i, _ := slices.BinarySearch(oids, from)
	if i == len(oids) {
		c.f.mu.Lock()
		c.f.beyond++
		c.f.mu.Unlock()
		c.raise(m, zeowire.ValueError("empty tree"))
		return
	}
	r := current[oids[i]]
	if r.data == nil {
		c.raise(m, zeowire.POSKeyError(r.oid))
		return
	}
	next := zeowire.None()
	if i+1 < len(oids) {
		next = zeowire.OID(oids[i+1])
	}
	c.reply(m, zeowire.Tuple(zeowire.OID(r.oid), zeowire.TID(tids[r.oid]), zeowire.Bytes(r.data), next))
}

func (c *fakeConn) sendBlob(m zeowire.Message, args []zeowire.Value) {
	oid, _ := args[0].OID()
	tid, _ := args[1].TID()
	c.f.mu.Lock()
	content, ok := c.f.blobs[blobKey{oid, tid}]
	c.f.mu.Unlock()
	if !ok {
		c.raise(m, zeowire.NoBlobError(oid, tid))
		return
	}
	c.async(zeowire.ReceiveBlobStart, args[0], args[1])
	for chunk := range slices.Chunk([]byte(content), blobChunk) {
		c.async(zeowire.ReceiveBlobChunk, args[0], args[1], zeowire.Bytes(chunk))
	}
	c.async(zeowire.ReceiveBlobStop, args[0], args[1])
	c.reply(m, zeowire.None())
}

func (c *fakeConn) iterate(m zeowire.Message, args []zeowire.Value) {
	c.f.mu.Lock()
	log := slices.Clone(c.f.log)
	c.f.mu.Unlock()
	switch m.Name {
	case zeowire.IteratorStart:
		from, _ := args[0].TID()
		through, bounded := args[1].TID()
		log = slices.DeleteFunc(log, func(t fakeTxn) bool { return t.tid < from || bounded && t.tid > through })
		c.newIterator(m, &fakeIterator{txns: log, isTxn: true, over: new(bool)})
		return
	case zeowire.IteratorGC:
		ids, _ := args[0].Items()
		c.f.mu.Lock()
		defer c.f.mu.Unlock()
		for _, v := range ids {
			id, _ := v.Int()
			if it := c.iterators[id]; it != nil && it.isTxn {
				*it.over = true
			}
			delete(c.iterators, id)
		}
		return
	}
	id, _ := args[0].Int()
	c.f.mu.Lock()
	it := c.iterators[id]
	c.f.mu.Unlock()
	if it == nil || it.isTxn != (m.Name != zeowire.IteratorRecordNext) || *it.over {
		c.f.mu.Lock()
		c.f.beyond++
		c.f.mu.Unlock()
		c.raise(m, zeowire.KeyError(args[0]))
		return
	}
	switch {
	case m.Name == zeowire.IteratorRecordStart:
		tid, _ := args[1].TID()
		if tid != it.tid {
			c.raise(m, zeowire.NewException(zeowire.ClassException, zeowire.Text("out of order")))
			return
		}
		for _, t := range log {
			if t.tid == tid {
				c.newIterator(m, &fakeIterator{records: t.records, tid: tid, over: it.over})
			}
		}
	case len(it.txns) == 0 && len(it.records) == 0:
		c.f.mu.Lock()
		delete(c.iterators, id)
		if it.isTxn {
			*it.over = true
		}
		c.f.mu.Unlock()
		c.reply(m, zeowire.None())
	case it.isTxn:
		it.tid = it.txns[0].tid
		it.txns = it.txns[1:]
		c.reply(m, zeowire.Tuple(zeowire.TID(it.tid), zeowire.Text(" "), zeowire.Bytes(nil), zeowire.Bytes(nil), zeowire.Dict()))
	default:
		r := it.records[0]
		it.records = it.records[1:]
		data := zeowire.None()
		if r.data != nil {
			data = zeowire.Bytes(r.data)
		}
		c.reply(m, zeowire.Tuple(zeowire.OID(r.oid), zeowire.TID(it.tid), data, zeowire.None()))
	}
}

func (c *fakeConn) newIterator(m zeowire.Message, it *fakeIterator) {
	c.f.mu.Lock()
	id := c.nextIter
	c.nextIter++
	c.iterators[id] = it
	c.f.mu.Unlock()
	c.reply(m, zeowire.Int(id))
}

// iterators counts those that are open at the server.
func (f *fake) iterators() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for c := range f.conns {
		n += len(c.iterators)
	}
	return n
}

func (c *fakeConn) commit(m zeowire.Message, args []zeowire.Value) bool {
	switch m.Name {
	case zeowire.TPCBegin:
		c.txn = fakeTxn{}
		c.txn.tid, _ = args[4].TID()
	case zeowire.StoreA, zeowire.RestoreA:
		oid, _ := args[0].OID()
		data, _ := args[2].Bytes()
		c.txn.records = append(c.txn.records, fakeRecord{oid, data})
	case zeowire.DeleteObject:
		oid, _ := args[0].OID()
		c.txn.records = append(c.txn.records, fakeRecord{oid, nil})
	case zeowire.StoreBlobStart:
		c.blob = []byte{}
	case zeowire.StoreBlobChunk:
		chunk, _ := args[0].Bytes()
		c.blob = append(c.blob, chunk...)
	case zeowire.StoreBlobEnd:
		oid, _ := args[0].OID()
		data, _ := args[2].Bytes()
		c.txn.records = append(c.txn.records, fakeRecord{oid, data})
	case zeowire.Vote:
		c.reply(m, zeowire.List())
	case zeowire.TPCAbort:
		c.reply(m, zeowire.None())
	case zeowire.TPCFinish:
		c.f.mu.Lock()
		if c.txn.tid == 0 {
			c.txn.tid = c.f.lastLocked() + 10
		}
		c.f.log = append(c.f.log, c.txn)
		if c.blob != nil {
			c.f.blobs[blobKey{c.txn.records[len(c.txn.records)-1].oid, c.txn.tid}] = string(c.blob)
			c.blob = nil
		}
		var others []*fakeConn
		for other := range c.f.conns {
			if other != c {
				others = append(others, other)
			}
		}
		c.f.mu.Unlock()
		for _, other := range others {
			other.invalidate(c.txn.tid, c.txn.records)
		}
		c.reply(m, zeowire.TID(c.txn.tid))
	case zeowire.GetTID:
		oid, _ := args[0].OID()
		c.raise(m, zeowire.POSKeyError(oid))
	case zeowire.UndoLog:
		id := raidstorage.TID(7).Bytes()
		c.reply(m, zeowire.List(zeowire.Dict(zeowire.Entry("id", zeowire.Bytes([]byte(base64.StdEncoding.EncodeToString(id[:])))),
			zeowire.Entry("time", zeowire.Float(1)), zeowire.Entry("user_name", zeowire.Bytes([]byte("u"))),
			zeowire.Entry("description", zeowire.Text("d")), zeowire.Entry("size", zeowire.Int(3)))))
	case zeowire.Reply: // keep-alive
	default:
		return false
	}
	return true
}
