package filestorage

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"github.com/zeoraid/raidstorage"
)

// mendNote is what a record held and what it is to hold. Its file is readable for
// people: a few lines, an empty one, the damaged bytes, the good bytes, and a SHA-256 of
// all that.
type mendNote struct {
	oid     raidstorage.OID
	tid     raidstorage.TID
	offset  int64 // of the record
	damaged []byte
	good    []byte
}

const (
	noteFormat = "A damaged record of a FileStorage. Its data of then and the data of now follow.\n" +
		"oid %016x\ntid %016x\noffset %d\nlength %d\nthen SHA-256 %x\nnow SHA-256 %x\n\n"
	noteHeadMax = 1 << 10
)

func (n *mendNote) data() int64 { return n.offset + recordHeaderLen }

// span returns where the bytes that differ begin and end.
func (n *mendNote) span() (first, last int) {
	for n.damaged[first] == n.good[first] {
		first++
	}
	last = len(n.good)
	for n.damaged[last-1] == n.good[last-1] {
		last--
	}
	return first, last
}

func (n *mendNote) head() string {
	return fmt.Sprintf(noteFormat, uint64(n.oid), uint64(n.tid), n.offset, len(n.good), sha256.Sum256(n.damaged), sha256.Sum256(n.good))
}

func (n *mendNote) bytes() []byte {
	b := append([]byte(n.head()), n.damaged...)
	b = append(b, n.good...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// parseNote reads what bytes wrote. It returns false unless all of it is there.
func parseNote(b []byte) (*mendNote, bool) {
	if len(b) < sha256.Size {
		return nil, false
	}
	all, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if want := sha256.Sum256(all); !bytes.Equal(sum, want[:]) {
		return nil, false
	}
	end := bytes.Index(all[:min(len(all), noteHeadMax)], []byte("\n\n"))
	if end < 0 {
		return nil, false
	}
	head, rest := all[:end+2], all[end+2:]
	var oid, tid uint64
	var length int
	var then, now []byte
	n := &mendNote{}
	if _, err := fmt.Sscanf(string(head), noteFormat, &oid, &tid, &n.offset, &length, &then, &now); err != nil {
		return nil, false
	}
	if length < 1 || len(rest)%2 != 0 || len(rest)/2 != length {
		return nil, false
	}
	n.oid, n.tid = raidstorage.OID(oid), raidstorage.TID(tid)
	n.damaged, n.good = rest[:length], rest[length:]
	return n, n.head() == string(head)
}
