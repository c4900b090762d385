package admin

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/zeoraid/raidstorage"
)

// Verify tells how far a verification is: a raidstorage.VerifyProgress.
type Verify struct {
	Phase        string `json:"phase"`
	TID          TID    `json:"tid"`
	Through      TID    `json:"through"`
	OID          OID    `json:"oid"`
	Transactions int64  `json:"transactions"`
	Objects      int64  `json:"objects"`
	Bytes        int64  `json:"bytes"`
	Findings     int64  `json:"findings"`
	Repaired     int64  `json:"repaired"`
}

// Report is what a verification found: a raidstorage.VerifyReport.
type Report struct {
	Verify
	Started  time.Time        `json:"started"`
	Ended    time.Time        `json:"ended"`
	Backends []string         `json:"backends"`
	LeftOut  []string         `json:"left_out,omitempty"` // not in sync, or asynchronous
	Listed   []Finding        `json:"listed"`             // the first ones
	Wrong    map[string]int64 `json:"wrong,omitempty"`
	Degraded []string         `json:"degraded,omitempty"`
	// Kept says why those that are wrong were not degraded, Unread which backends could
	// not be compared to the end.
	Kept   string            `json:"kept,omitempty"`
	Unread map[string]string `json:"unread,omitempty"`
}

// Finding is something that a backend holds differently: a raidstorage.Finding.
type Finding struct {
	Backend  string `json:"backend"`
	Kind     string `json:"kind"`
	OID      OID    `json:"oid"`
	TID      TID    `json:"tid"`
	Detail   string `json:"detail,omitempty"`
	Wrong    bool   `json:"wrong"`
	Repaired bool   `json:"repaired,omitempty"`
	Text     string `json:"text"` // all of it, for people
}

// OID is an object's id, in JSON 16 hex digits.
type OID raidstorage.OID

// String returns the 16 hex digits.
func (o OID) String() string { return raidstorage.OID(o).String() }

// MarshalText makes JSON show the digits.
func (o OID) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads what MarshalText wrote. Errors: *raidstorage.InvalidError.
func (o *OID) UnmarshalText(b []byte) error {
	v, err := raidstorage.ParseOID(string(b))
	*o = OID(v)
	return err
}

// verifier compares the backends of a mirror, and tells how far it is.
type verifier func(ctx context.Context, m *raidstorage.Mirror, q Request, progress func(Verify)) (*Report, error)

func (s *Server) verify(q *request) {
	j, ok := q.begin(q.ctx, func(ctx context.Context, j *job) {
		j.report, j.err = s.verifier(ctx, q.mirror, q.asked, func(v Verify) {
			j.tell(Message{Type: TypeProgress, Verify: &v, Time: s.cfg.Clock().UTC(), Text: fmt.Sprintf(
				"%s: %d transactions, %d objects, %d bytes compared, %d findings, %d repaired", v.Phase, v.Transactions, v.Objects, v.Bytes, v.Findings, v.Repaired)})
		})
	})
	if ok {
		q.follow(j, nil, nil, "verified")
	}
}

// Scrub is a raidstorage.ScrubStatus.
type Scrub struct {
	Interval       time.Duration `json:"interval_ns"`
	BytesPerSecond int64         `json:"bytes_per_second"`
	Repair         bool          `json:"repair"`
	Running        *Verify       `json:"running,omitempty"` // nil between two runs
	Started        time.Time     `json:"started,omitzero"`
	Waits          string        `json:"waits,omitempty"` // for what it waits now
	Next           time.Time     `json:"next,omitzero"`
	Last           *Report       `json:"last,omitempty"` // of the last run that came to its end
	Runs           int64         `json:"runs"`
	Bytes          int64         `json:"bytes"`
	Findings       int64         `json:"findings"`
	Repaired       int64         `json:"repaired"`
}

func scrubOf(st *raidstorage.ScrubStatus) *Scrub {
	if st == nil {
		return nil
	}
	s := &Scrub{
		Interval: st.Interval, BytesPerSecond: st.BytesPerSecond, Repair: st.Repair, Started: st.Started, Waits: st.Waits, Next: st.Next,
		Runs: st.Runs, Bytes: st.Bytes, Findings: st.Findings, Repaired: st.Repaired,
	}
	if st.Running != nil {
		running := verifyOf(*st.Running)
		s.Running = &running
	}
	if st.Last != nil {
		s.Last = reportOf(*st.Last)
	}
	return s
}

// verdict says what a verification without differences means.
func (r *Report) verdict() string {
	if len(r.Backends) < 2 {
		return fmt.Sprintf("only %s is in sync and could be read: there was nothing to compare it with", strings.Join(r.Backends, ", "))
	}
	text := "the backends hold the same: " + strings.Join(r.Backends, ", ")
	if len(r.LeftOut) > 0 {
		text += "; left out: " + strings.Join(r.LeftOut, ", ")
	}
	if r.Repaired > 0 {
		text += fmt.Sprintf("; %d findings were repaired: look at the disks", r.Repaired)
	}
	return text
}

// differences says that a verification found some, nil if it did not.
func (r *Report) differences() *Failure {
	if r.Findings == r.Repaired && len(r.Unread) > 0 {
		f := &Failure{Kind: KindFailed, Text: "not all backends could be compared"}
		for _, name := range slices.Sorted(maps.Keys(r.Unread)) {
			f.Text += fmt.Sprintf("; %s: %s", name, r.Unread[name])
		}
		return f
	}
	if r.Findings == r.Repaired {
		return nil
	}
	f := &Failure{Kind: KindDifferent, Text: fmt.Sprintf("the backends differ: %d findings", r.Findings)}
	if r.Repaired > 0 {
		f.Text += fmt.Sprintf(", %d repaired", r.Repaired)
	}
	if len(r.Degraded) > 0 {
		f.Text += fmt.Sprintf(", degraded %v", r.Degraded)
		f.Hint = "when its disk is sound: zeoraid recover " + r.Degraded[0] + " -wait"
	}
	if r.Kept != "" {
		f.Text += ", and who is wrong was kept: " + r.Kept
	}
	return f
}
