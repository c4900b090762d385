package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/zeoraid/raidstorage"
)

// Op is what a client asks for.
type Op string

// The operations.
const (
	OpRecover Op = "recover" // a backend
	OpDisable Op = "disable" // a backend
	OpPromote Op = "promote" // a backend, to a full one
	OpDemote  Op = "demote"  // a backend
	OpPack    Op = "pack"
	OpVerify  Op = "verify"
	OpReload  Op = "reload" // of the whole server: no mirror is named
)

// Request is the body of a POST. Fields that mean nothing to the operation are refused
// if they are set.
type Request struct {
	Backend string `json:"backend,omitempty"` // recover, disable, promote, demote
	// Wait makes recover and promote answer when the backend is in sync or has failed, instead of
	// as soon as the recovery goes on by itself.
	Wait     bool   `json:"wait,omitempty"`
	Rollback bool   `json:"rollback,omitempty"` // recover: raidstorage.RecoverOptions
	Full     bool   `json:"full,omitempty"`     // recover: raidstorage.RecoverOptions
	Reason   string `json:"reason,omitempty"`   // disable: for the record
	Days     int    `json:"days,omitempty"`     // pack: what was current in the last days stays
	NoGC     bool   `json:"no_gc,omitempty"`    // pack: keep what cannot be reached
	Blobs    bool   `json:"blobs,omitempty"`    // verify: raidstorage.VerifyOptions, as the next two
	Repair   bool   `json:"repair,omitempty"`
	KeepAll  bool   `json:"keep_all,omitempty"`
	// BytesPerSecond bounds how fast records are compared, by verify or after a pack; 0
	// for no bound, or the configured one of packs.
	BytesPerSecond int64 `json:"bytes_per_second,omitempty"`
	DryRun         bool  `json:"dry_run,omitempty"` // reload, pack: tell what would change, and change nothing
}

// Limits of a Request's fields.
const (
	maxReason = 1000
	maxDays   = 36500
)

// validate returns what is wrong with a request for op, "" for nothing.
func (r Request) validate(op Op) string {
	backend := op == OpRecover || op == OpDisable || op == OpPromote || op == OpDemote
	switch {
	case backend != (r.Backend != ""):
		return fmt.Sprintf("%s of backend %q", op, r.Backend)
	case op != OpRecover && op != OpPromote && r.Wait:
		return "wait is for recover and promote"
	case op != OpRecover && (r.Rollback || r.Full):
		return "rollback and full are for recover"
	case op != OpDisable && r.Reason != "":
		return "reason is for disable"
	case op != OpPack && (r.Days != 0 || r.NoGC):
		return "days and no_gc are for pack"
	case op != OpVerify && (r.Blobs || r.Repair || r.KeepAll):
		return "blobs, repair and keep_all are for verify"
	case op != OpVerify && op != OpPack && r.BytesPerSecond != 0:
		return "bytes_per_second is for verify and pack"
	case op != OpReload && op != OpPack && r.DryRun:
		return "dry_run is for reload and pack"
	case op == OpPack && r.DryRun && r.BytesPerSecond != 0:
		return "bytes_per_second is not for a dry run"
	case r.BytesPerSecond < 0:
		return "bytes_per_second must not be negative"
	case r.Days < 0 || r.Days > maxDays:
		return fmt.Sprintf("days must be 0 to %d, not %d", maxDays, r.Days)
	case len(r.Reason) > maxReason:
		return fmt.Sprintf("the reason has more than %d bytes", maxReason)
	}
	return ""
}

// MessageType says what a Message tells.
type MessageType string

// The types of messages: begin is the first line, end the last one.
const (
	TypeBegin    MessageType = "begin"
	TypeProgress MessageType = "progress"
	TypeEnd      MessageType = "end"
)

// Message is one line of the answer to a POST.
type Message struct {
	Type     MessageType `json:"type"`
	Op       Op          `json:"op"`
	Mirror   string      `json:"mirror"`
	Backend  string      `json:"backend,omitempty"`
	Time     time.Time   `json:"time"`
	Text     string      `json:"text"`             // for people, one line
	Joined   bool        `json:"joined,omitempty"` // begin: somebody else had begun it
	Missed   int         `json:"missed,omitempty"` // progress that the client was too slow for
	Recovery *Recovery   `json:"recovery,omitempty"`
	Pack     *Pack       `json:"pack,omitempty"`
	Verify   *Verify     `json:"verify,omitempty"`
	GoesOn   bool        `json:"goes_on,omitempty"` // end: of the answer, not of the recovery
	Failure  *Failure    `json:"failure,omitempty"` // end: nil if it was done
	Report   *Report     `json:"report,omitempty"`  // end of a verification that came to its end
	// Difference is what a reload changes, or would, one thing a line: at its end, with
	// a Failure too.
	Difference []string  `json:"difference,omitempty"`
	Estimate   *Estimate `json:"estimate,omitempty"` // end of a pack's dry run
}

// Failure says why something was not done. It is an error.
type Failure struct {
	Kind Kind   `json:"kind"`
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"` // what an operator can do
}

func (f *Failure) Error() string { return f.Text }

// Kind is the reason of a Failure, for programs.
type Kind string

// The kinds of failures.
const (
	KindInvalid     Kind = "invalid"     // the request makes no sense, or names what is not there
	KindForbidden   Kind = "forbidden"   // it comes from elsewhere
	KindBusy        Kind = "busy"        // something else must end first
	KindDiverged    Kind = "diverged"    // the backend holds what the mirror does not
	KindUnavailable Kind = "unavailable" // too few backends are in sync
	KindUnsupported Kind = "unsupported" // the backends cannot do it
	KindClosed      Kind = "closed"      // the server is ending
	KindDifferent   Kind = "different"   // a verification found that backends differ
	KindFailed      Kind = "failed"      // anything else
)

// failureOf returns what is told of err, nil for nil.
func failureOf(err error) *Failure {
	if err == nil {
		return nil
	}
	f := &Failure{Kind: KindFailed, Text: oneLine(err.Error())}
	switch {
	case isA[*raidstorage.DivergedError](err):
		f.Kind, f.Hint = KindDiverged, divergedHint(err)
	case isA[*raidstorage.BusyError](err):
		f.Kind, f.Hint = KindBusy, "ask again when that has ended"
	case isA[*raidstorage.UnavailableError](err):
		f.Kind, f.Hint = KindUnavailable, "bring another backend back first: zeoraid recover"
	case isA[*raidstorage.InvalidError](err):
		f.Kind = KindInvalid
	case errors.Is(err, errors.ErrUnsupported):
		f.Kind = KindUnsupported
	case errors.Is(err, raidstorage.ErrClosed), errors.Is(err, context.Canceled):
		f.Kind, f.Hint = KindClosed, "the server is ending; ask again when it runs"
	}
	return f
}

func divergedHint(err error) string {
	d, _ := errors.AsType[*raidstorage.DivergedError](err)
	if d.Common == 0 {
		return "it holds another database: put it elsewhere, give the backend an empty one, and recover again"
	}
	return "zeoraid recover " + d.Backend + " -rollback cuts off what only it holds, if its storage can; else give the backend an empty database"
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
