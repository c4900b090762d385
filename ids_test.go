package raidstorage_test

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/zeoraid/raidstorage"
)

// The raw forms are those of Python: persistent.TimeStamp(*args).raw().hex().
func TestTIDsEncodeTimesAsPythonDoes(t *testing.T) {
	t.Parallel()
	for raw, at := range map[string]time.Time{
		"0000000000000000": time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC),
		"023c2b0000000000": time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC),
		"040d3d2affffffb8": time.Date(2026, 11, 24, 21, 30, 59, 999_999_000, time.UTC),
		"0332b37f82222222": time.Date(2000, 2, 29, 23, 59, 30, 500_000_000, time.UTC),
		"03fdba7ffbbbbbbb": time.Date(2024, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		if got := raidstorage.TIDFromTime(at).String(); got != raw {
			t.Errorf("TIDFromTime(%v) = %s, want %s", at, got, raw)
		}
		tid, err := raidstorage.ParseTID(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := tid.Time(); got.Sub(at).Abs() > 14*time.Nanosecond {
			t.Errorf("%s.Time() = %v, want %v", raw, got, at)
		}
	}
}

func TestTIDTimeRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		month := rapid.IntRange(0, 12*200-1).Draw(t, "month")
		minute := rapid.IntRange(0, 28*24*60-1).Draw(t, "minute") // a day that every month has
		tid := raidstorage.TID(month*31*24*60+minute)<<32 | raidstorage.TID(rapid.Uint32().Draw(t, "fraction"))
		if got := raidstorage.TIDFromTime(tid.Time()); got != tid {
			t.Fatalf("%v.Time() = %v, whose tid is %v", tid, tid.Time(), got)
		}
	})
}

func TestNextTIDAlwaysRises(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	last := raidstorage.TIDFromTime(now)
	for _, at := range []time.Time{now, now.Add(-time.Hour), now.Add(time.Hour), time.Time{}, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if got := raidstorage.NextTID(at, last); got <= last {
			t.Errorf("NextTID(%v, %v) = %v", at, last, got)
		}
	}
}

func TestIDsRefuseWrongForms(t *testing.T) {
	t.Parallel()
	for what, call := range map[string]func() error{
		"short oid":   func() error { _, err := raidstorage.OIDFromBytes([]byte{1}); return err },
		"long tid":    func() error { _, err := raidstorage.TIDFromBytes(make([]byte, 9)); return err },
		"no hex":      func() error { _, err := raidstorage.ParseOID("xyz"); return err },
		"empty tid":   func() error { _, err := raidstorage.ParseTID(""); return err },
		"17 hex tid":  func() error { _, err := raidstorage.ParseTID("10000000000000000"); return err },
		"negative id": func() error { _, err := raidstorage.ParseOID("-1"); return err },
	} {
		if _, ok := errors.AsType[*raidstorage.InvalidError](call()); !ok {
			t.Errorf("%s: got %v, want *InvalidError", what, call())
		}
	}
	oid, err := raidstorage.OIDFromBytes([]byte{0, 0, 0, 0, 0, 0, 1, 2})
	if err != nil || oid != 0x102 || oid.Bytes() != [8]byte{6: 1, 7: 2} || oid.String() != "0000000000000102" {
		t.Errorf("oid 0x102 came back as %v, %v", oid, err)
	}
}
