package raidstorage

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/go-multierror"
)

// ErrClosed is returned by every method of a closed storage or mirror.
var ErrClosed = errors.New("raidstorage: storage is closed")

// Class says what a caller does about an error.
type Class int

const (
	// ClassFailure is a fault of the storage: an I/O error, a lost connection, a
	// deadline, a malformed reply. A mirror degrades the backend.
	ClassFailure Class = iota
	// ClassAnswer is a valid answer about the data: not found, conflict, undo
	// refused. It is passed on and says nothing against the backend.
	ClassAnswer
	// ClassRefusal is a request that is not served, now or ever: read-only,
	// unsupported, invalid arguments, wrong transaction state, too few backends.
	// Nothing was done; it may be asked again when the reason is gone.
	ClassRefusal
	// ClassUnknown is a commit whose outcome is not known. It must not be retried
	// blindly.
	ClassUnknown
)

// Classify returns the class of a non-nil error of a storage method.
func Classify(err error) Class {
	switch {
	case isA[*OutcomeUnknownError](err):
		return ClassUnknown
	case isA[*UnavailableError](err): // before the answers, which it may carry along
		return ClassRefusal
	case isA[*NotFoundError](err), isA[*ConflictError](err), isA[*ReadConflictError](err), isA[*UndoError](err):
		return ClassAnswer
	case isA[*ReadOnlyError](err), errors.Is(err, errors.ErrUnsupported), isA[*InvalidError](err),
		isA[*TxnStateError](err), isA[*TIDOrderError](err), isA[*BusyError](err):
		return ClassRefusal
	}
	return ClassFailure
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// Answers: what the data says.

// NotFoundError says that an object has no such revision. (ZODB: POSKeyError.)
type NotFoundError struct {
	OID    OID
	Serial TID // the exact revision that was asked for, 0 if any before a tid would do
	// Later is true when the object does exist, but all its revisions are later
	// than what was asked for: ZODB's loadBefore returns None then.
	Later bool
}

func (e *NotFoundError) Error() string {
	switch {
	case e.Serial != 0:
		return fmt.Sprintf("object %v has no revision %v", e.OID, e.Serial)
	case e.Later:
		return fmt.Sprintf("object %v did not exist yet", e.OID)
	}
	return fmt.Sprintf("object %v does not exist", e.OID)
}

// ConflictError says that an object was changed since the caller read it.
type ConflictError struct {
	OID       OID
	Committed TID // the current serial
	Read      TID // the serial that the caller had read
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("object %v was changed by %v since %v was read", e.OID, e.Committed, e.Read)
}

// ReadConflictError says that an object that was only read, but that the
// transaction depends on, was changed since.
type ReadConflictError struct {
	OID       OID
	Committed TID
	Read      TID
}

func (e *ReadConflictError) Error() string {
	return fmt.Sprintf("object %v, read at %v, was changed by %v", e.OID, e.Read, e.Committed)
}

// UndoError says that a transaction cannot be undone.
type UndoError struct {
	TID    TID
	OID    OID // the object that stands in the way, where there is one
	Reason string
}

func (e *UndoError) Error() string {
	return fmt.Sprintf("transaction %v cannot be undone: %s (object %v)", e.TID, e.Reason, e.OID)
}

// Refusals: what is not done.

// ReadOnlyError refuses a change.
type ReadOnlyError struct {
	Storage string
	Reason  string // why a writable storage became read-only, else empty
}

func (e *ReadOnlyError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("storage %s is read-only", e.Storage)
	}
	return fmt.Sprintf("storage %s is read-only: %s", e.Storage, e.Reason)
}

// UnsupportedError says that a storage lacks an optional interface. It matches
// errors.ErrUnsupported.
type UnsupportedError struct {
	Storage    string // may be empty
	Capability string
}

func (e *UnsupportedError) Error() string {
	if e.Storage == "" {
		return e.Capability + " is not supported by this storage"
	}
	return fmt.Sprintf("%s is not supported by storage %s", e.Capability, e.Storage)
}

// Is makes the error match errors.ErrUnsupported.
func (e *UnsupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

// InvalidError says that the caller's arguments, or its configuration, are wrong.
type InvalidError struct {
	Op     string
	Reason string
}

func (e *InvalidError) Error() string { return e.Op + ": " + e.Reason }

// TxnStateError says that a transaction is not in a state for the call: it has
// ended, or it has not voted.
type TxnStateError struct {
	Op    string // the method
	State string // "ended", "voted", "not voted"
}

func (e *TxnStateError) Error() string {
	return fmt.Sprintf("%s: the transaction is %s", e.Op, e.State)
}

// TIDOrderError says that a storage's last tid is not what the call needs: later
// than the tid of a new transaction, or not the one that a truncation expects.
type TIDOrderError struct {
	TID  TID // the tid that was given
	Last TID // the storage's last tid
}

func (e *TIDOrderError) Error() string {
	return fmt.Sprintf("tid %v does not fit a log that ends at %v", e.TID, e.Last)
}

// UnavailableError says that too few backends are in sync to go on, or that the
// register does not answer. Nothing was committed.
type UnavailableError struct {
	InSync int   // how many can take part
	Need   int   // 0 if it is not for their number
	Err    error // what the others said, may be nil
}

func (e *UnavailableError) Error() string {
	if e.Need == 0 && e.Err != nil {
		return "unavailable: " + e.Err.Error()
	}
	msg := fmt.Sprintf("%d backends in sync, %d needed", e.InSync, e.Need)
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return msg
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// Failures: what is broken.

// BackendError says which backend of a mirror failed at what.
type BackendError struct {
	Backend string
	Op      string
	Err     error
}

func (e *BackendError) Error() string {
	return fmt.Sprintf("backend %s: %s: %v", e.Backend, e.Op, e.Err)
}

func (e *BackendError) Unwrap() error { return e.Err }

// CorruptError says that stored bytes are not what they must be.
type CorruptError struct {
	Storage string
	Offset  int64 // in the file, -1 where that makes no sense
	OID     OID
	TID     TID
	Reason  string
}

func (e *CorruptError) Error() string {
	at := ""
	if e.Offset >= 0 {
		at = fmt.Sprintf(" at offset %d", e.Offset)
	}
	return fmt.Sprintf("storage %s is damaged%s (oid %v, tid %v): %s", e.Storage, at, e.OID, e.TID, e.Reason)
}

// DivergedError says that a backend's log is not a beginning of the mirror's.
type DivergedError struct {
	Backend string
	Common  TID // the last transaction that both have, 0 if none: another database
	First   TID // the first one in which they differ
	Hint    string
}

func (e *DivergedError) Error() string {
	msg := fmt.Sprintf("backend %s has diverged: it differs from transaction %v on, the last common one is %v",
		e.Backend, e.First, e.Common)
	if e.Hint != "" {
		msg += "; " + e.Hint
	}
	return msg
}

// ContradictionError says that backends gave different valid answers and that
// nothing tells which is right.
type ContradictionError struct {
	Op      string
	Answers map[string]string // by backend
}

func (e *ContradictionError) Error() string {
	return fmt.Sprintf("backends contradict each other at %s: %v", e.Op, e.Answers)
}

// Unknown outcomes.

// OutcomeUnknownError says that transaction TID may or may not have been
// committed. The mirror settles it before the next commit; until then neither is
// shown. It must not be retried without looking.
type OutcomeUnknownError struct {
	TID TID
	Err error
}

func (e *OutcomeUnknownError) Error() string {
	return fmt.Sprintf("the outcome of transaction %v is unknown: %v", e.TID, e.Err)
}

func (e *OutcomeUnknownError) Unwrap() error { return e.Err }

// gather appends err to errs, which may be nil, and makes it read as one line, for
// logs, records and status.
func gather(errs *multierror.Error, err error) *multierror.Error {
	if errs == nil {
		errs = &multierror.Error{ErrorFormat: oneLine}
	}
	return multierror.Append(errs, err)
}

func oneLine(all []error) string {
	lines := make([]string, len(all))
	for i, err := range all {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "; ")
}
