package zeoclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// Blobs are never whole in memory: on their way they are in temporary files, whose
// names are removed as soon as they are open. For directories that are shared with the
// server see shared.go.

// blobChunk is how much of a blob goes into a message, as ZEO does it.
const blobChunk = 59000

// blobKey names a blob.
type blobKey struct {
	oid    raidstorage.OID
	serial raidstorage.TID
}

// download is a blob on its way here. All who want the same one share it. The reader
// writes it.
type download struct {
	file    *os.File // its name is there until the last of users is gone
	users   int      // the connection, until the end, and callers; guarded by conn.mu
	started bool     // the reader's
	stopped bool     // the reader's
	failed  error    // of writing the file; the reader's, until done

	done chan struct{} // closed when err is set
	err  error
}

// end ends the download; the connection's mu is held.
func (d *download) end(err error) {
	d.err = err
	close(d.done)
	d.release()
}

// release gives up a share; the connection's mu is held.
func (d *download) release() {
	if d.users--; d.users == 0 {
		_ = discard(d.file) // a temporary file
	}
}

// spool copies a blob to a temporary file without a name.
func (s *Storage) spool(ctx context.Context, blob io.Reader) (*os.File, error) {
	file, err := os.CreateTemp(s.opts.TempDir, "zeoclient-*.blob")
	if err != nil {
		return nil, err
	}
	err = os.Remove(file.Name())
	if err == nil {
		_, err = io.Copy(file, &contextReader{ctx: ctx, r: blob})
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// contextReader stops reading when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// upload sends a record with its blob. Once begun it must be ended, whatever happens:
// the server waits for the end, also of a transaction that is aborted then.
func (t *txn) upload(ctx context.Context, o *op) error {
	if t.s.shared != nil {
		return t.nameBlob(ctx, o)
	}
	if err := t.c.send(ctx, func(w *zeowire.Writer) error { return w.Message(zeowire.AsyncCall(zeowire.StoreBlobStart)) }); err != nil {
		return err
	}
	broken := t.uploadChunks(ctx, o)
	err := t.c.post(func(w *zeowire.Writer) error {
		return w.Message(zeowire.AsyncCall(zeowire.StoreBlobEnd,
			zeowire.OID(o.oid), zeowire.TID(o.tid), zeowire.Bytes(o.data), zeowire.Int(t.id)))
	})
	if broken != nil {
		return broken
	}
	return err
}

func (t *txn) uploadChunks(ctx context.Context, o *op) error {
	content := io.NewSectionReader(o.blob, 0, 1<<62)
	chunk := make([]byte, blobChunk)
	for {
		n, err := io.ReadFull(content, chunk)
		if n > 0 {
			if err := t.c.send(ctx, func(w *zeowire.Writer) error {
				return w.Message(zeowire.AsyncCall(zeowire.StoreBlobChunk, zeowire.Bytes(chunk[:n])))
			}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// OpenBlob implements raidstorage.BlobLoader: it opens the file that the server has, if
// they share the directory, else it fetches the blob, whole, into a temporary file. Calls for the same one at the same time share the download.
func (s *Storage) OpenBlob(ctx context.Context, oid raidstorage.OID, serial raidstorage.TID) (io.ReadCloser, error) {
	leave, c, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	// What the server has not told of may be voted only: its blob is there, and may go.
	if s.shared != nil && uint64(serial) <= c.seen.Load() {
		if file, err := s.shared.open(oid, serial); err != nil || file != nil {
			return file, err
		}
	}
	key := blobKey{oid, serial}
	d, err := s.join(ctx, c, key)
	if err != nil {
		return nil, err
	}
	defer c.leave(d)
	select {
	case <-d.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if _, none := raised(d.err, zeowire.ClassPOSKey, zeowire.ClassKeyError); none {
		return nil, &raidstorage.NotFoundError{OID: oid, Serial: serial}
	}
	if d.err != nil {
		return nil, c.mapped(zeowire.SendBlob, d.err)
	}
	return os.Open(d.file.Name())
}

// join takes part in a download, and begins it if nobody did yet.
func (s *Storage) join(ctx context.Context, c *conn, key blobKey) (*download, error) {
	file, err := os.CreateTemp(s.opts.TempDir, "zeoclient-*.blob")
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.err != nil {
		err := c.err
		c.mu.Unlock()
		return nil, errors.Join(err, discard(file))
	}
	if d := c.downloads[key]; d != nil {
		d.users++
		c.mu.Unlock()
		return d, discard(file)
	}
	d := &download{file: file, users: 2, done: make(chan struct{})}
	c.downloads[key] = d
	c.mu.Unlock()
	k := c.newCall(zeowire.SendBlob, nil)
	k.kept = true // what comes must go somewhere
	k.then = func(err error) { c.downloaded(key, d, err) }
	if err := c.start(context.WithoutCancel(ctx), k, zeowire.OID(key.oid), zeowire.TID(key.serial)); err != nil {
		c.downloaded(key, d, err)
	} else {
		c.spawn(func() { c.watchDownload(d, k) })
	}
	return d, nil
}

// watchDownload ends a connection on which nothing comes while a download waits, so
// that nobody waits for ever.
func (c *conn) watchDownload(d *download, k *call) {
	ticker := time.NewTicker(c.timeout)
	defer ticker.Stop()
	for before := k.heard; ; {
		select {
		case <-d.done:
			return
		case <-ticker.C:
		}
		now := c.heard.Load()
		if now == before {
			c.fail(&TimeoutError{Server: c.server, Call: k.name, After: c.timeout})
			return
		}
		before = now
	}
}

// downloaded ends a download with what the server answered.
func (c *conn) downloaded(key blobKey, d *download, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.downloads[key] != d {
		return // the connection has ended
	}
	delete(c.downloads, key)
	switch {
	case err != nil:
	case d.failed != nil:
		err = d.failed
	case !d.stopped:
		err = &ProtocolError{Server: c.server, Reason: "a blob that does not end"}
	}
	d.end(err)
}

// leave gives up a caller's share of a download.
func (c *conn) leave(d *download) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d.release()
}

// discard removes a temporary file.
func discard(file *os.File) error {
	return errors.Join(file.Close(), os.Remove(file.Name()))
}

// receiveBlob takes a part of a blob, in the reader.
func (c *conn) receiveBlob(name string, args []zeowire.Value) error {
	if len(args) < 2 {
		return violation("a blob without a name")
	}
	oid, isOID := args[0].OID()
	serial, isTID := args[1].TID()
	if !isOID || !isTID {
		return violation("a blob without a name")
	}
	c.mu.Lock()
	d := c.downloads[blobKey{oid, serial}]
	c.mu.Unlock()
	if d == nil || d.stopped || d.started == (name == zeowire.ReceiveBlobStart) {
		return violation(fmt.Sprintf("a %s that nobody waits for", name))
	}
	switch name {
	case zeowire.ReceiveBlobStart:
		d.started = true
	case zeowire.ReceiveBlobStop:
		d.stopped = true
	default:
		if len(args) != 3 {
			return violation("a blob's part of other form")
		}
		chunk, ok := args[2].Bytes()
		if !ok {
			return violation("a blob's part of other form")
		}
		if d.failed == nil {
			_, d.failed = d.file.Write(chunk)
		}
	}
	return nil
}
