package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/zeoraid/raidstorage/internal/loadgen"
)

// benchRow is a line of the table: one kind of work and what came of it.
type benchRow struct {
	Work        string  `json:"work"`
	Connections int     `json:"connections"`
	InFlight    int     `json:"in_flight"`
	Objects     int     `json:"objects_per_commit,omitempty"`
	PerSecond   float64 `json:"per_second"`
	P50Micros   float64 `json:"p50_us"`
	P99Micros   float64 `json:"p99_us"`
	// Of the server to compare with, in the same run.
	PeerPerSecond float64 `json:"peer_per_second,omitempty"`
	PeerP50Micros float64 `json:"peer_p50_us,omitempty"`
	Ratio         float64 `json:"ratio,omitempty"`
}

// benchWorks is the table's first columns.
func benchWorks(bytes int, d time.Duration) []loadgen.Work {
	works := []loadgen.Work{
		{Connections: 1, InFlight: 1},
		{Connections: 8, InFlight: 1},
		{Connections: 8, InFlight: 16},
		{Connections: 1, InFlight: 1, Writes: 1},
		{Connections: 8, InFlight: 1, Writes: 1},
		{Connections: 1, InFlight: 1, Writes: 100},
	}
	for i := range works {
		works[i].RecordBytes, works[i].Duration = bytes, d
	}
	return works
}

func (e env) bench(ctx context.Context, args []string) int {
	set := e.flags("zeoraid bench", "ADDRESS [PEER]", "Measures the ZEO server at ADDRESS from outside, without a cache: loads and commits.\n"+
		"With PEER, another server, it does the same there, by turns, and prints the ratios.\n"+
		"It writes objects that nothing refers to: a pack with garbage collection removes them.\n"+
		"Do not run it on a server that others need now.")
	storage := set.String("storage", "1", "the storage's name")
	objects := set.Int("objects", 2500, "how many objects to load from")
	bytes := set.Int("bytes", 200, "length of a record, up to 300")
	d := set.Duration("time", 2*time.Second, "how long each kind of work takes, on each server and round")
	rounds := set.Int("rounds", 3, "how often each is done; the best one counts")
	asJSON := set.Bool("json", false, "print one JSON object a line")
	if status, ok := e.parse(set, args, 1, 2); !ok {
		return status
	}
	if *objects < 1 || *bytes < 1 || *d <= 0 || *rounds < 1 {
		fmt.Fprintln(e.stderr, "zeoraid bench: -objects, -bytes, -time and -rounds must be positive")
		return exitUnknown
	}
	var targets []benchTarget
	for _, address := range set.Args() {
		t := loadgen.Target{Address: address, Storage: *storage}
		loaded, err := loadgen.Populate(ctx, t, *objects, *bytes)
		if err != nil {
			fmt.Fprintf(e.stderr, "zeoraid bench: %v\n", err)
			return exitUnknown
		}
		targets = append(targets, benchTarget{t, loaded})
	}
	for _, work := range benchWorks(*bytes, *d) {
		row, err := benchOne(ctx, targets, work, *rounds)
		if err != nil {
			fmt.Fprintf(e.stderr, "zeoraid bench: %v\n", err)
			return exitUnknown
		}
		e.benchPrint(row, *asJSON)
	}
	return exitClean
}

// benchTarget is a server with objects to load.
type benchTarget struct {
	loadgen.Target
	objects *loadgen.Objects
}

// benchOne does one kind of work on all targets, by turns so that what else the machine
// does meanwhile concerns all of them, and keeps each one's best round.
func benchOne(ctx context.Context, targets []benchTarget, work loadgen.Work, rounds int) (benchRow, error) {
	best := make([]loadgen.Result, len(targets))
	for range rounds {
		for i, t := range targets {
			r, err := loadgen.Run(ctx, t.Target, t.objects, work)
			if err != nil {
				return benchRow{}, err
			}
			if best[i].Operations == 0 || r.PerSecond() > best[i].PerSecond() {
				best[i] = r
			}
		}
	}
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	row := benchRow{
		Work: "load", Connections: work.Connections, InFlight: work.InFlight, Objects: work.Writes,
		PerSecond: best[0].PerSecond(), P50Micros: micros(best[0].P50), P99Micros: micros(best[0].P99),
	}
	if work.Writes > 0 {
		row.Work = "commit"
	}
	for _, peer := range best[1:] {
		row.PeerPerSecond, row.PeerP50Micros = peer.PerSecond(), micros(peer.P50)
		row.Ratio = row.PerSecond / row.PeerPerSecond
	}
	return row, nil
}

func (e env) benchPrint(row benchRow, asJSON bool) {
	if asJSON {
		json.NewEncoder(e.stdout).Encode(row)
		return
	}
	what := fmt.Sprintf("%s, %s, %d in flight", row.Work, counted(int64(row.Connections), "connection", "connections"), row.InFlight)
	if row.Objects > 0 {
		what = fmt.Sprintf("%s of %s, %s", row.Work, counted(int64(row.Objects), "object", "objects"), counted(int64(row.Connections), "client", "clients"))
	}
	fmt.Fprintf(e.stdout, "%-36s %9.0f/s  p50 %7.0f us  p99 %7.0f us", what, row.PerSecond, row.P50Micros, row.P99Micros)
	if row.Ratio > 0 {
		fmt.Fprintf(e.stdout, "   peer %9.0f/s  p50 %7.0f us   ratio %.2f", row.PeerPerSecond, row.PeerP50Micros, row.Ratio)
	}
	fmt.Fprintln(e.stdout)
}
