package storagetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/zeoraid/raidstorage"
)

// ErrInjected is what all errors of a FaultyStorage match that were not given
// otherwise in the Fault.
var ErrInjected = errors.New("injected fault")

// Call names a method of a storage or a transaction, or a step of an iteration.
type Call string

// The calls that a FaultyStorage sees.
const (
	CallAny Call = "" // every call but CallNotify

	CallLoad    Call = "load"
	CallLastTID Call = "lasttid"
	CallNewOIDs Call = "newoids"
	CallBegin   Call = "begin"
	CallIterate Call = "iterate"
	CallNext    Call = "next" // before a transaction or current record is yielded
	CallClose   Call = "close"

	CallStore        Call = "store"
	CallDelete       Call = "delete"
	CallCheckCurrent Call = "checkcurrent"
	CallRestore      Call = "restore"
	CallUndo         Call = "undo"
	CallStoreBlob    Call = "storeblob"
	CallVote         Call = "vote"
	CallFinish       Call = "finish" // StartFinish, too
	CallAwait        Call = "await"  // of a finish that was started
	CallAbort        Call = "abort"

	CallUndoLog        Call = "undolog"
	CallHistory        Call = "history"
	CallPack           Call = "pack"
	CallFindGarbage    Call = "findgarbage"
	CallEstimatePack   Call = "estimatepack"
	CallStagePack      Call = "stagepack"
	CallRelinked       Call = "relinked" // this and the next three are of a staged pack
	CallCatchUp        Call = "catchup"
	CallSwitch         Call = "switch"
	CallEndPack        Call = "endpack" // does reach the storage, as Abort
	CallOpenBlob       Call = "openblob"
	CallTruncate       Call = "truncate"
	CallSize           Call = "size"
	CallCurrentRecords Call = "currentrecords"
	CallMend           Call = "mend" // of a record, or the last step of a blob's
	CallStageBlob      Call = "stageblob"

	// CallNotify is one invalidation on its way to one subscriber. It comes at its
	// own time, so that CallAny does not count it. Fail loses it; other kinds only
	// run the hook.
	CallNotify Call = "notify"
)

// Kind says what a Fault does to the call that it hits.
type Kind int

const (
	// Fail returns the error; the call does not reach the storage. A vote or finish
	// that fails ends its transaction, and its lock is freed. Close and Abort do
	// reach the storage, for nothing else would ever free what they free.
	Fail Kind = iota
	// Observe only runs the hook and waits for the delay.
	Observe
	// Hang waits until Release or until the context ends, and then goes on, or
	// returns the context's error.
	Hang
	// HangHard waits until Release, whatever the context says, like a system call
	// on a dead disk.
	HangHard
	// LoseReply lets the call take effect and then returns the error.
	LoseReply
	// Corrupt lies about the result: a bit of the data is flipped (load, openblob,
	// iterate, next, currentrecords), the tid is 1 higher (lasttid, vote's Last,
	// finish). For other calls it is Fail.
	Corrupt
	// Disconnect is CutOff at this call, which does not reach the storage.
	Disconnect
)

// String returns the kind in lower case.
func (k Kind) String() string {
	names := [...]string{"fail", "observe", "hang", "hang hard", "lose reply", "corrupt", "disconnect"}
	if k < 0 || int(k) >= len(names) {
		return fmt.Sprintf("kind %d", int(k))
	}
	return names[k]
}

// Fault is one thing that goes wrong. The zero value fails every call.
type Fault struct {
	Call Call // which calls it may hit; CallAny: all
	Kind Kind
	// After is how many such calls are let pass first, counted from Inject on, so
	// that 0 hits the next one. Calls in different goroutines have no order that a
	// test may rely on.
	After int
	// Times is how many calls are hit at most; 0 means every one.
	Times int
	// Chance is the probability, up to 1, that a call is hit that the fields above
	// admit; 0 means 1. Whether the nth one is hit depends on Seed and n alone.
	Chance float64
	Seed   uint64
	// Err is the error to return instead of one that matches ErrInjected.
	Err error
	// Delay is how long the call waits first, unless its context ends before.
	Delay time.Duration
	// Hook is run in the goroutine of the call, before it reaches the storage, or
	// with LoseReply after. It may use the FaultyStorage.
	Hook func()
}

// FailCall returns the fault that fails call n, from 0, of all calls of a storage.
// To fail each call of a workload in turn, count n up until Fired returns 0.
func FailCall(n int) Fault { return Fault{After: n, Times: 1} }

// String describes the fault in a line, such as "fail vote, after 2, 1 times".
func (f Fault) String() string {
	call := string(f.Call)
	if f.Call == CallAny {
		call = "any call"
	}
	parts := []string{fmt.Sprintf("%v %s", f.Kind, call)}
	if f.After > 0 {
		parts = append(parts, fmt.Sprintf("after %d", f.After))
	}
	if f.Times > 0 {
		parts = append(parts, fmt.Sprintf("%d times", f.Times))
	}
	if f.Chance > 0 {
		parts = append(parts, fmt.Sprintf("chance %g, seed %d", f.Chance, f.Seed))
	}
	if f.Delay > 0 {
		parts = append(parts, fmt.Sprintf("delay %v", f.Delay))
	}
	if f.Err != nil {
		parts = append(parts, fmt.Sprintf("error %q", f.Err))
	}
	if f.Hook != nil {
		parts = append(parts, "with a hook")
	}
	return strings.Join(parts, ", ")
}

// err returns the fault's error for a call.
func (f Fault) err(rec CallRecord) error {
	if f.Err != nil {
		return f.Err
	}
	return fmt.Errorf("%w: %v at call %d, %s", ErrInjected, f.Kind, rec.N, rec.Call)
}

// injected is a Fault at work. Its owner's mutex guards it.
type injected struct {
	Fault
	seen, fired int
}

// hit counts a call and tells whether the fault hits it.
func (i *injected) hit(call Call) bool {
	if i.Call != call && (i.Call != CallAny || call == CallNotify) {
		return false
	}
	n := i.seen - i.After
	i.seen++
	if n < 0 || i.Times > 0 && i.fired >= i.Times {
		return false
	}
	// A generator of its own for each call: the decision about call n is the same
	// however many goroutines call.
	if i.Chance > 0 && rand.New(rand.NewPCG(i.Seed, uint64(n))).Float64() >= i.Chance {
		return false
	}
	return true
}

// CallRecord is a call that a FaultyStorage saw.
type CallRecord struct {
	N     int // the number among all calls of the storage but CallNotify, from 0
	Call  Call
	OID   raidstorage.OID // what the call is about, 0 if no oid
	TID   raidstorage.TID // serial, before, from, ..., or the tid that finish returned
	Fault string          // the fault that hit it, empty for none
	Done  bool            // it has returned
	Err   error           // what it returned
}

// String returns the record in a line.
func (r CallRecord) String() string {
	s := fmt.Sprintf("%d %s oid %v tid %v", r.N, r.Call, r.OID, r.TID)
	if r.Fault != "" {
		s += " [" + r.Fault + "]"
	}
	switch {
	case !r.Done:
		s += ": under way"
	case r.Err != nil:
		s += ": " + r.Err.Error()
	}
	return s
}
