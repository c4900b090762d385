package zeoserver

import (
	"encoding/json"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// Status is what server_status and ruok tell of one storage.
type Status struct {
	Connections       int
	Loads             int64
	Stores            int64
	Commits           int64
	Aborts            int64
	ActiveTxns        int64
	Conflicts         int64
	ConflictsResolved int64
	Waiting           int       // votes that wait for the commit lock
	LockedSince       time.Time // zero while nobody holds the commit lock
	Start             time.Time // of the server
	LastTID           raidstorage.TID
	Timeout           bool // whether there is a transaction timeout
}

// field is an entry of the dict that clients and monitoring get.
type field struct {
	name  string
	value any // int64, float64, string, bool or nil
}

// fields has the names that ZEO's StorageStats has, and its order.
func (st Status) fields() []field {
	var lock, alive any = nil, "stub"
	if !st.LockedSince.IsZero() {
		lock = epoch(st.LockedSince)
	}
	if st.Timeout {
		alive = true
	}
	return []field{
		{"connections", int64(st.Connections)},
		{"loads", st.Loads},
		{"stores", st.Stores},
		{"commits", st.Commits},
		{"aborts", st.Aborts},
		{"active_txns", st.ActiveTxns},
		{"lock_time", lock},
		{"conflicts", st.Conflicts},
		{"conflicts_resolved", st.ConflictsResolved},
		{"start", st.Start.Local().Format(time.ANSIC)},
		{"waiting", int64(st.Waiting)},
		{"timeout-thread-is-alive", alive},
		{"last-transaction", st.LastTID.String()},
	}
}

// epoch is a time as Python has it: seconds since 1970.
func epoch(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// value is the dict of server_status.
func (st Status) value() zeowire.Value {
	var pairs []zeowire.Pair
	for _, f := range st.fields() {
		var v zeowire.Value
		switch x := f.value.(type) {
		case int64:
			v = zeowire.Int(x)
		case float64:
			v = zeowire.Float(x)
		case string:
			v = zeowire.Text(x)
		case bool:
			v = zeowire.Bool(x)
		}
		pairs = append(pairs, zeowire.Entry(f.name, v))
	}
	return zeowire.Dict(pairs...)
}

// ruok is the JSON object that answers the ruok handshake.
func ruok(all map[string]Status) ([]byte, error) {
	out := make(map[string]map[string]any, len(all))
	for name, st := range all {
		m := make(map[string]any)
		for _, f := range st.fields() {
			m[f.name] = f.value
		}
		out[name] = m
	}
	return json.Marshal(out)
}
