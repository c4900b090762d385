package zeoserver

import (
	"context"
	"errors"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// slot waits until another call of this connection may run beside the reader.
func (c *conn) slot() error {
	select {
	case c.slots <- struct{}{}:
		return nil
	default:
	}
	c.out.wake() // the reader may have left replies unsent
	c.r.sendHeld()
	select {
	case c.slots <- struct{}{}:
		return nil
	case <-c.dead.Done():
		return context.Cause(c.dead)
	}
}

// concurrently runs f beside the reader and answers with what it returns.
func (c *conn) concurrently(k call, f func(ctx context.Context) (zeowire.Value, error)) error {
	if err := c.slot(); err != nil {
		return err
	}
	c.spawn(k.method, func() {
		defer func() { <-c.slots }()
		k.finish(f(c.dead))
	})
	return nil
}

// loadBefore is the hot path.
func (c *conn) loadBefore(k call, args *arguments) error {
	oid, before := args.oid(0), args.tid(1)
	if args.err != nil {
		return args.err
	}
	c.store.stats.loads.Add(1)
	if err := c.slot(); err != nil {
		return err
	}
	if c.r.beside == 0 || c.store.starter != nil {
		return c.loadHere(k, oid, before)
	}
	c.loadBeside(k, oid, before)
	return nil
}

// loadBeside runs a load beside the reader.
func (c *conn) loadBeside(k call, oid raidstorage.OID, before raidstorage.TID) {
	c.r.beside--
	c.wakeWriter()
	c.group.Go(func() { c.guardedLoad(k, oid, before, false) })
}

// guardedLoad is load for one who has a slot.
func (c *conn) guardedLoad(k call, oid raidstorage.OID, before raidstorage.TID, here bool) {
	defer c.guard(zeowire.LoadBefore)
	mark := c.out.beginLoad()
	rev, err := c.store.storage.LoadBefore(c.dead, oid, before)
	c.answerLoad(k, mark, oid, before, here, rev, err)
	<-c.slots
}

// maxReloads bounds how often an object that changes all the time is loaded again.
// Then the client gets what was current a moment ago, with its end.
const maxReloads = 16

// answerLoad replies to a load with what the storage answered, see order.go, or loads
// again. Here means that the caller is the reader, which sends the reply itself.
func (c *conn) answerLoad(k call, mark uint64, oid raidstorage.OID, before raidstorage.TID, here bool, rev raidstorage.Revision, err error) {
	for try := 0; ; try++ {
		if err != nil {
			if c.loadFailed(k, mark, oid, before, err, try) {
				return
			}
			mark = c.out.remark()
		} else {
			c.out.lockForRoom(c.out.forAnswers())
			if c.out.ended || c.out.settleLocked(mark, oid, before, &rev, try) {
				break
			}
			mark = c.out.recent.seq
			c.out.mu.Unlock()
		}
		rev, err = c.store.storage.LoadBefore(c.dead, oid, before)
	}
	c.out.endLoadLocked()
	if c.out.openLocked() && !k.async {
		err = c.out.queue.LoadReply(k.id, rev.Data, rev.Serial, rev.Next)
		if !here || c.out.queue.Len() >= writeStep {
			c.out.more.Signal()
		}
	}
	c.out.mu.Unlock()
	if err != nil {
		k.fail(err)
	}
}

// settleLocked gives a revision that was current the end that it has got since the load
// began. False: it must be loaded again.
func (o *outbox) settleLocked(mark uint64, oid raidstorage.OID, before raidstorage.TID, rev *raidstorage.Revision, try int) bool {
	if rev.Next != 0 {
		return true
	}
	tid, known := o.recent.changedLocked(mark, oid, rev.Serial)
	if !known || (tid != 0 && tid < before && try < maxReloads) {
		return false
	}
	rev.Next = tid
	return true
}

// loadFailed answers a load that found nothing, unless the object came to be
// meanwhile: then it returns false.
func (c *conn) loadFailed(k call, mark uint64, oid raidstorage.OID, before raidstorage.TID, err error, try int) bool {
	missing, isMissing := errors.AsType[*raidstorage.NotFoundError](err)
	isMissing = isMissing && raidstorage.Classify(err) == raidstorage.ClassAnswer
	c.out.mu.Lock()
	if isMissing {
		tid, known := c.out.recent.changedLocked(mark, oid, 0)
		if !known || (tid != 0 && tid < before && try < maxReloads) {
			c.out.mu.Unlock()
			return false
		}
	}
	c.out.endLoadLocked()
	c.out.mu.Unlock()
	if isMissing && missing.Later {
		k.replyWhenRoom(zeowire.None()) // as ZEO answers, if the object is younger
	} else {
		k.fail(err)
	}
	return true
}

// remark is the mark for another try of the same load.
func (o *outbox) remark() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.recent.seq
}

func (c *conn) loadSerial(k call, args *arguments) error {
	oid, serial := args.oid(0), args.tid(1)
	if args.err != nil {
		return args.err
	}
	return c.concurrently(k, func(ctx context.Context) (zeowire.Value, error) {
		data, err := raidstorage.LoadSerial(ctx, c.store.storage, oid, serial)
		return zeowire.Bytes(data), err
	})
}

// getTID tells the serial of the current revision.
func (c *conn) getTID(k call, args *arguments) error {
	oid := args.oid(0)
	if args.err != nil {
		return args.err
	}
	return c.concurrently(k, func(ctx context.Context) (zeowire.Value, error) {
		rev, err := c.store.storage.LoadBefore(ctx, oid, raidstorage.MaxTID)
		return zeowire.TID(rev.Serial), err
	})
}
