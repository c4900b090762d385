package zeoserver

import (
	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// startedLoad is a load that the storage, a raidstorage.LoadStarter, answers when it can:
// no goroutine waits for it. Its reply is appended to the outbox by whoever brings the
// answer, under the outbox's lock, as order.go wants it; what cannot be done without
// waiting goes on in a goroutine: to load again, to wait for room, to answer an error.
type startedLoad struct {
	k      call
	oid    raidstorage.OID
	before raidstorage.TID
	mark   uint64
}

// startLoad begins a load for which there is a slot. False: the storage would have to
// wait.
func (c *conn) startLoad(k call, oid raidstorage.OID, before raidstorage.TID) (held raidstorage.LoadSender, begun bool) {
	starter := c.store.starter
	if starter == nil {
		return nil, false
	}
	mark := c.out.beginLoad()
	held, begun = starter.StartLoad(oid, before, &startedLoad{k, oid, before, mark})
	if begun {
		return held, true
	}
	c.out.mu.Lock()
	c.out.endLoadLocked()
	c.out.mu.Unlock()
	return nil, false
}

// Loaded implements raidstorage.LoadAnswer. It may be called after the end of the
// connection, which does not wait for it; then there is nothing to do.
func (l *startedLoad) Loaded(rev raidstorage.Revision, err error) {
	c := l.k.c
	defer c.guard(zeowire.LoadBefore)
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended && (err != nil || o.queue.Len()+o.writing > o.forAnswers() || !o.settleLocked(l.mark, l.oid, l.before, &rev, 0)) {
		// While the outbox is open, the end of the connection has not begun to wait.
		c.group.Go(func() {
			defer c.guard(zeowire.LoadBefore)
			c.answerLoad(l.k, l.mark, l.oid, l.before, false, rev, err)
			<-c.slots
		})
		return
	}
	o.endLoadLocked()
	if !o.ended && !l.k.async {
		err := o.queue.LoadReply(l.k.id, rev.Data, rev.Serial, rev.Next)
		if err != nil { // it is longer than a frame can be
			err = o.queue.Message(zeowire.ErrorReply(l.k.id, exceptionOf(err)))
		}
		if err != nil {
			o.endLocked()
		}
	}
	<-c.slots
}

// Flush implements raidstorage.LoadAnswer.
func (l *startedLoad) Flush() { l.k.c.flushDirect() }
