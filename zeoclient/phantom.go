package zeoclient

import (
	"context"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// A file storage of ZODB's that was killed between a vote and the finish cuts the
// transaction off when it is opened again, but tells its tid as the last one (its
// read_index takes the tid before it looks at the status). Its log ends before. A mirror
// that believed it could not give such a member what it lacks: that begins with this
// very tid. So a new connection looks whether the log has the tid, and says what is true
// until the server tells of a transaction.

// firstSpan is how far before a phantom the true end is sought first; spanGrowth is by
// how much more each time.
const (
	firstSpan  = raidstorage.TID(1<<32) / 60 // a second
	spanGrowth = 8
)

// checkClaim finds out whether the server's last tid is in its log.
func (s *Storage) checkClaim(ctx context.Context, c *conn) error {
	last := c.claimed
	if last == 0 || !c.info.iterate {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.DialTimeout)
	defer cancel()
	end, err := c.lastOf(ctx, last)
	if tornTail(err) && !c.readOnly {
		s.opts.Logger.Warn("the ZEO server has the rest of a transaction for which there was no room", "server", c.server, "err", err)
		if err := c.mendTail(ctx); err != nil {
			return err
		}
		end, err = c.lastOf(ctx, last)
	}
	if err != nil || end >= last {
		return c.mapped(zeowire.IteratorNext, err)
	}
	s.opts.Logger.Warn("the ZEO server tells of a transaction that its log does not have", "server", c.server, "tid", last, "end", end)
	s.mu.Lock()
	before := c.before
	if s.seen == last {
		s.seen = max(end, before)
	}
	s.mu.Unlock()
	if end < before {
		return &BehindError{Server: c.server, Last: end, Seen: before}
	}
	c.end.Store(uint64(end))
	c.phantom.Store(uint64(last))
	s.phantom.Store(uint64(last))
	return nil
}

// lastOf returns the tid of the last transaction in the log of a server that says that
// it is last.
func (c *conn) lastOf(ctx context.Context, last raidstorage.TID) (raidstorage.TID, error) {
	for span := raidstorage.TID(0); ; span = max(firstSpan, span*spanGrowth) {
		span = min(span, last-1, raidstorage.MaxTID/spanGrowth)
		end, err := c.lastFrom(ctx, last-span)
		if err != nil || end != 0 || span == last-1 {
			return end, err
		}
	}
}

// lastFrom returns the last tid in the log from a tid on, 0 if there is none.
func (c *conn) lastFrom(ctx context.Context, from raidstorage.TID) (end raidstorage.TID, err error) {
	id, err := request(ctx, c, zeowire.IteratorStart, takeIterator, zeowire.TID(from), zeowire.None())
	for err == nil {
		var h head
		if h, err = request(ctx, c, zeowire.IteratorNext, takeHead, zeowire.Int(id)); err != nil || h == nil {
			break
		}
		end = h.TID
	}
	return end, err
}

// truth is what a last tid of the server means.
func (c *conn) truth(last raidstorage.TID) raidstorage.TID {
	if last != 0 && uint64(last) == c.phantom.Load() {
		return raidstorage.TID(c.end.Load())
	}
	return last
}
