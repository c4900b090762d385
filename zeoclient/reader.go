package zeoclient

import (
	"errors"
	"fmt"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// read is the reader's goroutine; it ends with the connection.
func (c *conn) read(frames *zeowire.FrameReader) {
	decoder := &zeowire.Decoder{Encoding: c.encoding, MaxItems: maxItems}
	defer c.flushAnswers()
	for {
		if n := len(c.unflushed); n >= maxUnflushed || n > 0 && !zeowire.FrameBuffered(c.in) {
			c.flushAnswers()
		}
		body, err := frames.Next()
		if err != nil {
			c.fail(err)
			return
		}
		if c.over() {
			c.discard()
			return
		}
		c.heard.Add(1)
		message, err := decoder.Message(body)
		if err != nil {
			c.fail(&ProtocolError{Server: c.server, Reason: "a message that cannot be read", Err: err})
			return
		}
		c.kept = len(body) >= ownFrame && message.IsReply()
		if c.kept {
			frames.Keep()
		}
		if message.IsReply() {
			err = c.reply(message)
		} else {
			err = c.called(message)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// maxItems bounds the values in a message, such as the oids of an invalidation.
const maxItems = 4 << 20

// reply completes a call.
func (c *conn) reply(m zeowire.Message) error {
	id, ok := m.ID.Int()
	if !ok || id > c.ids.Load() {
		return violation(fmt.Sprintf("a reply to %v, which was never called", m.ID))
	}
	c.mu.Lock()
	k := c.calls[id]
	c.removeLocked(id)
	c.mu.Unlock()
	if k == nil {
		return nil // its caller has given up
	}
	var violated error
	if m.Flag == zeowire.Error {
		exc, ok := m.Exception()
		if !ok {
			violated = violation("an error reply without an exception")
			exc = &zeowire.Exception{}
		}
		k.err = &exceptionError{exc: &zeowire.Exception{Class: exc.Class, Args: exc.Args.Clone(), Attrs: exc.Attrs.Clone()}}
	} else if k.load != nil {
		violated = k.load.take(m.Args)
	} else if k.take != nil {
		violated = k.take(m.Args)
	}
	if v, ok := errors.AsType[violation](violated); ok {
		violated = &ProtocolError{Server: c.server, Reason: "the reply to " + k.name + ": " + string(v)}
	}
	if violated != nil {
		k.err = violated
	}
	if k.load != nil {
		k.load.done(k.err)
		c.answered(k.load.to)
		return violated
	}
	if k.then != nil {
		k.then(k.err)
	}
	k.take = nil // the last finish that was sent is kept, see SendFinish: not so its data
	close(k.done)
	return violated
}

// called obeys what the server calls.
func (c *conn) called(m zeowire.Message) error {
	args, ok := m.Args.Items()
	if !ok || m.Flag != zeowire.Async {
		return violation("a call of " + m.Name + " that wants an answer")
	}
	switch m.Name {
	case zeowire.InvalidateTransaction:
		return c.invalidate(args)
	case zeowire.Info:
		// Sizes are asked for when they are wanted. But who has not finished a
		// transaction is only told after a pack.
		if c.infos.Add(-1) < 0 {
			c.infos.Store(0)
			c.events.packed()
		}
		return nil
	case zeowire.ReceiveBlobStart, zeowire.ReceiveBlobChunk, zeowire.ReceiveBlobStop:
		return c.receiveBlob(m.Name, args)
	}
	return violation(fmt.Sprintf("a call of the unknown method %.100q", m.Name))
}

func (c *conn) invalidate(args []zeowire.Value) error {
	if len(args) != 2 {
		return violation("an invalidation of other form")
	}
	tid, ok := args[0].TID()
	items, isList := args[1].Items()
	if !ok || !isList {
		return violation("an invalidation of other form")
	}
	oids := make([]raidstorage.OID, 0, len(items))
	for _, item := range items {
		oid, ok := item.OID()
		if !ok {
			return violation("an invalidation of other form")
		}
		oids = append(oids, oid)
	}
	if seen := raidstorage.TID(c.seen.Load()); tid < seen {
		return violation(fmt.Sprintf("transaction %v comes after %v", tid, seen))
	}
	if !c.registered {
		c.early = max(c.early, tid)
		return nil
	}
	c.see(tid)
	c.events.invalidated(c, tid, oids)
	return nil
}

// see notes that the server has told of tid in its stream. The reader calls it.
func (c *conn) see(tid raidstorage.TID) {
	if uint64(tid) > c.seen.Load() {
		c.seen.Store(uint64(tid))
	}
	c.phantom.CompareAndSwap(uint64(tid), 0) // now there is one with this tid
}
