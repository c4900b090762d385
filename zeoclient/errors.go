package zeoclient

import (
	"fmt"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// The errors of this file are failures in the sense of raidstorage.Classify: a mirror
// degrades the backend that returns one.

// DisconnectedError says that there is no connection to the server, or that it was
// lost during the call.
type DisconnectedError struct {
	Server string // its address; all of them if none could be connected to
	Err    error  // why
}

func (e *DisconnectedError) Error() string {
	return fmt.Sprintf("zeo server %s: not connected: %v", e.Server, e.Err)
}

// Unwrap returns the reason, unless that is no failure by itself: that a server which
// comes back is read-only, say, is a failure of a storage that was opened for writing.
func (e *DisconnectedError) Unwrap() error {
	if e.Err == nil || raidstorage.Classify(e.Err) != raidstorage.ClassFailure {
		return nil
	}
	return e.Err
}

// ProtocolError says that a server sent what it must not send. The connection is
// closed then.
type ProtocolError struct {
	Server string
	Reason string
	Err    error // of decoding, may be nil
}

func (e *ProtocolError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("zeo server %s: protocol violated: %s", e.Server, e.Reason)
	}
	return fmt.Sprintf("zeo server %s: protocol violated: %s: %v", e.Server, e.Reason, e.Err)
}

// Unwrap returns the error of decoding.
func (e *ProtocolError) Unwrap() error { return e.Err }

// TimeoutError says that a server did not answer a call in time.
type TimeoutError struct {
	Server string
	Call   string
	After  time.Duration
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("zeo server %s: no answer to %s after %v", e.Server, e.Call, e.After)
}

// Timeout tells that it is one, as net.Error does.
func (e *TimeoutError) Timeout() bool { return true }

// ServerError is an exception of the server that says nothing about the data: the
// server itself failed.
type ServerError struct {
	Server string
	Call   string
	Class  string // the exception's, as a dotted path
	State  string // what it says, in about Python's notation
}

func (e *ServerError) Error() string {
	return fmt.Sprintf("zeo server %s: %s raised %s%s", e.Server, e.Call, e.Class, e.State)
}

// BehindError says that a server's last transaction is older than one that it, or
// another server of the same storage, has told before: it lost transactions, or is
// another database.
type BehindError struct {
	Server string
	Last   raidstorage.TID // what it says now
	Seen   raidstorage.TID // what was told before
}

func (e *BehindError) Error() string {
	return fmt.Sprintf("zeo server %s is behind: its last transaction is %v, but %v was there already",
		e.Server, e.Last, e.Seen)
}

// exceptionError is an exception of the server that the caller of a call has yet to
// turn into an error of the contract.
type exceptionError struct{ exc *zeowire.Exception }

func (e *exceptionError) Error() string { return e.exc.Error() }

// violation is the error of a reply that is not what its call promises; the
// connection makes a *ProtocolError of it.
type violation string

func (v violation) Error() string { return string(v) }
