package raidstorage

import (
	"context"
	"crypto/sha256"
	"io"
)

// Mender is a storage in which what has changed on its disk can be put right in place,
// from a copy that is known to be good. It looks again at what it is to replace, under
// its commit lock: what is not what the caller says it is stays as it is
// (*InvalidError), and *BusyError refuses while a pack is going on. Nothing else is
// changed, and what was there is kept in a file, durable before anything is replaced. A
// crash leaves the old bytes or the new ones, at least from the next Open on. No method
// keeps a slice.
type Mender interface {
	// CheckRecord looks at the data of a record and at nothing else: an error says that
	// it cannot be a record's. whole is false if it can, but has something left over.
	CheckRecord(data []byte) (whole bool, err error)
	// MendRecord replaces the data of oid's last record in transaction tid, which is
	// damaged now, by good, of the same length. It returns where damaged is kept.
	// *InvalidError also if the record has no data of its own, but repeats an earlier one.
	// ctx counts until the first byte is replaced.
	MendRecord(ctx context.Context, oid OID, tid TID, damaged, good []byte) (kept string, err error)
	// BlobStamp identifies the file of a blob: it is another one after each change that
	// was made through the system. "": it is not there.
	BlobStamp(ctx context.Context, oid OID, tid TID) (string, error)
	// StageBlob copies a blob that is to take the place of a damaged one, and makes sure
	// that the copy is what good says. It holds no lock.
	StageBlob(ctx context.Context, oid OID, tid TID, good BlobSum, blob io.Reader) (BlobMend, error)
}

// BlobMend is a copy of a blob that waits to be put in place. It is for one goroutine.
type BlobMend interface {
	// Place puts the copy in the place of the file with a stamp, "" for none. It returns
	// where that is kept. How long it takes does not depend on the blob's length.
	Place(ctx context.Context, damaged string) (kept string, err error)
	// Discard removes the copy unless it is in its place.
	Discard()
}

// BlobSum identifies the contents of a blob.
type BlobSum struct {
	Size   int64
	SHA256 [sha256.Size]byte
}

// SumBlob reads a blob to its end.
func SumBlob(ctx context.Context, blob io.Reader) (BlobSum, error) {
	h := sha256.New()
	n, err := io.Copy(h, contextReader{ctx, blob})
	return BlobSum{Size: n, SHA256: [sha256.Size]byte(h.Sum(nil))}, err
}

// contextReader is a reader that ends with a context.
type contextReader struct {
	ctx context.Context
	io.Reader
}

// Read implements io.Reader.
func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
