package pickleref

import "github.com/zeoraid/raidstorage"

// Scanner is References for many records: it keeps its memory from one to the next.
// The zero value is ready. It must not be copied after the first use, and is for one
// goroutine at a time.
type Scanner struct{ m machine }

// maxKept bounds what a Scanner keeps in each of its slices, so that one hostile
// record does not cost memory for ever.
const maxKept = 1 << 14

// References is the package's References.
func (s *Scanner) References(dst []raidstorage.OID, record []byte) ([]raidstorage.OID, error) {
	m := &s.m
	m.pos, m.memoLen = 0, 0
	if m.stack == nil || cap(m.stack) > maxKept || cap(m.marks) > maxKept || cap(m.memo) > maxKept ||
		cap(m.nodes) > maxKept || cap(m.scratch) > maxKept {
		if err := m.init(record); err != nil {
			return dst, err
		}
		m.scratch = nil
	} else if err := m.reuse(record); err != nil {
		return dst, err
	}
	m.refs = dst
	defer func() { m.record, m.refs = nil, nil }()
	for range 2 { // class and state
		if _, err := m.run(); err != nil {
			return m.refs, err
		}
	}
	return m.refs, nil
}
