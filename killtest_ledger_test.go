package raidstorage_test

import (
	"fmt"
	"strings"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// joined ends the event of a backend that a recovery has brought back.
const joined = "-> in sync (recovered)"

// killLedger is what the children said, of all rounds. It judges each line: that is
// the promise of a mirror, told by someone who was not killed.
type killLedger struct {
	tried map[string]string          // content of the transactions that were about to be finished, by name
	acked map[raidstorage.TID]string // names of the acknowledged ones
	seen  map[raidstorage.TID]string // names of those that a log had
	named map[string]raidstorage.TID // the inverse of seen
	oids  map[raidstorage.OID]bool   // that NewOIDs gave out
	next  raidstorage.TID            // where the next child lists the log from
	last  raidstorage.TID            // the highest last tid that anybody was told
	kinds map[string]int             // acknowledged transactions by kind
	joins int                        // backends that came back into the mirror
}

func newKillLedger() *killLedger {
	return &killLedger{
		tried: make(map[string]string), acked: make(map[raidstorage.TID]string), seen: make(map[raidstorage.TID]string),
		named: make(map[string]raidstorage.TID), oids: make(map[raidstorage.OID]bool), kinds: make(map[string]int),
	}
}

// note takes one line; an error says which promise it breaks.
func (l *killLedger) note(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	fields := strings.Fields(rest)
	switch {
	case word == "event":
		if strings.HasSuffix(rest, joined) {
			l.joins++
		}
		return nil
	case word == "start":
		return nil
	case word == "oids" && len(fields) == 1:
		return l.noteOIDs(fields[0])
	case word == "try" && len(fields) == 2:
		if _, again := l.tried[fields[0]]; again {
			return fmt.Errorf("two transactions are named %s", fields[0])
		}
		l.tried[fields[0]] = fields[1]
		return nil
	case word == "fail" || len(fields) == 0:
		return fmt.Errorf("child: %s", line)
	}
	tid, err := raidstorage.ParseTID(fields[0])
	if err != nil {
		return fmt.Errorf("child: %q: %w", line, err)
	}
	switch {
	case word == "open" && len(fields) == 1:
		if tid < l.last {
			return fmt.Errorf("the mirror ends at %v after a restart; it had ended at %v", tid, l.last)
		}
		l.last = tid
	case word == "log" && len(fields) == 3:
		return l.noteLog(tid, fields[1], fields[2])
	case word == "ready" && len(fields) == 1:
		l.next = tid + 1
		return l.lost(tid)
	case word == "ack" && len(fields) == 2:
		return l.noteAck(tid, fields[1])
	default:
		return fmt.Errorf("child: %q", line)
	}
	return nil
}

func (l *killLedger) noteOIDs(list string) error {
	for s := range strings.SplitSeq(list, ",") {
		oid, err := raidstorage.ParseOID(s)
		if err != nil {
			return err
		}
		if l.oids[oid] || isKillCounter(oid) {
			return fmt.Errorf("oid %v was handed out twice, or is stored", oid)
		}
		l.oids[oid] = true
	}
	return nil
}

func (l *killLedger) noteAck(tid raidstorage.TID, name string) error {
	if _, ok := l.tried[name]; !ok {
		return fmt.Errorf("%s was acknowledged before it was tried", name)
	}
	if other, again := l.acked[tid]; again {
		return fmt.Errorf("%s and %s were acknowledged as %v", other, name, tid)
	}
	if other, again := l.seen[tid]; again {
		return fmt.Errorf("%s was acknowledged as %v, which was %s before", name, tid, other)
	}
	l.acked[tid] = name
	l.last = max(l.last, tid)
	l.kinds[name[strings.LastIndexByte(name, '/')+1:]]++
	return nil
}

// noteLog takes a transaction of the mirror's log: one of ours, whole.
func (l *killLedger) noteLog(tid raidstorage.TID, name, content string) error {
	tried, ok := l.tried[name]
	switch {
	case !ok:
		return fmt.Errorf("transaction %v, %s, is in the log and never voted", tid, name)
	case content != tried:
		return fmt.Errorf("transaction %v, %s, is in the log as\n%s and was committed as\n%s", tid, name, content, tried)
	}
	if acked, ok := l.acked[tid]; ok && acked != name {
		return fmt.Errorf("transaction %v is %s in the log; %s was acknowledged", tid, name, acked)
	}
	if other, again := l.named[name]; again {
		return fmt.Errorf("%s is in the log as %v and as %v", name, other, tid)
	}
	l.seen[tid], l.named[name] = name, tid
	l.next = tid + 1
	return nil
}

// lost looks for an acknowledged transaction up to last that the log does not have.
func (l *killLedger) lost(last raidstorage.TID) error {
	for tid, name := range l.acked {
		if _, ok := l.seen[tid]; !ok && tid <= last {
			return fmt.Errorf("transaction %v, %s, was acknowledged and is lost", tid, name)
		}
	}
	return nil
}

// judge compares the whole log with everything that was ever said: a transaction
// that a child showed is there, and writers lost no update of each other.
func (l *killLedger) judge(log []storagetest.LogTransaction) error {
	final := newKillLedger()
	final.tried, final.acked = l.tried, l.acked
	serials := make(map[raidstorage.OID]raidstorage.TID)
	counts := make(map[raidstorage.OID]int)
	for _, txn := range log {
		content := make(killContent)
		for _, r := range txn.Records {
			if r.Deleted {
				content[r.OID] = "-"
			} else {
				content[r.OID] = killDigest([]byte(r.Data))
			}
			read, count := parseKillHeader([]byte(r.Data))
			undo := strings.HasSuffix(txn.Description, "/undo")
			if !undo && !r.Deleted && (read != serials[r.OID] || count != counts[r.OID]+1) {
				return fmt.Errorf("transaction %v, %s: object %v was counted up to %d after reading %v; it was %d of %v before",
					txn.TID, txn.Description, r.OID, count, read, counts[r.OID], serials[r.OID])
			}
			serials[r.OID], counts[r.OID] = r.TID, count
		}
		if err := final.noteLog(txn.TID, txn.Description, content.String()); err != nil {
			return err
		}
	}
	for tid, name := range l.seen {
		if final.seen[tid] != name {
			return fmt.Errorf("transaction %v, %s, was in the log and is not any more", tid, name)
		}
	}
	return final.lost(raidstorage.MaxTID)
}
