package raidstorage_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// The process that is killed: this test binary, started with killEnv. It opens a
// mirror over three files and commits until it dies. What it says goes to standard
// output, a line at a time, each in one write that a kill cannot split:
//
//	start                     the mirror is about to be opened
//	open TID                  it is open, and ends there
//	log TID NAME CONTENT      a transaction in its log, from killOrder.From on
//	ready TID                 the log was listed up to there
//	oids OID,...              NewOIDs gave these
//	try NAME CONTENT          a transaction has voted and is about to be finished
//	ack TID NAME              its Finish returned
//	event TEXT                something happened to the mirror
//	fail TEXT                 what must not be; the process ends
//
// NAME is the transaction's description, CONTENT its OID=DIGEST,... in oid order.
const killEnv = "RAIDSTORAGE_KILLTEST"

// TestMain looks for leaked goroutines after all tests; in a child of the kill test it
// is the workload, and never ends.
func TestMain(m *testing.M) {
	if order := os.Getenv(killEnv); order != "" {
		os.Exit(killChild(order))
	}
	if dir := os.Getenv(killPackEnv); dir != "" {
		os.Exit(killPackChild(dir))
	}
	goleak.VerifyTestMain(m)
}

// TestKillWorkload runs the workload of the kill test for a while and lets it end in
// peace: what it reports must be right then too.
func TestKillWorkload(t *testing.T) {
	t.Parallel()
	dir := makeKillDir(t)
	ctx, stop := context.WithCancelCause(t.Context())
	defer stop(nil)
	ledger := newKillLedger()
	enough := errors.New("enough")
	c := &child{order: killOrder{Dir: dir, Seed: 1}, stop: stop, out: func(line string) error {
		if err := ledger.note(strings.TrimSuffix(line, "\n")); err != nil {
			return err
		}
		if len(ledger.acked) == 300 {
			return enough
		}
		return nil
	}}
	if err := c.run(ctx); !errors.Is(err, enough) {
		t.Fatal(err)
	}
	for _, kind := range []string{"change", "undo", "delete"} {
		if ledger.kinds[kind] == 0 {
			t.Errorf("of %d transactions none is of kind %s", len(ledger.acked), kind)
		}
	}
	(&killer{t: t, dir: dir, ledger: ledger}).checkEnd()
}

// killOrder is what the parent wants of a child.
type killOrder struct {
	Dir       string
	Seed      uint64
	Round     int
	From      raidstorage.TID // where to list the log from
	Sync      bool            // whether the files are synced, which makes no difference to a kill
	Away      string          // the backend that cannot be opened the first AwayOpens times
	AwayOpens int32
}

// Four objects that all goroutines count up.
const (
	killWriters      = 8
	firstKillCounter = raidstorage.OID(1 << 20) // beyond what NewOIDs gives out at first
)

func killCounter(i int) raidstorage.OID {
	if i == 0 {
		return 0
	}
	return firstKillCounter + raidstorage.OID(i)
}

func isKillCounter(oid raidstorage.OID) bool {
	return oid == 0 || oid > firstKillCounter && oid < firstKillCounter+4
}

// killFile is the file of the backend of index i.
func killFile(dir string, i int) string { return filepath.Join(dir, name(i), "Data.fs") }

func killConfig(o killOrder) raidstorage.Config {
	cfg := raidstorage.Config{StateDir: filepath.Join(o.Dir, "state"), RetryMin: 2 * time.Millisecond, RetryMax: 10 * time.Millisecond}
	opts := filestorage.Options{Durability: filestorage.NoSync}
	if o.Sync {
		opts.Durability = filestorage.Sync
	}
	var opens atomic.Int32 // of the one that is away
	for i := range 3 {
		cfg.Backends = append(cfg.Backends, raidstorage.Backend{Name: name(i), Open: func(ctx context.Context) (raidstorage.Storage, error) {
			if name(i) == o.Away && opens.Add(1) <= o.AwayOpens {
				return nil, errDown
			}
			return filestorage.Open(ctx, killFile(o.Dir, i), opts)
		}})
	}
	return cfg
}

// child runs the workload.
type child struct {
	order killOrder
	m     *raidstorage.Mirror
	stop  context.CancelCauseFunc // ends it

	mu  sync.Mutex // held across out, which keeps lines whole and in order
	out func(line string) error
}

func killChild(order string) int {
	ctx, stop := context.WithCancelCause(context.Background())
	c := &child{stop: stop, out: func(line string) error {
		_, err := os.Stdout.WriteString(line)
		return err
	}}
	if err := json.Unmarshal([]byte(order), &c.order); err != nil {
		c.say("fail %v", err)
		return 1
	}
	go func() { // the parent holds the other end: when it dies, so does the child
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(2)
	}()
	c.say("fail %v", c.run(ctx))
	return 1
}

// say reports; when nobody takes it, the work ends.
func (c *child) say(format string, args ...any) {
	line := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " ") + "\n"
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.out(line); err != nil {
		c.stop(err)
	}
}

// run works until ctx ends, and returns why.
func (c *child) run(ctx context.Context) (err error) {
	c.say("start")
	if c.m, err = raidstorage.Open(ctx, killConfig(c.order)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.m.Close()) }()
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		for e := range c.m.Watch(ctx) {
			c.say("event %v", e)
		}
	})
	last, err := c.m.LastTID(ctx)
	if err != nil {
		return err
	}
	c.say("open %v", last)
	old, err := c.list(ctx, last)
	if err != nil {
		c.stop(err)
		return err
	}
	c.say("ready %v", last)
	if err := c.makeCounters(ctx); err != nil {
		c.stop(err)
		return err
	}
	for g := range killWriters {
		w := &killWriter{child: c, g: g, rng: rand.New(rand.NewPCG(c.order.Seed, uint64(g)))}
		for _, oid := range old {
			if oid%killWriters == raidstorage.OID(g) {
				w.oids = append(w.oids, oid)
			}
		}
		work.Go(func() {
			for ctx.Err() == nil {
				if err := w.step(ctx); err != nil && ctx.Err() == nil {
					c.stop(fmt.Errorf("writer %d: %w", g, err))
				}
			}
		})
	}
	work.Wait()
	return context.Cause(ctx)
}

// makeCounters stores the counters, all at once, if there are none: stored later they
// would get in the way of oids that were handed out.
func (c *child) makeCounters(ctx context.Context) error {
	_, err := c.m.LoadBefore(ctx, 0, raidstorage.MaxTID)
	if _, missing := errors.AsType[*raidstorage.NotFoundError](err); !missing {
		return err
	}
	w := &killWriter{child: c, rng: rand.New(rand.NewPCG(c.order.Seed, killWriters))}
	counters := make([]raidstorage.OID, 4)
	for i := range counters {
		counters[i] = killCounter(i)
	}
	err = w.attempt(ctx, "change", fmt.Sprintf("r%d/counters/change", c.order.Round), counters)
	return err
}

// list tells the log, and returns some of its objects to go on with.
func (c *child) list(ctx context.Context, last raidstorage.TID) ([]raidstorage.OID, error) {
	const keep = 64
	var oids []raidstorage.OID
	for txn, err := range c.m.Iterate(ctx, c.order.From, last) {
		if err != nil {
			return nil, err
		}
		content, err := contentOf(txn)
		if err != nil {
			return nil, err
		}
		c.say("log %v %s %v", txn.TID, txn.Description, content)
		for oid := range content {
			if !isKillCounter(oid) && len(oids) < keep && !slices.Contains(oids, oid) {
				oids = append(oids, oid)
			}
		}
	}
	return oids, nil
}

// killContent is what a transaction does: the digest of each object's data, or "-"
// where there is none afterwards.
type killContent map[raidstorage.OID]string

func (c killContent) String() string {
	var parts []string
	for _, oid := range slices.Sorted(maps.Keys(c)) {
		parts = append(parts, fmt.Sprintf("%v=%s", oid, c[oid]))
	}
	return strings.Join(parts, ",")
}

func killDigest(data []byte) string {
	if data == nil {
		return "-"
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:12])
}

func contentOf(txn *raidstorage.Transaction) (killContent, error) {
	content := make(killContent)
	for rec, err := range txn.Records {
		if err != nil {
			return nil, err
		}
		content[rec.OID] = killDigest(rec.Data)
	}
	return content, nil
}

// killWriter commits. Its objects are its own; the counters it shares.
type killWriter struct {
	*child
	g    int
	rng  *rand.Rand
	oids []raidstorage.OID
	n    int // transactions so far

	last   raidstorage.TID            // a transaction of its own objects only, which can be undone; 0 for none
	before map[raidstorage.OID][]byte // what it changed; nil for what it created
}

// step makes one transaction, again and again until there is no conflict.
func (w *killWriter) step(ctx context.Context) error {
	kind := "change"
	switch p := w.rng.IntN(100); {
	case p < 15 && w.last != 0:
		kind = "undo"
	case p < 25 && len(w.oids) > 8:
		kind = "delete"
	}
	var created []raidstorage.OID
	if kind == "change" && (len(w.oids) < 6 || w.rng.IntN(3) == 0) {
		var err error
		if created, err = w.m.NewOIDs(ctx, 1+w.rng.IntN(3)); err != nil {
			return err
		}
		names := make([]string, len(created))
		for i, oid := range created {
			names[i] = oid.String()
		}
		w.say("oids %s", strings.Join(names, ","))
	}
	w.n++
	for try := 0; ; try++ {
		name := fmt.Sprintf("r%d/g%d/%d.%d/%s", w.order.Round, w.g, w.n, try, kind)
		err := w.attempt(ctx, kind, name, created)
		if _, conflict := errors.AsType[*raidstorage.ConflictError](err); !conflict {
			return err
		}
	}
}

// attempt commits one transaction and looks at what became of it.
func (w *killWriter) attempt(ctx context.Context, kind, name string, created []raidstorage.OID) error {
	txn, err := w.m.Begin(ctx, raidstorage.Meta{User: fmt.Appendf(nil, "writer %d", w.g), Description: []byte(name)})
	if err != nil {
		return err
	}
	defer func() { _ = txn.Abort(ctx) }() // without effect after Finish
	s := &killStaging{w: w, txn: txn, content: killContent{}, before: map[raidstorage.OID][]byte{}}
	switch kind {
	case "undo":
		err = s.undo(ctx)
	case "delete":
		err = s.delete(ctx)
	default:
		err = s.change(ctx, created)
	}
	if err != nil || len(s.content) == 0 {
		return err
	}
	vote, err := txn.Vote(ctx)
	if err != nil {
		return err
	}
	if kind == "undo" && !slices.Equal(vote.Changed, slices.Sorted(maps.Keys(s.content))) {
		return fmt.Errorf("undo of %v changed %v, not %v", w.last, vote.Changed, s.content)
	}
	w.say("try %s %v", name, s.content)
	tid, err := txn.Finish(ctx)
	if err != nil {
		return err
	}
	w.say("ack %v %s", tid, name)
	w.last, w.before = 0, nil
	if kind != "undo" && !s.shared {
		w.last, w.before = tid, s.before
	}
	w.oids = slices.DeleteFunc(append(w.oids, created...), func(oid raidstorage.OID) bool { return s.content[oid] == "-" })
	if kind == "undo" { // brings back what was deleted
		for oid, digest := range s.content {
			if digest != "-" && !slices.Contains(w.oids, oid) {
				w.oids = append(w.oids, oid)
			}
		}
	}
	return w.look(ctx, tid, s.content)
}

// look reads what was just acknowledged, from whichever backend has its turn.
func (w *killWriter) look(ctx context.Context, tid raidstorage.TID, content killContent) error {
	if last, err := w.m.LastTID(ctx); err != nil || last < tid {
		return fmt.Errorf("after commit %v the last tid is %v (%w)", tid, last, err)
	}
	for oid, digest := range content {
		rev, err := w.m.LoadBefore(ctx, oid, tid+1)
		if _, gone := errors.AsType[*raidstorage.NotFoundError](err); gone {
			rev, err = raidstorage.Revision{Serial: tid}, nil
		}
		if err != nil || rev.Serial != tid || killDigest(rev.Data) != digest {
			return fmt.Errorf("object %v, committed as %s by %v, reads as %s of %v (%w)", oid, digest, tid, killDigest(rev.Data), rev.Serial, err)
		}
		break // one will do
	}
	return nil
}

// killStaging is one transaction that is being put together.
type killStaging struct {
	w       *killWriter
	txn     raidstorage.Txn
	content killContent
	before  map[raidstorage.OID][]byte
	shared  bool // it changes a counter
}

// killHeader begins every object's data: the serial that its writer read, and one
// more than the count that it read.
const killHeader = "read %v count %d "

// store writes the next revision of oid. One that somebody deleted is left alone.
func (s *killStaging) store(ctx context.Context, oid raidstorage.OID, isNew bool) error {
	rev, err := s.w.m.LoadBefore(ctx, oid, raidstorage.MaxTID)
	if _, missing := errors.AsType[*raidstorage.NotFoundError](err); missing {
		if !isNew && !isKillCounter(oid) {
			return nil
		}
		rev, err = raidstorage.Revision{}, nil
	}
	if err != nil {
		return err
	}
	_, count := parseKillHeader(rev.Data)
	data := fmt.Appendf(nil, killHeader, rev.Serial, count+1)
	size := s.w.rng.IntN(400)
	if s.w.rng.IntN(40) == 0 {
		size = s.w.rng.IntN(200_000)
	}
	filler := make([]byte, size)
	for i := 0; i < len(filler); i += 8 {
		word := raidstorage.TID(s.w.rng.Uint64()).Bytes()
		copy(filler[i:], word[:])
	}
	data = append(data, filler...)
	s.before[oid], s.content[oid] = rev.Data, killDigest(data)
	return s.txn.Store(ctx, oid, rev.Serial, data)
}

// parseKillHeader returns 0, 0 for no data.
func parseKillHeader(data []byte) (read raidstorage.TID, count int) {
	var serial uint64
	if n, _ := fmt.Sscanf(string(data[:min(len(data), 64)]), "read %x count %d ", &serial, &count); n != 2 {
		return 0, 0
	}
	return raidstorage.TID(serial), count
}

func (s *killStaging) change(ctx context.Context, created []raidstorage.OID) error {
	for _, oid := range created {
		if err := s.store(ctx, oid, true); err != nil {
			return err
		}
	}
	for range min(2, len(s.w.oids)) {
		oid := s.w.oids[s.w.rng.IntN(len(s.w.oids))]
		if _, again := s.content[oid]; !again {
			if err := s.store(ctx, oid, false); err != nil {
				return err
			}
		}
	}
	if s.shared = s.w.rng.IntN(3) > 0; s.shared {
		return s.store(ctx, killCounter(s.w.rng.IntN(4)), true)
	}
	return nil
}

func (s *killStaging) delete(ctx context.Context) error {
	oid := s.w.oids[s.w.rng.IntN(len(s.w.oids))]
	rev, err := s.w.m.LoadBefore(ctx, oid, raidstorage.MaxTID)
	if _, missing := errors.AsType[*raidstorage.NotFoundError](err); missing {
		s.w.oids = slices.DeleteFunc(s.w.oids, func(o raidstorage.OID) bool { return o == oid })
		return nil
	}
	if err != nil {
		return err
	}
	s.before[oid], s.content[oid] = rev.Data, "-"
	return s.txn.Delete(ctx, oid, rev.Serial)
}

func (s *killStaging) undo(ctx context.Context) error {
	txn, ok := s.txn.(raidstorage.UndoTxn)
	if !ok {
		return errors.New("the mirror cannot undo")
	}
	for oid, data := range s.w.before {
		s.content[oid] = killDigest(data)
	}
	return txn.Undo(ctx, s.w.last)
}
