package zeoserver_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/zeoserver"
)

func TestIteration(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	c := srv.connect(t)
	var tids []raidstorage.TID
	for i := range 4 {
		tids = append(tids, c.commit(write{uint64(2*i + 1), 0, "a"}, write{uint64(2*i + 2), 0, "b"}))
	}
	next := func(id zeowire.Value) (raidstorage.TID, bool) {
		v := c.must("iterator_next", id)
		items, ok := v.Items()
		if !ok {
			return 0, false
		}
		got, _ := items[0].TID()
		return got, true
	}
	// Both ends are inclusive; ids are small ints that rise.
	it := c.must("iterator_start", tid(tids[1]), tid(tids[2]))
	if !it.Equal(number(0)) {
		t.Errorf("the first id is %v", it)
	}
	first, _ := next(it)
	recs := c.must("iterator_record_start", it, tid(first))
	c.fails(zeowire.ClassException, "iterator_record_start", it, tid(tids[2]))
	second, _ := next(it)
	// The records of the first one are there still, though the iterator went on.
	var oids []uint64
	for {
		v := c.must("iterator_record_next", recs)
		items, ok := v.Items()
		if !ok {
			break
		}
		if got, _ := items[1].TID(); got != first || !items[3].IsNone() {
			t.Errorf("record %v", v)
		}
		o, _ := items[0].OID()
		oids = append(oids, uint64(o))
	}
	c.fails(zeowire.ClassKeyError, "iterator_record_next", recs)
	if first != tids[1] || second != tids[2] || !cmp.Equal(oids, []uint64{3, 4}) {
		t.Errorf("got %v, %v, records %v", first, second, oids)
	}
	if _, ok := next(it); ok {
		t.Error("more than asked for")
	}
	c.fails(zeowire.ClassKeyError, "iterator_next", it)

	it = c.must("iterator_start", zeowire.None(), zeowire.None())
	next(it)
	c.queue("iterator_gc", zeowire.List(it, number(99)))
	c.flush()
	c.fails(zeowire.ClassKeyError, "iterator_next", it)
	open := c.must("iterator_start", zeowire.None(), zeowire.None()) // the end of the connection ends it
	next(open)
}

func TestRecordIternext(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	c, other := srv.connect(t), srv.connect(t)
	first := c.commit(write{0, 0, "r"}, write{5, 0, "five"}, write{7, 0, "seven"})
	v := c.must("record_iternext", zeowire.None())
	if want := zeowire.Tuple(oid(0), tid(first), data("r"), oid(5)); !v.Equal(want) {
		t.Errorf("got %v, want %v", v, want)
	}
	second := other.commit(write{5, first, "five2"}) // what comes next is not what was
	v = c.must("record_iternext", oid(5))
	if want := zeowire.Tuple(oid(5), tid(second), data("five2"), oid(7)); !v.Equal(want) {
		t.Errorf("got %v, want %v", v, want)
	}
	v = c.must("record_iternext", oid(7))
	if want := zeowire.Tuple(oid(7), tid(first), data("seven"), zeowire.None()); !v.Equal(want) {
		t.Errorf("got %v, want %v", v, want)
	}
	c.fails(zeowire.ClassValueError, "record_iternext", oid(8))
	v = c.must("record_iternext", oid(6))
	if items, _ := v.Items(); !items[0].Equal(oid(7)) {
		t.Errorf("got %v", v)
	}
}

// What was told to be next may be deleted before it is asked for, and objects come
// meanwhile.
func TestRecordIternextBesideCommits(t *testing.T) {
	t.Parallel()
	var elapsed atomic.Int64
	start := time.Now()
	srv := serve(t, zeoserver.Config{Clock: func() time.Time { return start.Add(time.Duration(elapsed.Load())) }})
	c, other := srv.connect(t), srv.connect(t)
	first := c.commit(write{0, 0, "r"}, write{5, 0, "five"}, write{7, 0, "seven"})
	remove := func(at uint64) {
		t.Helper()
		other.queue("tpc_begin", number(9), data(""), data(""), zeowire.Dict(), zeowire.None(), text(" "))
		other.queue("deleteObject", oid(at), tid(first), number(9))
		other.must("vote", number(9))
		other.must("tpc_finish", number(9))
	}
	want := func(from zeowire.Value, want ...zeowire.Value) {
		t.Helper()
		if got, want := c.must("record_iternext", from), zeowire.Tuple(want...); !got.Equal(want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	want(zeowire.None(), oid(0), tid(first), data("r"), oid(5))
	remove(5)
	want(oid(5), oid(7), tid(first), data("seven"), zeowire.None())

	want(zeowire.None(), oid(0), tid(first), data("r"), oid(7))
	second := other.commit(write{9, 0, "nine"})
	elapsed.Add(int64(2 * time.Second))
	want(oid(7), oid(7), tid(first), data("seven"), oid(9))
	remove(7)
	want(oid(9), oid(9), tid(second), data("nine"), zeowire.None())
	want(zeowire.None(), oid(0), tid(first), data("r"), oid(9))

	third := other.commit(write{11, 0, "eleven"}) // no time has passed
	want(oid(9), oid(9), tid(second), data("nine"), oid(11))
	want(oid(11), oid(11), tid(third), data("eleven"), zeowire.None())
}

func TestUndoInfoAndHistory(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	c := srv.connect(t)
	var last raidstorage.TID
	var tids []raidstorage.TID
	for i, user := range []string{"/a alice", "/a/b bob", "/ab carol"} {
		ext := zeowire.Dict(zeowire.Entry("request", number(int64(i))), zeowire.Entry("path", text(strings.Fields(user)[0]+"/x y")))
		c.queue("tpc_begin", number(1), data(user), data(fmt.Sprint("change ", i)), ext, zeowire.None(), text(" "))
		c.queue("storea", oid(1), tid(last), data(fmt.Sprint(i)), number(1))
		c.must("vote", number(1))
		last, _ = c.must("tpc_finish", number(1)).TID()
		tids = append(tids, last)
	}
	ids := func(v zeowire.Value) (found []int64) {
		items, _ := v.Items()
		for _, item := range items {
			n, _ := item.Get("request")
			i, _ := n.Int()
			found = append(found, i)
		}
		return found
	}
	spec := func(name string, v zeowire.Value) zeowire.Value { return zeowire.Dict(zeowire.Entry(name, v)) }
	for _, test := range []struct {
		first, last int64
		spec        zeowire.Value
		want        []int64
	}{
		{0, -20, zeowire.None(), []int64{2, 1, 0}},
		{1, -1, zeowire.None(), []int64{1}},
		{0, 2, zeowire.None(), []int64{2, 1}},
		{1, 2, zeowire.None(), []int64{1}},
		{0, 0, zeowire.None(), nil},
		{0, -20, spec("user_name", data("/a/b bob")), []int64{1}},
		{0, -20, spec("request", number(0)), []int64{0}},
		{0, -20, spec("description", data("nothing")), nil},
		{0, -20, spec("nothing", zeowire.None()), []int64{2, 1, 0}},
		{0, -20, spec("user_name", zeowire.Prefix("/a")), []int64{1, 0}},
		{0, -20, spec("path", zeowire.Prefix("/a/b")), []int64{1}},
		{0, -20, spec("path", zeowire.Prefix("/a/b/x")), []int64{1}},
		{0, -20, spec("path", zeowire.Prefix("/a")), []int64{1, 0}},
	} {
		got := ids(c.must("undoInfo", number(test.first), number(test.last), test.spec))
		if diff := cmp.Diff(got, test.want); diff != "" {
			t.Errorf("undoInfo(%d, %d, %v): %s", test.first, test.last, test.spec, diff)
		}
	}
	h := c.must("history", oid(1), number(2))
	items, _ := h.Items()
	if len(items) != 2 {
		t.Fatalf("history %v", h)
	}
	for i, item := range items {
		if v, _ := item.Get("tid"); !v.Equal(tid(tids[2-i])) {
			t.Errorf("history %d is of %v", i, v)
		}
		if v, _ := item.Get("time"); v.Kind() != zeowire.KindFloat {
			t.Errorf("time %v", v)
		}
	}
	c.fails(zeowire.ClassPOSKey, "history", oid(99))
}

func TestPackTellsEverybodyTheSize(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{})
	c, other := srv.connect(t), srv.connect(t)
	root := c.commit(write{0, 0, emptyRecord})
	c.commit(write{0, root, emptyRecord}, write{1, 0, emptyRecord})
	now := zeowire.Float(float64(time.Now().Add(time.Hour).UnixNano()) / 1e9)
	c.async = nil
	if v := c.must("pack", now, zeowire.Bool(true)); !v.IsNone() {
		t.Errorf("pack: %v", v)
	}
	c.nextAsync("info") // before the reply
	info := other.nextAsync("info")
	args, _ := info.Args.Items()
	if n, _ := args[0].Get("length"); !n.Equal(number(1)) {
		t.Errorf("info%v: object 1 is garbage", info.Args)
	}
	if v := c.must("pack", now, zeowire.Bool(false)); !v.IsNone() {
		t.Errorf("pack: %v", v)
	}
	other.nextAsync("info")
}

// emptyRecord is a record without references: None, and an empty dict.
const emptyRecord = "\x80\x03N.\x80\x03}."

func (c *client) storeBlob(txn int64, o uint64, serial raidstorage.TID, record string, blob []byte) {
	c.t.Helper()
	c.queue("storea", oid(o), tid(serial), data(record), number(txn))
	c.queue("storeBlobStart")
	for len(blob) > 0 {
		n := min(len(blob), 59000)
		c.queue("storeBlobChunk", zeowire.Bytes(blob[:n]))
		blob = blob[n:]
	}
	c.queue("storeBlobEnd", oid(o), tid(serial), data(record), number(txn))
}

func (c *client) loadBlob(o uint64, serial raidstorage.TID) []byte {
	c.t.Helper()
	id := c.begin("sendBlob", oid(o), tid(serial))
	var blob []byte
	want := "receiveBlobStart"
	for {
		m := c.message()
		switch {
		case m.IsReply() && m.ID == id:
			if want != "" || !m.Args.IsNone() {
				c.t.Fatalf("the reply %v comes before the end", m.Args)
			}
			return blob
		case m.Name == "receiveBlobStart" && want == m.Name:
			want = "receiveBlobChunk"
		case m.Name == "receiveBlobChunk" && want == m.Name:
			args, _ := m.Args.Items()
			b, _ := args[2].Bytes()
			if len(b) > 59000 || len(b) == 0 {
				c.t.Errorf("a chunk of %d", len(b))
			}
			blob = append(blob, b...)
		case m.Name == "receiveBlobStop":
			want = ""
		case m.Name == "invalidateTransaction" || m.Name == "info":
		default:
			c.t.Fatalf("%s instead of %s", m.Name, want)
		}
	}
}

func TestBlobs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := filestorage.Open(context.Background(), filepath.Join(dir, "Data.fs"), filestorage.Options{BlobDir: filepath.Join(dir, "blobs")})
	if err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	cfg := zeoserver.Config{Storages: map[string]raidstorage.Storage{"1": s}, TempDir: temp, SendBufferBytes: 1 << 20}
	srv := serve(t, cfg)
	c := srv.connect(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	c.tpcBegin(1)
	c.storeBlob(1, 1, 0, "record", big)
	c.storeBlob(1, 2, 0, "record", nil)
	c.must("vote", number(1))
	serial, _ := c.must("tpc_finish", number(1)).TID()
	if got := c.loadBlob(1, serial); !bytes.Equal(got, big) {
		t.Errorf("got %d bytes, want %d", len(got), len(big))
	}
	if got := c.loadBlob(2, serial); len(got) != 0 {
		t.Errorf("got %d bytes of an empty blob", len(got))
	}
	e := c.fails(zeowire.ClassPOSKey, "sendBlob", oid(1), tid(serial+1))
	if items, _ := e.Args.Items(); len(items) != 3 {
		t.Errorf("a missing blob: %v", e)
	}
	// An aborted one, one that was not completed, and one without a transaction.
	c.tpcBegin(2)
	c.storeBlob(2, 3, 0, "record", big)
	c.must("tpc_abort", number(2))
	c.queue("storeBlobStart")
	c.queue("storeBlobChunk", data("x"))
	c.queue("storeBlobEnd", oid(1), tid(0), data("x"), number(9))
	c.flush()
	c.closed()
	srv.until(t, "no connection", func(st zeoserver.Status) bool { return st.Connections == 0 })
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestAResolvedConflictKeepsTheBlob(t *testing.T) {
	t.Parallel()
	srv := serve(t, zeoserver.Config{ClientConflictResolution: true})
	c := srv.connect(t)
	first := c.commit(write{1, 0, "a"})
	second := c.commit(write{1, first, "b"})
	c.tpcBegin(1)
	c.storeBlob(1, 1, first, "mine", []byte("the blob"))
	if items, _ := c.must("vote", number(1)).Items(); len(items) != 1 {
		t.Fatalf("%d conflicts", len(items))
	}
	c.queue("storea", oid(1), tid(second), data("resolved"), number(1))
	c.must("vote", number(1))
	third, _ := c.must("tpc_finish", number(1)).TID()
	if got := c.loadBlob(1, third); string(got) != "the blob" {
		t.Errorf("got %q", got)
	}
	if got, _, _ := c.load(1, raidstorage.MaxTID); got != "resolved" {
		t.Errorf("got %q", got)
	}
}

func TestABlobIsSentWhileOthersAreServed(t *testing.T) {
	t.Parallel()
	s := memstorage.New("mem")
	srv := serve(t, zeoserver.Config{Storages: map[string]raidstorage.Storage{"1": s}, SendBufferBytes: 1 << 20})
	c := srv.connect(t)
	c.tpcBegin(1)
	c.storeBlob(1, 1, 0, "record", make([]byte, 32<<20))
	c.must("vote", number(1))
	serial, _ := c.must("tpc_finish", number(1)).TID()
	id := c.begin("sendBlob", oid(1), tid(serial))
	ping := c.begin("ping")
	parts := 0
	for {
		m := c.message()
		if m.ID == ping && m.IsReply() {
			break
		}
		if m.ID == id && m.IsReply() {
			t.Fatal("the whole blob came first")
		}
		parts++
	}
	for {
		if m := c.message(); m.ID == id && m.IsReply() {
			break
		}
	}
}
