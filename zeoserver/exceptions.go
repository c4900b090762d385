package zeoserver

import (
	"context"
	"errors"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/pickleref"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// exceptionOf returns what a client is told of an error. ZEO's client rebuilds
// KeyError, TypeError, ConflictError, ReadConflictError, POSKeyError, ReadOnlyError,
// StorageTransactionError and MultipleUndoErrors; all others it shows as
// ServerException with the class path that we choose. A StorageError is what we
// choose for faults of the storage and for what it refuses: applications do not
// retry on it, and the text says why. The texts are those of our errors; nothing
// else of the server's inside is in them.
func exceptionOf(err error) *zeowire.Exception {
	var unavailable *raidstorage.UnavailableError
	switch {
	case errors.As(err, &unavailable): // may carry answers of single backends along
		return storageError(err)
	case errors.Is(err, errors.ErrUnsupported):
		return zeowire.NewException(zeowire.ClassUnsupported, zeowire.Text(err.Error()))
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return zeowire.NewException(zeowire.ClassStorage, zeowire.Text("the storage did not answer: "+err.Error()))
	}
	if e, ok := errors.AsType[*zeowire.Exception](err); ok {
		return e
	}
	if e, ok := errors.AsType[*raidstorage.NotFoundError](err); ok {
		return zeowire.POSKeyError(e.OID)
	}
	if e, ok := errors.AsType[*raidstorage.ConflictError](err); ok {
		return zeowire.ConflictError(zeowire.Conflict{OID: e.OID, Committed: e.Committed, Read: e.Read})
	}
	if e, ok := errors.AsType[*raidstorage.ReadConflictError](err); ok {
		return zeowire.ReadConflictError(zeowire.Conflict{OID: e.OID, Committed: e.Committed, Read: e.Read})
	}
	if e, ok := errors.AsType[*raidstorage.UndoError](err); ok {
		return undoError(e, e.OID != 0)
	}
	if _, ok := errors.AsType[*raidstorage.ReadOnlyError](err); ok {
		return zeowire.ReadOnlyError()
	}
	return storageError(err) // *TIDOrderError, *InvalidError, *TxnStateError, *CorruptError, I/O errors, ...
}

// conflictOf is exceptionOf for a conflict over data, whose class it names.
func conflictOf(e *raidstorage.ConflictError, data []byte) *zeowire.Exception {
	c := zeowire.Conflict{OID: e.OID, Committed: e.Committed, Read: e.Read}
	if module, name, err := pickleref.Class(data); err == nil && name != "" {
		c.ClassName = module + "." + name
	}
	return zeowire.ConflictError(c)
}

// undoError tells objects in the way, of which ZODB makes MultipleUndoErrors, from
// transactions that cannot be undone at all.
func undoError(e *raidstorage.UndoError, object bool) *zeowire.Exception {
	failure := zeowire.UndoFailure{OID: e.OID, Reason: e.Reason}
	if object {
		return zeowire.MultipleUndoErrors([]zeowire.UndoFailure{failure})
	}
	return zeowire.UndoError(failure, false)
}

// undoError is what a client gets of a vote that failed so. The object in the way may
// be the root object, oid 0, which e does not tell from none; the log does.
func (st *served) undoError(ctx context.Context, e *raidstorage.UndoError) *zeowire.Exception {
	if e.OID != 0 {
		return undoError(e, true)
	}
	for txn, err := range st.storage.Iterate(ctx, e.TID, e.TID) {
		if err != nil || txn.Status == raidstorage.StatusPacked {
			break
		}
		for rec, err := range txn.Records {
			if err != nil {
				break
			}
			if rec.OID == 0 {
				return undoError(e, true)
			}
		}
	}
	return undoError(e, false)
}

func storageError(err error) *zeowire.Exception {
	return zeowire.NewException(zeowire.ClassStorage, zeowire.Text(err.Error()))
}

func assertionError(text string) *zeowire.Exception {
	return zeowire.NewException(zeowire.ClassAssertionError, zeowire.Text(text))
}

// expected tells errors that are answers to what the client asked, and are not worth
// a line in the log.
func expected(err error) bool {
	if e, ok := errors.AsType[*zeowire.Exception](err); ok {
		return e.Class != zeowire.ClassStorage
	}
	switch raidstorage.Classify(err) {
	case raidstorage.ClassAnswer, raidstorage.ClassRefusal:
		return true
	}
	return errors.Is(err, context.Canceled)
}
