package zeowire_test

import (
	"bytes"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

const (
	oid  raidstorage.OID = 1
	tid  raidstorage.TID = 0x03fb7b0000000000
	tid2 raidstorage.TID = 0x03fb7b01000000ff
	txn                  = 140234567890123
)

func encodings() []zeowire.Encoding { return []zeowire.Encoding{zeowire.Pickle, zeowire.Msgpack} }

// hot is a message that has a method of its own: it must be written as the general
// form is.
type hot struct {
	name  string
	write func(w *zeowire.Writer) error
	same  zeowire.Message
}

func hots(data []byte, oids []raidstorage.OID) []hot {
	id := zeowire.LoadID(oid, raidstorage.MaxTID)
	var list []zeowire.Value
	for _, oid := range oids {
		list = append(list, zeowire.OID(oid))
	}
	load := zeowire.Tuple(zeowire.Bytes(data), zeowire.TID(tid), zeowire.None())
	old := zeowire.Tuple(zeowire.Bytes(data), zeowire.TID(tid), zeowire.TID(tid2))
	return []hot{
		{"loadBefore", func(w *zeowire.Writer) error { return w.LoadBefore(id, oid, raidstorage.MaxTID) },
			zeowire.Call(id, zeowire.LoadBefore, zeowire.OID(oid), zeowire.TID(raidstorage.MaxTID))},
		{"loadBefore numbered", func(w *zeowire.Writer) error { return w.LoadBefore(zeowire.IntID(70000), oid, tid) },
			zeowire.Call(zeowire.IntID(70000), zeowire.LoadBefore, zeowire.OID(oid), zeowire.TID(tid))},
		{"reply", func(w *zeowire.Writer) error { return w.LoadReply(id, data, tid, 0) }, zeowire.ValueReply(id, load)},
		{"old reply", func(w *zeowire.Writer) error { return w.LoadReply(id, data, tid, tid2) }, zeowire.ValueReply(id, old)},
		{"storea", func(w *zeowire.Writer) error { return w.StoreA(oid, tid, data, txn) },
			zeowire.AsyncCall(zeowire.StoreA, zeowire.OID(oid), zeowire.TID(tid), zeowire.Bytes(data), zeowire.Int(txn))},
		{"invalidateTransaction", func(w *zeowire.Writer) error { return w.InvalidateTransaction(tid, oids) },
			zeowire.AsyncCall(zeowire.InvalidateTransaction, zeowire.TID(tid), zeowire.List(list...))},
	}
}

func TestHotMessagesAreWrittenAsAllOthers(t *testing.T) {
	t.Parallel()
	for _, enc := range encodings() {
		for _, n := range []int{0, 1, 2, 15, 16, 255, 256, 1000, 1001, 65535, 65536} {
			for _, h := range hots(make([]byte, n), make([]raidstorage.OID, n)) {
				got, want := zeowire.Writer{Encoding: enc}, zeowire.Writer{Encoding: enc}
				if err := h.write(&got); err != nil {
					t.Fatal(err)
				}
				if err := want.Message(h.same); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got.Bytes(), want.Bytes()) {
					t.Errorf("%s of %d, %v:\n%.200q, want\n%.200q", h.name, n, enc, got.Bytes(), want.Bytes())
				}
			}
		}
	}
}

func TestHotMessagesAllocateNothing(t *testing.T) {
	for _, enc := range encodings() { // not parallel: AllocsPerRun counts those of all goroutines
		w := zeowire.Writer{Encoding: enc}
		for _, h := range hots(make([]byte, 1500), make([]raidstorage.OID, 1500)) {
			if n := testing.AllocsPerRun(100, func() {
				w.Reset()
				if err := h.write(&w); err != nil {
					t.Error(err)
				}
			}); n != 0 {
				t.Errorf("%s, %v: %v allocations", h.name, enc, n)
			}
		}
	}
}

func TestAWriterKeepsEarlierFramesWhenAMessageCannotBeWritten(t *testing.T) {
	t.Parallel()
	w := zeowire.Writer{Encoding: zeowire.Msgpack}
	if err := w.Message(zeowire.KeepAlive()); err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(w.Bytes())
	err := w.Message(zeowire.Call(zeowire.IntID(1), zeowire.UndoInfo, zeowire.Prefix("/a")))
	wantError[*zeowire.EncodeError](t, err)
	deep := zeowire.None()
	for range 2000 {
		deep = zeowire.List(deep)
	}
	for _, enc := range encodings() {
		w.Encoding = enc
		wantError[*zeowire.EncodeError](t, w.Message(zeowire.ValueReply(zeowire.IntID(1), deep)))
	}
	w.Encoding = 0
	wantError[*zeowire.EncodeError](t, w.Message(zeowire.KeepAlive()))
	wantError[*zeowire.EncodeError](t, w.StoreA(oid, tid, nil, txn))
	if !bytes.Equal(w.Bytes(), before) {
		t.Errorf("%q, want %q", w.Bytes(), before)
	}
	if taken := w.Take(); !bytes.Equal(taken, before) || w.Len() != 0 {
		t.Errorf("took %q, %d are left", taken, w.Len())
	}
}

// BenchmarkWrite shows that the hot messages allocate nothing.
func BenchmarkWrite(b *testing.B) {
	for _, enc := range encodings() {
		w := zeowire.Writer{Encoding: enc}
		for _, h := range hots(make([]byte, 300), make([]raidstorage.OID, 20)) {
			b.Run(enc.String()+"/"+h.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					w.Reset()
					if err := h.write(&w); err != nil {
						b.Fatal(err)
					}
				}
				b.SetBytes(int64(w.Len()))
			})
		}
	}
}

// BenchmarkDecode shows what the same messages cost the one who gets them.
func BenchmarkDecode(b *testing.B) {
	for _, enc := range encodings() {
		d := zeowire.Decoder{Encoding: enc}
		for _, h := range hots(make([]byte, 300), make([]raidstorage.OID, 20)) {
			w := zeowire.Writer{Encoding: enc}
			if err := h.write(&w); err != nil {
				b.Fatal(err)
			}
			b.Run(enc.String()+"/"+h.name, func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(w.Len()))
				for b.Loop() {
					if _, err := d.Message(w.Bytes()[4:]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
