package zeowire_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// wantError fails the test unless err is an E.
func wantError[E error](t testing.TB, err error) E {
	t.Helper()
	e, ok := errors.AsType[E](err)
	if !ok {
		t.Fatalf("%T (%v), want %T", err, err, e)
	}
	return e
}

func TestFramesArriveInPiecesAndInOne(t *testing.T) {
	t.Parallel()
	bodies := [][]byte{[]byte("Z5"), {}, bytes.Repeat([]byte("x"), 3<<20), []byte("y"), bytes.Repeat([]byte("z"), 70000)}
	var w zeowire.Writer
	for _, body := range bodies {
		if err := w.Raw(body); err != nil {
			t.Fatal(err)
		}
	}
	for name, r := range map[string]io.Reader{
		"all at once": bytes.NewReader(w.Bytes()), "byte by byte": iotest.OneByteReader(bytes.NewReader(w.Bytes())),
	} {
		f := zeowire.NewFrameReader(r, 0)
		for _, want := range bodies {
			got, err := f.Next()
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(want))
			}
		}
		if _, err := f.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v at the end", name, err)
		}
	}
}

func TestKeptFramesAreNotOverwritten(t *testing.T) {
	t.Parallel()
	f := zeowire.NewFrameReader(bytes.NewReader([]byte("\x00\x00\x00\x02ab\x00\x00\x00\x02cd")), 0)
	first, err := f.Next()
	if err != nil {
		t.Fatal(err)
	}
	f.Keep()
	second, err := f.Next()
	if string(first) != "ab" || string(second) != "cd" || err != nil {
		t.Errorf("%q, %q, %v", first, second, err)
	}
}

func TestAFrameThatIsCutOffIsNoEndOfTheStream(t *testing.T) {
	t.Parallel()
	whole := []byte("\x00\x00\x00\x03abc")
	for n := 1; n < len(whole); n++ {
		if _, err := zeowire.NewFrameReader(bytes.NewReader(whole[:n]), 0).Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func TestALongFrameIsRefusedBeforeItCostsAnything(t *testing.T) {
	t.Parallel()
	header := []byte("\x40\x00\x00\x00") // 1 GiB
	f := zeowire.NewFrameReader(bytes.NewReader(header), 1<<20)
	_, err := f.Next()
	if e := wantError[*zeowire.FrameError](t, err); e.Length != 1<<30 || e.Limit != 1<<20 {
		t.Errorf("%+v", e)
	}
}

// TestMemoryGrowsWithWhatArrives is not parallel: it counts the memory of all.
func TestMemoryGrowsWithWhatArrives(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f := zeowire.NewFrameReader(bytes.NewReader(append([]byte("\x40\x00\x00\x00"), make([]byte, 100<<10)...)), 0)
	if _, err := f.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes allocated for a frame of which 100 KiB came", n)
	}
}

func TestHandshakes(t *testing.T) {
	t.Parallel()
	const refused = zeowire.Encoding(0)
	tests := []struct {
		body         string
		announcement zeowire.Encoding // as a client takes it
		answer       zeowire.Encoding // as a server takes it
	}{
		{"Z5", zeowire.Pickle, zeowire.Pickle},
		{"M5", zeowire.Msgpack, zeowire.Msgpack},
		{"Z6", zeowire.Pickle, refused}, // the client's answer is Z5
		{"M50", zeowire.Msgpack, refused},
		{"Z4", refused, refused}, {"Z309", refused, refused}, {"X5", refused, refused}, {"z5", refused, refused},
		{"", refused, refused}, {"Z", refused, refused}, {"5", refused, refused}, {"GET / HTTP/1.1", refused, refused},
		{"ruok ", refused, refused}, {"Z5\n", zeowire.Pickle, refused},
		{"Z5" + string(make([]byte, 100)), refused, refused},
	}
	for _, test := range tests {
		enc, err := zeowire.ParseAnnouncement([]byte(test.body))
		if enc != test.announcement {
			t.Errorf("announcement %q: %v, %v", test.body, enc, err)
		}
		if err != nil {
			wantError[*zeowire.HandshakeError](t, err)
		}
		answer, err := zeowire.ParseAnswer([]byte(test.body))
		if answer.Encoding != test.answer || answer.RUOK {
			t.Errorf("answer %q: %v, %v", test.body, answer, err)
		}
		if err != nil {
			wantError[*zeowire.HandshakeError](t, err)
		}
	}
	if a, err := zeowire.ParseAnswer(zeowire.RUOK()); !a.RUOK || err != nil {
		t.Errorf("ruok: %v, %v", a, err)
	}
	for _, enc := range encodings() {
		a, err := zeowire.ParseAnswer(enc.Handshake())
		if a.Encoding != enc || err != nil {
			t.Errorf("%s: %v, %v", enc.Handshake(), a, err)
		}
	}
}

func TestABufferedFrameIsAWholeOne(t *testing.T) {
	t.Parallel()
	var w zeowire.Writer
	w.Raw([]byte("abc"))
	w.Raw(nil)
	stream := w.Take()
	for n := range len(stream) + 1 {
		in := bufio.NewReaderSize(bytes.NewReader(stream[:n]), 16)
		in.Peek(1) // has it read what there is
		if got, want := zeowire.FrameBuffered(in), n >= 7; got != want {
			t.Errorf("of %d bytes: %v, want %v", n, got, want)
		}
		if n < len(stream) {
			continue
		}
		in.Discard(7)
		if !zeowire.FrameBuffered(in) {
			t.Error("the empty frame is not seen")
		}
		in.Discard(4)
		if zeowire.FrameBuffered(in) {
			t.Error("a frame is seen where there is nothing")
		}
	}
	long := append([]byte{0, 0, 1, 0}, make([]byte, 256)...)
	in := bufio.NewReaderSize(bytes.NewReader(long), 16)
	in.Peek(16)
	if zeowire.FrameBuffered(in) {
		t.Error("a frame that is longer than the buffer is seen as a whole one")
	}
}
