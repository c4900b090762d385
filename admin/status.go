package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// The types here are those of raidstorage as the control's JSON has them: with tids as
// the 16 hex digits that logs show, which no reader rounds, and able to be read again.

// TID is a transaction's id, in JSON 16 hex digits.
type TID raidstorage.TID

// String returns the 16 hex digits.
func (t TID) String() string { return raidstorage.TID(t).String() }

// MarshalText makes JSON show the digits.
func (t TID) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads what MarshalText wrote. Errors: *raidstorage.InvalidError.
func (t *TID) UnmarshalText(b []byte) error {
	v, err := raidstorage.ParseTID(string(b))
	*t = TID(v)
	return err
}

// Status is the answer to GET /status.
type Status struct {
	Time    time.Time `json:"time"`
	Mirrors []Mirror  `json:"mirrors"` // by name
	Servers []Served  `json:"servers"` // by name: what the ZEO server tells of each storage
}

// Mirror is a raidstorage.Status.
type Mirror struct {
	Name        string     `json:"name"`      // under which it is served
	Condition   string     `json:"condition"` // optimal, recovering, degraded, failed
	Reason      string     `json:"reason,omitempty"`
	LastTID     TID        `json:"last_tid"`
	WriteQuorum int        `json:"write_quorum"`
	Membership  Membership `json:"membership"`
	Backends    []Backend  `json:"backends"`
	Pack        *Pack      `json:"pack,omitempty"`
	// CatchUp tells how commits are slowed so that recoveries catch up.
	CatchUp raidstorage.CatchUpStatus `json:"catch_up"`
	Scrub   *Scrub                    `json:"scrub,omitempty"` // nil: it is off
}

// Membership is a raidstorage.Membership.
type Membership struct {
	Epoch       uint64   `json:"epoch"`
	Mirror      string   `json:"mirror"`
	Members     []string `json:"members"`
	InSync      []string `json:"in_sync"`
	Disabled    []string `json:"disabled,omitempty"`
	Joining     string   `json:"joining,omitempty"`
	PackHorizon TID      `json:"pack_horizon"`
	Unpacked    []string `json:"unpacked,omitempty"`
	Damaged     []string `json:"damaged,omitempty"`
	// Roles are those of the members that are, or are configured as, something else than full.
	Roles  map[string]raidstorage.MemberRole `json:"roles,omitempty"`
	Lock   *raidstorage.RecordLock           `json:"lock,omitempty"`
	Reason string                            `json:"reason"`
	Time   time.Time                         `json:"time"`
}

// Backend is a raidstorage.BackendStatus, with a hint.
type Backend struct {
	Name            string               `json:"name"`
	Role            string               `json:"role"`            // full, async, spare
	Configured      string               `json:"configured_role"` // the same
	State           string               `json:"state"`           // in sync, suspect, failed, recovering, disabled, following, standby
	Reason          string               `json:"reason,omitempty"`
	Hint            string               `json:"hint,omitempty"` // what an operator can do
	Since           time.Time            `json:"since"`
	LastTID         TID                  `json:"last_tid"`
	LagTransactions int64                `json:"lag_transactions"` // -1: not known
	LagBytes        int64                `json:"lag_bytes"`        // -1: not known
	Lag             time.Duration        `json:"lag_ns"`
	Counters        raidstorage.Counters `json:"counters"`
	Latency         time.Duration        `json:"latency_ns"`
	Recovery        *Recovery            `json:"recovery,omitempty"`
	History         []Change             `json:"history"` // oldest first
}

// Change is a change of a backend's state.
type Change struct {
	Time   time.Time `json:"time"`
	From   string    `json:"from"`
	To     string    `json:"to"`
	Reason string    `json:"reason,omitempty"`
}

// Recovery is a raidstorage.RecoveryProgress.
type Recovery struct {
	Backend          string        `json:"backend"`
	Phase            string        `json:"phase"`
	Started          time.Time     `json:"started"`
	TID              TID           `json:"tid"`
	Target           TID           `json:"target"`
	Transactions     int64         `json:"transactions"`
	Bytes            int64         `json:"bytes"`
	TransactionsToDo int64         `json:"transactions_to_do"` // -1: not known
	BytesToDo        int64         `json:"bytes_to_do"`        // -1: not known
	Rate             float64       `json:"rate"`
	Left             time.Duration `json:"left_ns"`
}

// Pack is a raidstorage.PackProgress.
type Pack struct {
	Phase    string    `json:"phase"`
	Started  time.Time `json:"started"`
	Reason   string    `json:"reason,omitempty"`
	Through  TID       `json:"through"`
	Cut      TID       `json:"cut"`
	Garbage  int64     `json:"garbage"` // -1: not known
	Packed   []string  `json:"packed"`
	Failed   []string  `json:"failed"`
	Compared int64     `json:"compared"`
}

// Served is a zeoserver.Status.
type Served struct {
	Name              string    `json:"name"`
	Connections       int       `json:"connections"`
	Loads             int64     `json:"loads"`
	Stores            int64     `json:"stores"`
	Commits           int64     `json:"commits"`
	Aborts            int64     `json:"aborts"`
	ActiveTxns        int64     `json:"active_txns"`
	Conflicts         int64     `json:"conflicts"`
	ConflictsResolved int64     `json:"conflicts_resolved"`
	Waiting           int       `json:"waiting"`
	LockedSince       time.Time `json:"locked_since,omitzero"`
	Start             time.Time `json:"start"`
	LastTID           TID       `json:"last_tid"`
	Timeout           bool      `json:"timeout"`
}

// Status returns what GET /status answers.
func (s *Server) Status() Status {
	st := Status{Time: s.cfg.Clock().UTC(), Mirrors: []Mirror{}, Servers: []Served{}}
	for _, name := range s.mirrorNames() {
		st.Mirrors = append(st.Mirrors, mirrorOf(name, s.cfg.Mirrors[name].Status()))
	}
	for name, v := range s.served() {
		st.Servers = append(st.Servers, Served{
			Name: name, Connections: v.Connections, Loads: v.Loads, Stores: v.Stores, Commits: v.Commits,
			Aborts: v.Aborts, ActiveTxns: v.ActiveTxns, Conflicts: v.Conflicts, ConflictsResolved: v.ConflictsResolved,
			Waiting: v.Waiting, LockedSince: v.LockedSince, Start: v.Start, LastTID: TID(v.LastTID), Timeout: v.Timeout,
		})
	}
	slices.SortFunc(st.Servers, func(a, b Served) int { return strings.Compare(a.Name, b.Name) })
	return st
}

func (s *Server) served() map[string]zeoserver.Status {
	if s.cfg.Server == nil {
		return nil
	}
	return s.cfg.Server()
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	st := s.Status()
	if name := r.URL.Query().Get("mirror"); name != "" {
		st.Mirrors = slices.DeleteFunc(st.Mirrors, func(m Mirror) bool { return m.Name != name })
		if len(st.Mirrors) == 0 {
			refuse(w, http.StatusNotFound, Failure{Kind: KindInvalid, Text: s.noMirror(name)})
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(st) // a client that has gone is no fault
}

func (s *Server) noMirror(name string) string {
	names := s.mirrorNames()
	if len(names) == 0 {
		return fmt.Sprintf("there is no mirror %q: this server has none", name)
	}
	return fmt.Sprintf("there is no mirror %q, but %s", name, strings.Join(names, ", "))
}

func mirrorOf(name string, st raidstorage.Status) Mirror {
	r := st.Membership
	m := Mirror{
		Name: name, Condition: st.Condition.String(), Reason: oneLine(st.Reason), LastTID: TID(st.LastTID), WriteQuorum: st.WriteQuorum,
		Membership: Membership{
			Epoch: r.Epoch, Mirror: r.Mirror, Members: r.Members, InSync: r.InSync, Disabled: r.Disabled, Joining: r.Joining,
			PackHorizon: TID(r.PackHorizon), Unpacked: r.Unpacked, Damaged: r.Damaged, Roles: r.Roles, Lock: r.Lock, Reason: oneLine(r.Reason), Time: r.Time,
		},
		Pack: packOf(st.Pack), CatchUp: st.CatchUp, Scrub: scrubOf(st.Scrub),
	}
	for _, b := range st.Backends {
		m.Backends = append(m.Backends, backendOf(b))
	}
	return m
}

func backendOf(b raidstorage.BackendStatus) Backend {
	v := Backend{
		Name: b.Name, Role: b.Role.String(), Configured: b.Configured.String(), State: b.State.String(), Reason: oneLine(b.Reason), Hint: hintFor(b), Since: b.Since, LastTID: TID(b.LastTID),
		LagTransactions: b.LagTransactions, LagBytes: b.LagBytes, Lag: b.Lag, Counters: b.Counters, Latency: b.Latency,
		Recovery: recoveryOf(b.Recovery), History: []Change{},
	}
	for _, e := range b.History {
		v.History = append(v.History, Change{Time: e.Time, From: e.From.String(), To: e.To.String(), Reason: oneLine(e.Reason)})
	}
	return v
}

// hintFor says what an operator can do about a backend, "" if nothing.
func hintFor(b raidstorage.BackendStatus) string {
	if b.Role != raidstorage.RoleFull && b.State == raidstorage.StateFailed {
		return "it is tried again by itself; see that its server or disk is there, then: zeoraid recover " + b.Name
	}
	switch b.State {
	case raidstorage.StateSuspect:
		return "a call to it failed; the mirror is about to drop it or to find it complete: look at its server or disk"
	case raidstorage.StateFailed:
		return "see that its server or disk is there again, then: zeoraid recover " + b.Name + " -wait"
	case raidstorage.StateDisabled:
		return "when it may come back: zeoraid recover " + b.Name + " -wait"
	case raidstorage.StateRecovering:
		return "it catches up by itself; to look on: zeoraid recover " + b.Name + " -wait"
	}
	return ""
}

func recoveryOf(p *raidstorage.RecoveryProgress) *Recovery {
	if p == nil {
		return nil
	}
	return &Recovery{
		Backend: p.Backend, Phase: string(p.Phase), Started: p.Started, TID: TID(p.TID), Target: TID(p.Target),
		Transactions: p.Transactions, Bytes: p.Bytes, TransactionsToDo: p.TransactionsToDo, BytesToDo: p.BytesToDo,
		Rate: p.Rate, Left: p.Left,
	}
}

func packOf(p *raidstorage.PackProgress) *Pack {
	if p == nil {
		return nil
	}
	return &Pack{
		Phase: string(p.Phase), Started: p.Started, Reason: oneLine(p.Reason), Through: TID(p.Through), Cut: TID(p.Cut),
		Garbage: p.Garbage, Packed: p.Packed, Failed: p.Failed, Compared: p.Compared,
	}
}

// oneLine keeps the lines of monitoring and of logs apart.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
