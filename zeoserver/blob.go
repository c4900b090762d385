package zeoserver

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// upload is a blob on its way in: one at a time per connection.
type upload struct {
	file *os.File
}

// discard removes the file of an upload that was not completed.
func (u *upload) discard() {
	if u != nil {
		u.file.Close()
		os.Remove(u.file.Name())
	}
}

func (c *conn) storeBlobStart(k call, args *arguments) error {
	if c.readOnly {
		return zeowire.ReadOnlyError()
	}
	if c.upload != nil {
		return assertionError("a blob is being stored already")
	}
	f, err := os.CreateTemp(c.srv.cfg.TempDir, "zeoserver-blob-*")
	if err != nil {
		return err
	}
	c.upload = &upload{f}
	k.reply(zeowire.None())
	return nil
}

func (c *conn) storeBlobChunk(k call, args *arguments) error {
	chunk := args.bytes(0)
	if args.err != nil {
		return args.err
	}
	if c.upload == nil {
		return assertionError("no blob is being stored")
	}
	if _, err := c.upload.file.Write(chunk); err != nil {
		return err
	}
	k.reply(zeowire.None())
	return nil
}

func (c *conn) storeBlobEnd(k call, args *arguments) error {
	o := op{kind: opBlob, oid: args.oid(0), serial: args.tidOr(1, 0)}
	data := args.bytes(2)
	if args.err != nil {
		return args.err
	}
	if c.upload == nil {
		return assertionError("no blob is being stored")
	}
	t, err := c.check(args.at(3))
	if err != nil {
		return err
	}
	u := c.upload
	if s := t.is(); s != staging && s != resolving { // as in stage
		c.upload = nil
		u.discard()
		k.reply(zeowire.None())
		return nil
	}
	if err := u.file.Close(); err != nil {
		return err
	}
	c.upload = nil // from here on the transaction removes the file
	if err := t.log.addBlob(o, data, u.file.Name()); err != nil {
		return err
	}
	k.reply(zeowire.None())
	return nil
}

// blobSharer is a storage whose blob directory clients may share: those that reach it
// by the same path put their blobs there themselves, and read them there.
type blobSharer interface {
	// BlobFolder returns the directory of the blobs of oid, below the blob directory.
	BlobFolder(oid raidstorage.OID) (string, error)
}

// storeBlobShared stores a blob that the client has put into the shared directory. A
// mirror has none: no directory of one backend is always whole.
func (c *conn) storeBlobShared(k call, args *arguments) error {
	o := op{kind: opBlob, oid: args.oid(0), serial: args.tidOr(1, 0)}
	data, name := args.bytes(2), args.text(3)
	if args.err != nil {
		return args.err
	}
	t, err := c.check(args.at(4))
	if err != nil {
		return err
	}
	sharer, ok := c.store.storage.(blobSharer)
	if !ok {
		return zeowire.NewException(zeowire.ClassUnsupported,
			zeowire.Text("this server shares no blob directory; configure the client with shared-blob-dir false"))
	}
	if !temporaryName(name) { // it would be moved: it must not be another's blob
		return zeowire.ValueError(name)
	}
	folder, err := sharer.BlobFolder(o.oid)
	if err != nil {
		return err
	}
	if s := t.is(); s != staging && s != resolving { // as in stage
		k.reply(zeowire.None())
		return nil
	}
	if err := t.log.addBlob(o, data, filepath.Join(folder, name)); err != nil {
		return err
	}
	k.reply(zeowire.None())
	return nil
}

// temporaryName tells whether a file is named as ZEO's clients name those of blobs that
// are not stored yet: it ends with ".tmp" and at most one character more.
func temporaryName(name string) bool {
	if name == "" || strings.ContainsAny(name, "/\\\x00") {
		return false
	}
	return strings.HasSuffix(name, ".tmp") || strings.HasSuffix(name[:len(name)-1], ".tmp")
}

// blobChunk is how much of a blob goes into a message; ZEO's clients and servers use
// the same size.
const blobChunk = 59000

// blobRoom is how much may wait to be sent before the next part of a blob: enough to
// keep the connection busy, and little for others to wait behind.
const blobRoom = 512 << 10

// sendBlob streams a blob: before the reply, its parts. It waits while the client
// does not read, so that no more than the outbox is in memory.
func (c *conn) sendBlob(k call, args *arguments) error {
	oid, serial := args.oid(0), args.tid(1)
	if args.err != nil {
		return args.err
	}
	return c.blobs.add(k.method, func() {
		err := c.streamBlob(c.dead, oid, serial)
		k.finish(zeowire.None(), err)
	})
}

func (c *conn) streamBlob(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) error {
	loader, err := raidstorage.Can[raidstorage.BlobLoader](c.store.storage)
	if err != nil {
		return err
	}
	blob, err := loader.OpenBlob(ctx, oid, serial)
	if err != nil {
		if _, missing := errors.AsType[*raidstorage.NotFoundError](err); missing && raidstorage.Classify(err) == raidstorage.ClassAnswer {
			return zeowire.NoBlobError(oid, serial)
		}
		return err
	}
	defer blob.Close()
	id := []zeowire.Value{zeowire.OID(oid), zeowire.TID(serial)}
	if err := c.sendPart(zeowire.AsyncCall(zeowire.ReceiveBlobStart, id...)); err != nil {
		return err
	}
	chunk := make([]byte, blobChunk)
	for {
		n, err := io.ReadFull(blob, chunk)
		if n > 0 {
			part := zeowire.AsyncCall(zeowire.ReceiveBlobChunk, id[0], id[1], zeowire.Bytes(chunk[:n]))
			if err := c.sendPart(part); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return c.sendPart(zeowire.AsyncCall(zeowire.ReceiveBlobStop, id...))
		}
		if err != nil {
			return err
		}
	}
}

func (c *conn) sendPart(m zeowire.Message) error {
	ok, err := c.out.sendWhenRoom(blobRoom, func(w *zeowire.Writer) error { return w.Message(m) })
	if err == nil && !ok {
		err = context.Cause(c.dead)
		if err == nil {
			err = errSlow
		}
	}
	return err
}
