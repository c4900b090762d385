package raidstorage

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"time"
)

// OID identifies an object: 8 bytes, big-endian in files and on the wire. The
// root object of a database is 0.
type OID uint64

// TID identifies a transaction and, as the serial of an object revision, the
// transaction that wrote it. It is a UTC time: the high 4 bytes count minutes
// since 1900 (with months of 31 days and years of 12 such months), the low 4
// bytes the fraction of the minute in units of 60/2^32 s, as persistent.TimeStamp
// has it. 0 is before every transaction.
type TID uint64

// MaxTID is later than every transaction; LoadBefore(oid, MaxTID) loads the
// current revision, as ZODB's maxtid does.
const MaxTID TID = 1<<63 - 1

// String returns the 16 hex digits that all logs and tools show.
func (o OID) String() string { return hex16(uint64(o)) }

// Bytes returns the big-endian form, as files and the wire have it.
func (o OID) Bytes() [8]byte { return bigEndian(uint64(o)) }

// OIDFromBytes returns the oid whose big-endian form is b. A wrong length is an
// *InvalidError.
func OIDFromBytes(b []byte) (OID, error) {
	v, err := fromBigEndian("oid", b)
	return OID(v), err
}

// ParseOID reads what OID.String wrote, with or without leading zeros.
func ParseOID(s string) (OID, error) {
	v, err := parseHex("oid", s)
	return OID(v), err
}

// String returns the 16 hex digits that all logs and tools show.
func (t TID) String() string { return hex16(uint64(t)) }

// Bytes returns the big-endian form, as files and the wire have it.
func (t TID) Bytes() [8]byte { return bigEndian(uint64(t)) }

// TIDFromBytes returns the tid whose big-endian form is b. A wrong length is an
// *InvalidError.
func TIDFromBytes(b []byte) (TID, error) {
	v, err := fromBigEndian("tid", b)
	return TID(v), err
}

// ParseTID reads what TID.String wrote, with or without leading zeros.
func ParseTID(s string) (TID, error) {
	v, err := parseHex("tid", s)
	return TID(v), err
}

const minute = uint64(time.Minute)

// TIDFromTime returns the tid of t's moment, rounded down to 60/2^32 s (14 ns).
// Times before 1900 give 0, times after the year 5000 or so MaxTID.
func TIDFromTime(t time.Time) TID {
	t = t.UTC()
	year := t.Year() - 1900
	if year < 0 {
		return 0
	}
	minutes := uint64((((year*12+int(t.Month())-1)*31+t.Day()-1)*24+t.Hour())*60 + t.Minute())
	if minutes >= 1<<31 {
		return MaxTID
	}
	nanos := uint64(t.Second())*uint64(time.Second) + uint64(t.Nanosecond())
	// nanos < 1 minute, so the quotient of the 96-bit numerator fits in 32 bits.
	fraction, _ := bits.Div64(nanos>>32, nanos<<32, minute)
	return TID(minutes<<32 | fraction)
}

// Time returns the moment that t encodes, in UTC, to the nearest nanosecond
// that converts back to the same tid.
func (t TID) Time() time.Time {
	m := int(t >> 32)
	year, m := m/(12*31*24*60)+1900, m%(12*31*24*60)
	month, m := m/(31*24*60)+1, m%(31*24*60)
	day, m := m/(24*60)+1, m%(24*60)
	hi, lo := bits.Mul64(uint64(t&0xffffffff), minute)
	nanos := hi<<32 | lo>>32
	if lo&0xffffffff != 0 {
		nanos++ // round up, so that TIDFromTime, which rounds down, returns t
	}
	return time.Date(year, time.Month(month), day, m/60, m%60, 0, int(nanos), time.UTC)
}

// NextTID returns a tid for a transaction that starts at now: later than last,
// whatever the clock says, as ZODB's newTid does.
func NextTID(now time.Time, last TID) TID {
	return max(TIDFromTime(now), last+1)
}

func hex16(v uint64) string { return fmt.Sprintf("%016x", v) }

func bigEndian(v uint64) (b [8]byte) {
	binary.BigEndian.PutUint64(b[:], v)
	return b
}

func fromBigEndian(what string, b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, &InvalidError{Op: "read " + what, Reason: fmt.Sprintf("%d bytes instead of 8", len(b))}
	}
	return binary.BigEndian.Uint64(b), nil
}

func parseHex(what, s string) (uint64, error) {
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		return 0, &InvalidError{Op: "parse " + what, Reason: fmt.Sprintf("%q is not a 64-bit hex number", s)}
	}
	return v, nil
}
