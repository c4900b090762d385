package zeoserver

import (
	"slices"
	"sync"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// What clients see of transactions, and in which order.
//
// A client keeps what it has loaded in a cache, by what it was told: a revision
// without an end is current until an invalidation names its object. It is told of
// transactions in two ways, by invalidateTransaction, and of its own by the reply to
// tpc_finish. Both are a publication here. Invariants:
//
//  1. Publications are in tid order, the same on all connections. Votes get a ticket
//     while they hold the storage's commit lock, so tickets are in the order of the
//     tids; finishes of several clients overlap (they share a sync), but a ticket is
//     published only after those before it. A foreign transaction, of which the
//     storage notifies, is sorted in by the storage's last tid at each vote: while a
//     vote holds the commit lock nobody else commits. The notification may come after
//     the finish: what the storage had when a ticket was given is awaited, so far as
//     it has not been published, for a while.
//  2. Only finished transactions are published: the storage shows them already. So
//     what is loaded after a publication contains it.
//  3. A reply computed before a publication is not sent after it on the same
//     connection as if nothing had happened (rule R3). A load marks the number of
//     publications of its connection before it asks the storage; its reply is
//     appended to the outbox under the outbox's lock, which publications take too.
//     If one of those in between changed the object, then the revision gets that tid
//     as its end, when the reply is about the time before, else it is loaded again.
//  4. A connection takes part before register is answered, with the last published
//     tid, so that between that tid and its first invalidation there is no gap.
//
// The reverse may happen, a reply that shows a transaction before its publication:
// clients read at the last tid that they were told, so they take no notice.
//
// Lock order: order.mu, outbox.mu. Neither is held across anything that waits.

// ticket is the place of a transaction in the order.
type ticket struct {
	after     raidstorage.TID // last tid of the storage when it voted
	conn      *conn           // the committer, nil for a foreign one
	done      bool
	tid       raidstorage.TID // 0 if nothing was committed
	oids      []raidstorage.OID
	reply     func(w *zeowire.Writer) error // to the committer
	published chan struct{}                 // closed when t has left the order
	before    chan struct{}                 // published of the last one before it that may have to wait; nil: there was none
	late      *time.Timer                   // runs while it waits for a notification, else nil
	overdue   bool                          // it has waited long enough
}

// order publishes the transactions of one storage.
type order struct {
	onDisorder func(tid, last raidstorage.TID)
	notified   bool // the storage tells of foreign transactions

	mu      sync.Mutex // guards the fields below
	last    raidstorage.TID
	first   raidstorage.TID // last when the server started: what is notified of up to it is no news
	pending []*ticket       // voted, and foreign ones that come after these
	conns   map[*conn]bool
	queue   invalidationQueue
	scratch [2]zeowire.Writer
}

func newOrder(queueSize int) *order {
	o := &order{conns: make(map[*conn]bool), queue: newQueue(queueSize)}
	o.scratch[0].Encoding, o.scratch[1].Encoding = zeowire.Pickle, zeowire.Msgpack
	return o
}

// join has c take part, and answers its registration with the last published tid.
func (o *order) join(c *conn, k call) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.conns[c] = true
	k.reply(zeowire.TID(o.last))
}

func (o *order) leave(c *conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.conns, c)
}

func (o *order) connections() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.conns)
}

func (o *order) lastTID() raidstorage.TID {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last
}

// all returns the connections of now.
func (o *order) all() []*conn {
	o.mu.Lock()
	defer o.mu.Unlock()
	conns := make([]*conn, 0, len(o.conns))
	for c := range o.conns {
		conns = append(conns, c)
	}
	return conns
}

// voted gives the next ticket. The storage's commit lock is held, and after is the
// last tid under it.
func (o *order) voted(c *conn, after raidstorage.TID) *ticket {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := &ticket{after: after, conn: c, published: make(chan struct{})}
	for _, earlier := range o.pending {
		if earlier.published != nil { // else it is foreign, and goes with the one before it
			t.before = earlier.published
		}
	}
	o.pending = append(o.pending, t)
	return t
}

// finished publishes t, now or after those before it; reply is then appended to the
// committer's outbox, which the caller flushes when t is published. The oids may repeat and are the order's from now on.
func (o *order) finished(t *ticket, tid raidstorage.TID, oids []raidstorage.OID, reply func(*zeowire.Writer) error) {
	slices.Sort(oids)
	oids = slices.Compact(oids)
	o.mu.Lock()
	defer o.mu.Unlock()
	t.tid, t.oids, t.reply, t.done = tid, oids, reply, true
	o.publishReadyLocked()
}

// dropped gives t back: nothing was committed, or nobody knows.
func (o *order) dropped(t *ticket) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t.done = true
	o.publishReadyLocked()
}

// foreign publishes a transaction of another user of the storage.
func (o *order) foreign(inv raidstorage.Invalidation) {
	oids := slices.Clone(inv.OIDs)
	slices.Sort(oids)
	o.mu.Lock()
	defer o.mu.Unlock()
	if inv.TID <= o.first || o.queue.has(inv.TID) {
		return // it was read from the storage when the server started, or told already
	}
	at := 0
	for i, t := range o.pending {
		before := t.after < inv.TID
		if t.conn == nil {
			before = t.tid < inv.TID
		}
		if before {
			at = i + 1
		}
	}
	o.pending = slices.Insert(o.pending, at, &ticket{done: true, tid: inv.TID, oids: slices.Compact(oids)})
	o.publishReadyLocked()
}

func (o *order) publishReadyLocked() {
	for len(o.pending) > 0 && o.pending[0].done {
		t := o.pending[0]
		if o.awaitsLocked(t) {
			return
		}
		o.pending[0] = nil
		o.pending = o.pending[1:]
		if t.tid != 0 {
			o.publishLocked(t)
		}
		if t.published != nil {
			close(t.published)
		}
	}
	if len(o.pending) == 0 {
		o.pending = nil
	}
}

// lateNotification is how long a commit waits for the notification of an earlier one.
const lateNotification = 3 * time.Second

// awaitsLocked tells whether a foreign transaction before t is still to be notified
// of. A storage that reads it from its server's log tells of it a little later.
func (o *order) awaitsLocked(t *ticket) bool {
	if !o.notified || t.conn == nil || t.tid == 0 || t.after <= o.last || t.overdue {
		if t.late != nil {
			t.late.Stop()
		}
		return false
	}
	if t.late == nil {
		t.late = time.AfterFunc(lateNotification, func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			t.overdue = true
			o.publishReadyLocked()
		})
	}
	return true
}

func (o *order) publishLocked(t *ticket) {
	if t.tid <= o.last && t.conn == nil && o.queue.has(t.tid) {
		return // notified of twice, or one of ours
	}
	if t.tid <= o.last {
		o.disorderLocked(t)
		return
	}
	o.last = t.tid
	o.queue.add(t.tid, t.oids)
	o.invalidateLocked(t.tid, t.oids, t.conn)
	if t.conn != nil {
		t.conn.out.publish(t.tid, t.oids, true, t.reply)
	}
}

// invalidateLocked tells all connections but one.
func (o *order) invalidateLocked(tid raidstorage.TID, oids []raidstorage.OID, but *conn) {
	var frames [2][]byte
	for c := range o.conns {
		if c == but {
			continue
		}
		i := 0
		if c.encoding == zeowire.Msgpack {
			i = 1
		}
		if frames[i] == nil {
			w := &o.scratch[i]
			w.Reset()
			if err := w.InvalidateTransaction(tid, oids); err != nil {
				c.close(err)
				continue
			}
			frames[i] = w.Bytes()[4:]
		}
		body := frames[i]
		c.out.publish(tid, oids, false, func(w *zeowire.Writer) error { return w.Raw(body) })
	}
}

// disorderLocked is for a transaction that a storage told of too late. Clients come
// back and verify their caches; but one whose cache is as new as the storage would
// find nothing to do, and keep the objects of t as they were. So the objects are said
// to have changed with the last transaction, which is the earliest that can be said.
func (o *order) disorderLocked(t *ticket) {
	if o.onDisorder != nil {
		o.onDisorder(t.tid, o.last)
	}
	o.queue.reset(o.last)
	o.invalidateLocked(o.last, t.oids, nil)
	for c := range o.conns {
		c.closeAfterFlush(errDisorder)
	}
}

// started publishes what became known while the end of the log was looked up: early
// held it back. What the log had already, which ended at last, is left out.
func (o *order) started(early *ticket, last raidstorage.TID, queue invalidationQueue) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.first, o.last, o.queue = last, last, queue
	var later []*ticket
	for _, t := range o.pending {
		if t != early && t.tid > o.last {
			later = append(later, t)
		}
	}
	o.pending = later
	o.publishReadyLocked()
}

// answer runs f while nothing is published.
func (o *order) answer(f func(*order)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f(o)
}
