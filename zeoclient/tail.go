package zeoclient

import (
	"context"
	"strings"

	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// A file storage of ZODB's whose disk is full when a transaction votes leaves a part of it
// behind its last one (what it would cut off is still in the buffer that cannot be
// written). From then on it cannot begin to iterate but at the first transaction, until
// another one votes, which writes over the rest. A mirror could not bring such a member
// back: to be opened it must tell the end of its log, and nobody votes there before it is
// back. So an empty transaction votes, and aborts.

// tornTail tells whether the server cannot iterate for that reason: in a large file it
// says so, in a small one it stumbles over a slip of the pen.
func tornTail(err error) bool {
	exc, ok := raised(err, "builtins.ValueError", "builtins.AttributeError")
	if !ok {
		return false
	}
	state := exc.State().String()
	return strings.Contains(state, "Can't find last transaction") || strings.Contains(state, "_scan_foreward")
}

// mendTail has the server write over what a transaction left that found the disk full. It
// waits for the server's commit lock until ctx ends. If the disk is still full the vote
// fails, too.
func (c *conn) mendTail(ctx context.Context) error {
	id := c.ids.Add(1)
	voted := c.newCall(zeowire.Vote, func(zeowire.Value) error { return nil })
	voted.queues = true
	err := c.send(ctx, func(w *zeowire.Writer) error {
		none := zeowire.Bytes(nil)
		if err := w.Message(zeowire.AsyncCall(zeowire.TPCBegin, zeowire.Int(id), none, none, zeowire.Dict(), zeowire.None(), zeowire.Text(" "))); err != nil {
			return err
		}
		return w.Message(zeowire.Call(zeowire.IntID(voted.id), voted.name, zeowire.Int(id)))
	}, voted)
	if err == nil {
		err = c.wait(ctx, voted)
	}
	// If ctx has ended the caller closes the connection, which aborts.
	if _, abortErr := request(ctx, c, zeowire.TPCAbort, func(zeowire.Value) (struct{}, error) { return struct{}{}, nil }, zeowire.Int(id)); err == nil {
		err = abortErr
	}
	return c.mapped(zeowire.Vote, err)
}
