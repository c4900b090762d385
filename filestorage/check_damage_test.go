package filestorage_test

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"slices"
	"testing"

	"github.com/zeoraid/raidstorage/filestorage"
)

// testdata/tree.fs is a database of persistent mappings, written by Python:
//
//	python testdata/check.py make testdata/tree.fs
//
// and damage is done to it here. Of its transactions, counted from 1, number 4 undoes
// 3 with a back pointer, 6 is empty, 7 creates an object and 8 undoes that.

// places are where the parts of a FileStorage begin.
type places struct {
	txn     []int   // of each transaction, [0] unused; at last the end of the file
	records [][]int // of each transaction
}

func placesOf(b []byte) (p places) {
	p.txn, p.records = []int{0}, [][]int{nil}
	for pos := 4; pos < len(b); {
		length := int(binary.BigEndian.Uint64(b[pos+8:]))
		at := pos + 23
		for i := 17; i < 23; i += 2 {
			at += int(binary.BigEndian.Uint16(b[pos+i:]))
		}
		var records []int
		for at < pos+length {
			records = append(records, at)
			size := int(binary.BigEndian.Uint64(b[at+34:]))
			if size == 0 {
				size = 8
			}
			at += 42 + size
		}
		p.txn, p.records = append(p.txn, pos), append(p.records, records)
		pos += length + 8
	}
	p.txn = append(p.txn, len(b))
	return p
}

// Offsets of fields.
const (
	inTxnLength = 8
	inTxnStatus = 16
	inTxnUser   = 17
	inTxnDesc   = 19
	inRecTID    = 8
	inRecPrev   = 16
	inRecTxn    = 24
	inRecVer    = 32
	inRecSize   = 34
	inRecData   = 42
)

// damage is a way to damage tree.fs and what is to be said of it.
type damage struct {
	name  string
	kinds []string // all of these must be found
	do    func(b []byte, p places) []byte
	index func(t testing.TB, b []byte, p places) []byte // nil: no index file
	hit   []int                                         // the transactions that may be lost or changed
	none  bool                                          // nothing can be recovered
}

func (d damage) place(t testing.TB) string {
	t.Helper()
	b := golden(t, "tree.fs")
	p := placesOf(b)
	path := filepath.Join(t.TempDir(), "Data.fs")
	if d.index != nil {
		write(t, path+".index", d.index(t, bytes.Clone(b), p))
	}
	if d.do != nil {
		b = d.do(b, p)
	}
	write(t, path, b)
	return path
}

func put64(b []byte, at int, v uint64) []byte {
	binary.BigEndian.PutUint64(b[at:], v)
	return b
}

// in changes the bytes at some offset of transaction n, or of a record of it.
func inTxn(n, at int, change func(field []byte)) func([]byte, places) []byte {
	return func(b []byte, p places) []byte { change(b[p.txn[n]+at:]); return b }
}

func inRec(n, i, at int, change func(field []byte)) func([]byte, places) []byte {
	return func(b []byte, p places) []byte { change(b[p.records[n][i]+at:]); return b }
}

func flip(i int, mask byte) func([]byte) { return func(b []byte) { b[i] ^= mask } }
func zero(n int) func([]byte)            { return func(b []byte) { clear(b[:n]) } }

func cutAt(n, at int) func([]byte, places) []byte {
	return func(b []byte, p places) []byte { return b[:p.txn[n]+at] }
}

func from(n int) (all []int) {
	for ; n <= 15; n++ {
		all = append(all, n)
	}
	return all
}

func damages() []damage {
	return slices.Concat(fileDamages(), txnDamages(), recordDamages(), indexDamages())
}

func fileDamages() []damage {
	return []damage{
		{name: "magic", kinds: []string{"magic"}, do: func(b []byte, _ places) []byte { b[3] ^= 1; return b }},
		{name: "empty file", kinds: []string{"magic"}, none: true, do: func(b []byte, _ places) []byte { return b[:0] }},
		{name: "another file", kinds: []string{"magic"}, none: true, do: func([]byte, places) []byte { return bytes.Repeat([]byte("text "), 1000) }},
		{name: "cut in a header", kinds: []string{"truncated"}, do: cutAt(15, 10), hit: from(15)},
		{name: "cut in a record", kinds: []string{"truncated"}, do: cutAt(15, 100), hit: from(15)},
		{name: "cut in the last length", kinds: []string{"truncated"}, do: cutAt(16, -3), hit: from(15)},
		{name: "cut far before the end", kinds: []string{"truncated"}, do: cutAt(10, 50), hit: from(10)},
		{name: "garbage at the end", kinds: []string{"truncated"}, do: func(b []byte, _ places) []byte { return append(b, bytes.Repeat([]byte("garbage "), 99)...) }},
		{name: "zeros at the end", kinds: []string{"truncated"}, do: func(b []byte, _ places) []byte { return append(b, make([]byte, 100_000)...) }},
		{name: "a few bytes at the end", kinds: []string{"truncated"}, do: func(b []byte, _ places) []byte { return append(b, 0, 1, 2) }},
		{name: "a sector of zeros over two transactions", kinds: []string{"length"}, hit: []int{10, 11}, do: func(b []byte, p places) []byte {
			clear(b[p.txn[11]/512*512:][:512])
			return b
		}},
		{name: "a sector of other data", kinds: []string{"length"}, hit: []int{13, 14}, do: func(b []byte, p places) []byte {
			copy(b[p.txn[14]/512*512:][:512], bytes.Repeat([]byte("other data "), 50))
			return b
		}},
		{name: "two transactions of zeros", kinds: []string{"length"}, hit: []int{10, 11}, do: func(b []byte, p places) []byte { clear(b[p.txn[10]:p.txn[12]]); return b }},
		{name: "a transaction of blanks", kinds: []string{"length"}, hit: []int{10}, do: func(b []byte, p places) []byte {
			copy(b[p.txn[10]:p.txn[11]], bytes.Repeat([]byte(" "), 10_000))
			return b
		}},
		{name: "swapped transactions", kinds: []string{"tid", "record", "previous"}, hit: []int{10, 11}, do: func(b []byte, p places) []byte {
			return slices.Concat(b[:p.txn[10]], b[p.txn[11]:p.txn[12]], b[p.txn[10]:p.txn[11]], b[p.txn[12]:])
		}},
		{name: "a transaction twice", kinds: []string{"tid", "record", "previous"}, do: func(b []byte, p places) []byte {
			return slices.Concat(b[:p.txn[8]], b[p.txn[7]:p.txn[8]], b[p.txn[8]:])
		}},
		{name: "the last transaction twice", kinds: []string{"tid", "record"}, do: func(b []byte, p places) []byte { return append(b, b[p.txn[15]:]...) }},
		{name: "a transaction taken out", kinds: []string{"record", "previous"}, hit: []int{6}, do: func(b []byte, p places) []byte {
			return slices.Concat(b[:p.txn[6]], b[p.txn[7]:])
		}},
	}
}

func txnDamages() []damage {
	return []damage{
		{name: "tid much later", kinds: []string{"tid"}, do: inTxn(5, 0, flip(0, 4))},
		{name: "tid much later, of one record", kinds: []string{"tid"}, do: inTxn(4, 0, flip(1, 4))},
		{name: "tid earlier", kinds: []string{"tid"}, do: inTxn(9, 0, flip(3, 8))},
		{name: "tid earlier, of no record", kinds: []string{"tid"}, do: inTxn(6, 0, flip(2, 1)), hit: []int{6}},
		{name: "tid 0", kinds: []string{"tid"}, do: inTxn(7, 0, zero(8))},
		{name: "the tid of the one before", kinds: []string{"tid"}, hit: []int{6}, do: func(b []byte, p places) []byte {
			copy(b[p.txn[6]:][:8], b[p.txn[5]:])
			return b
		}},
		{name: "tid of the last much earlier", kinds: []string{"tid"}, do: inTxn(15, 0, flip(1, 0x10))},
		{name: "length too long", kinds: []string{"length"}, do: inTxn(5, inTxnLength, flip(6, 2))},
		{name: "length beyond the end", kinds: []string{"length"}, do: inTxn(9, inTxnLength, flip(1, 9))},
		{name: "length with the sign bit", kinds: []string{"length"}, do: inTxn(9, inTxnLength, flip(0, 0x80))},
		{name: "length 0", kinds: []string{"length"}, do: inTxn(10, inTxnLength, zero(8))},
		{name: "length to the end of the file", kinds: []string{"length"}, do: func(b []byte, p places) []byte {
			return put64(b, p.txn[3]+inTxnLength, uint64(len(b)-8-p.txn[3]))
		}},
		{name: "trailing length", kinds: []string{"length"}, do: inTxn(6, -1, flip(0, 1))},
		{name: "trailing length of an empty one", kinds: []string{"length"}, do: inTxn(7, -1, flip(0, 1))},
		{name: "trailing length of the last", kinds: []string{"length"}, do: inTxn(16, -1, flip(0, 1))},
		{name: "length of the last", kinds: []string{"length"}, do: inTxn(15, inTxnLength, flip(5, 1))},
		{name: "both lengths", kinds: []string{"length"}, hit: []int{11}, do: func(b []byte, p places) []byte {
			return put64(put64(b, p.txn[11]+inTxnLength, 1), p.txn[12]-8, 2)
		}},
		{name: "unknown status", kinds: []string{"status"}, do: inTxn(7, inTxnStatus, flip(0, 0x51))},
		{name: "status c among others", kinds: []string{"status"}, do: inTxn(7, inTxnStatus, func(b []byte) { b[0] = 'c' })},
		{name: "status c at the end", kinds: []string{"unfinished"}, hit: []int{15}, do: inTxn(15, inTxnStatus, func(b []byte) { b[0] = 'c' })},
		{name: "user longer", kinds: []string{"length"}, hit: []int{2}, do: inTxn(2, inTxnUser, flip(1, 8))},
		{name: "user shorter", kinds: []string{"length"}, hit: []int{2}, do: inTxn(2, inTxnUser, flip(1, 1))},
		{name: "description longer than all", kinds: []string{"length"}, hit: []int{3}, do: inTxn(3, inTxnDesc, flip(0, 0xf0))},
		{name: "a header of zeros", kinds: []string{"length"}, hit: []int{12}, do: inTxn(12, 0, zero(23))},
	}
}

func recordDamages() []damage {
	return []damage{
		{name: "oid of a changed object", kinds: []string{"previous"}, hit: []int{3}, do: inRec(3, 0, 0, flip(7, 0x40))},
		{name: "oid of a new object", kinds: []string{"dangling"}, hit: []int{10}, do: inRec(10, 2, 0, flip(6, 0x10))},
		{name: "tid of a record", kinds: []string{"tid"}, do: inRec(9, 1, inRecTID, flip(7, 1))},
		{name: "tid of the only record", kinds: []string{"tid"}, do: inRec(4, 0, inRecTID, flip(7, 1))},
		{name: "previous record elsewhere", kinds: []string{"previous"}, do: inRec(10, 0, inRecPrev, flip(7, 1))},
		{name: "previous record that of another object", kinds: []string{"previous"}, do: func(b []byte, p places) []byte {
			return put64(b, p.records[10][0]+inRecPrev, uint64(p.records[9][1]))
		}},
		{name: "previous record ahead", kinds: []string{"previous"}, do: inRec(10, 1, inRecPrev, flip(2, 1))},
		{name: "previous record 0", kinds: []string{"previous"}, do: inRec(10, 1, inRecPrev, zero(8))},
		{name: "an older previous record", kinds: []string{"previous"}, do: func(b []byte, p places) []byte {
			return put64(b, p.records[12][0]+inRecPrev, uint64(p.records[10][0]))
		}},
		{name: "transaction of a record", kinds: []string{"record"}, do: inRec(12, 1, inRecTxn, flip(7, 1))},
		{name: "version", kinds: []string{"record"}, do: inRec(12, 0, inRecVer, flip(1, 1))},
		{name: "data longer by a byte", kinds: []string{"length"}, do: inRec(12, 1, inRecSize, func(b []byte) { b[7]++ })},
		{name: "data shorter by a byte", kinds: []string{"length"}, do: inRec(12, 1, inRecSize, func(b []byte) { b[7]-- })},
		{name: "data longer than the record after", kinds: []string{"length"}, do: inRec(12, 0, inRecSize, flip(6, 2))},
		{name: "data longer than the transaction", kinds: []string{"length"}, do: inRec(12, 2, inRecSize, flip(3, 2))},
		{name: "no data, by the length", kinds: []string{"length"}, do: inRec(3, 0, inRecSize, zero(8))},
		{name: "no data, by the length of the last", kinds: []string{"length"}, do: inRec(15, 2, inRecSize, zero(8))},
		{name: "record header of zeros", kinds: []string{"record"}, hit: []int{13}, do: inRec(13, 1, 0, zero(42))},
		{name: "first record header of zeros", kinds: []string{"length"}, hit: []int{13}, do: inRec(13, 0, 0, zero(42))},
		{name: "back pointer to another object", kinds: []string{"back"}, hit: []int{4}, do: func(b []byte, p places) []byte {
			return put64(b, p.records[4][0]+inRecData, uint64(p.records[2][0]))
		}},
		{name: "back pointer ahead", kinds: []string{"back"}, hit: []int{4}, do: inRec(4, 0, inRecData, flip(2, 1))},
		{name: "back pointer into a record", kinds: []string{"back"}, hit: []int{4}, do: inRec(4, 0, inRecData, flip(7, 8))},
		{name: "back pointer 0", kinds: []string{"dangling"}, hit: []int{4}, do: inRec(4, 0, inRecData, zero(8))},
		{name: "back pointer to what is damaged", kinds: []string{"back", "record"}, hit: []int{2, 4}, do: inRec(2, 2, 0, zero(42))},
		{name: "pickle of zeros", kinds: []string{"pickle"}, hit: []int{10}, do: inRec(10, 1, inRecData, zero(16))},
		{name: "pickle of an old revision", kinds: []string{"pickle"}, hit: []int{9}, do: inRec(9, 2, inRecData, flip(0, 0x7f))},
		{name: "pickle without an end", kinds: []string{"pickle"}, hit: []int{15}, do: func(b []byte, _ places) []byte {
			b[len(b)-9] = 'x' // was STOP
			return b
		}},
		{name: "reference to nothing", kinds: []string{"dangling"}, hit: []int{9}, do: func(b []byte, p places) []byte {
			record := b[p.records[9][0]:p.records[9][1]]
			record[bytes.LastIndex(record, []byte{0, 0, 0, 0, 0, 0, 0, 3})] = 0x77
			return b
		}},
		{name: "reference to what was undone", kinds: []string{"dangling"}, hit: []int{9}, do: func(b []byte, p places) []byte {
			record := b[p.records[9][0]:p.records[9][1]]
			record[bytes.LastIndex(record, []byte{0, 0, 0, 0, 0, 0, 0, 5})+7] = 4
			return b
		}},
	}
}

func indexDamages() []damage {
	changed := func(change func(entries map[uint64]int64, p places) (end int)) func(testing.TB, []byte, places) []byte {
		return func(t testing.TB, _ []byte, p places) []byte {
			b := golden(t, "tree.fs.index")
			entries, _, err := filestorage.ReadIndex(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := filestorage.WriteIndex(&out, entries, int64(change(entries, p))); err != nil {
				t.Fatal(err)
			}
			return out.Bytes()
		}
	}
	return []damage{
		{name: "index of another file", kinds: []string{"index"}, index: func(t testing.TB, _ []byte, _ places) []byte { return golden(t, "undone.fs.index") }},
		{name: "index of garbage", kinds: []string{"index"}, index: func(testing.TB, []byte, places) []byte { return []byte("garbage") }},
		{name: "index that is cut", kinds: []string{"index"}, index: func(t testing.TB, _ []byte, _ places) []byte { return golden(t, "tree.fs.index")[:60] }},
		{name: "index with an object elsewhere", kinds: []string{"index"}, index: changed(func(e map[uint64]int64, p places) int {
			e[2] = int64(p.records[12][0])
			return p.txn[16]
		})},
		{name: "index without an object", kinds: []string{"index"}, index: changed(func(e map[uint64]int64, p places) int { delete(e, 3); return p.txn[16] })},
		{name: "index with one more object", kinds: []string{"index"}, index: changed(func(e map[uint64]int64, p places) int {
			e[99] = int64(p.records[12][0])
			return p.txn[16]
		})},
		{name: "index of an earlier time that is not", kinds: []string{"index"}, index: changed(func(_ map[uint64]int64, p places) int { return p.txn[15] })},
		{name: "index that ends within a transaction", kinds: []string{"index"}, index: changed(func(_ map[uint64]int64, p places) int { return p.txn[16] - 5 })},
		{name: "index of a longer file", kinds: []string{"index"}, index: changed(func(_ map[uint64]int64, p places) int { return p.txn[16] + 100 })},
	}
}
