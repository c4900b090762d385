package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/zeoraid/raidstorage"
)

// Pauses of operations.
const (
	beat        = 5 * time.Second // the longest time without a line
	settle      = time.Second     // how long a recovery that nobody waits for may take to be refused
	disableTime = time.Minute     // the longest time for a commit under way
)

// request is a POST that is being answered. It belongs to its handler's goroutine.
type request struct {
	s       *Server
	w       http.ResponseWriter
	rc      *http.ResponseController
	ctx     context.Context // of the client's request
	op      Op
	name    string              // of the mirror
	mirror  *raidstorage.Mirror // nil for a reload
	asked   Request
	backend string
}

// control checks a POST and runs its operation.
func (s *Server) control(w http.ResponseWriter, r *http.Request, op Op, run func(*request)) {
	rc := http.NewResponseController(w)
	if origin := r.Header.Get("Origin"); origin != "" && !direct(origin) {
		refuse(w, http.StatusForbidden, Failure{Kind: KindForbidden, Text: "pages at " + origin + " control nothing here"})
		return
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, Failure{Kind: KindInvalid, Text: "the body must be application/json"})
		return
	}
	q := &request{s: s, w: w, rc: rc, ctx: r.Context(), op: op, name: r.PathValue("mirror")}
	if q.mirror = s.cfg.Mirrors[q.name]; q.mirror == nil && op != OpReload {
		refuse(w, http.StatusNotFound, Failure{Kind: KindInvalid, Text: s.noMirror(q.name)})
		return
	}
	if status, err := decode(w, r, &q.asked); err != nil {
		refuse(w, status, Failure{Kind: KindInvalid, Text: oneLine(err.Error())})
		return
	}
	if wrong := q.asked.validate(op); wrong != "" {
		refuse(w, http.StatusBadRequest, Failure{Kind: KindInvalid, Text: wrong})
		return
	}
	if q.backend = q.asked.Backend; q.backend != "" {
		if names := backendNames(q.mirror); !slices.Contains(names, q.backend) {
			refuse(w, http.StatusNotFound, Failure{Kind: KindInvalid,
				Text: fmt.Sprintf("mirror %s has no backend %q, but %s", q.name, q.backend, strings.Join(names, ", "))})
			return
		}
	}
	// From here on the answer may take long: what limits reading a request would end it.
	rc.SetReadDeadline(time.Time{})
	s.cfg.Logger.Info("control: asked", "op", string(op), "mirror", q.name, "request", q.asked, "from", r.RemoteAddr)
	run(q)
}

// direct tells whether a page's address has no name that somebody else could have
// pointed here (DNS rebinding): http.CrossOriginProtection cannot tell.
func direct(origin string) bool {
	u, err := url.Parse(origin)
	if err != nil {
		return false
	}
	_, err = netip.ParseAddr(u.Hostname())
	return err == nil || u.Hostname() == "localhost"
}

// decode reads the one JSON object that is the body.
func decode(w http.ResponseWriter, r *http.Request, into *Request) (status int, err error) {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	err = d.Decode(into)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) { // the body is read to its end
			return 0, nil
		}
		if err == nil {
			err = errors.New("more than one object")
		}
	}
	if isA[*http.MaxBytesError](err) {
		return http.StatusRequestEntityTooLarge, err
	}
	return http.StatusBadRequest, fmt.Errorf("body: %w", err)
}

func backendNames(m *raidstorage.Mirror) []string {
	var names []string
	for _, b := range m.Status().Backends {
		names = append(names, b.Name)
	}
	return names
}

// refuse answers a request of which nothing was begun.
func refuse(w http.ResponseWriter, status int, f Failure) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(Message{Type: TypeEnd, Text: f.Text, Failure: &f}) // a client that has gone is no fault
}

func (s *Server) soon() time.Time { return time.Now().Add(s.cfg.WriteTimeout) }

func (s *Server) recover(q *request) {
	opts := raidstorage.RecoverOptions{Rollback: q.asked.Rollback, Full: q.asked.Full}
	s.comesBack(q, q.backend+" is in sync", func(ctx context.Context) error { return q.mirror.RecoverWith(ctx, q.backend, opts) })
}

func (s *Server) promote(q *request) {
	s.comesBack(q, q.backend+" is full, and in sync", func(ctx context.Context) error { return q.mirror.Promote(ctx, q.backend) })
}

// comesBack follows what recovers a backend.
func (s *Server) comesBack(q *request, done string, run func(context.Context) error) {
	events := q.mirror.Watch(q.ctx)
	j, ok := q.begin(s.ctx, func(ctx context.Context, j *job) { j.err = run(ctx) })
	if !ok {
		return
	}
	var enough <-chan time.Time
	if !q.asked.Wait {
		timer := time.NewTimer(settle)
		defer timer.Stop()
		enough = timer.C
	}
	if role := roleOf(q.mirror, q.backend); q.op == OpRecover && role != raidstorage.RoleFull {
		done = fmt.Sprintf("%s is ready, as %v", q.backend, role)
	}
	q.follow(j, events, enough, done)
}

func (s *Server) disable(q *request) {
	reason := q.asked.Reason
	if reason == "" {
		reason = "by an operator"
	}
	events := q.mirror.Watch(q.ctx)
	j, ok := q.begin(s.ctx, func(ctx context.Context, j *job) {
		ctx, cancel := context.WithTimeout(ctx, disableTime)
		defer cancel()
		j.err = q.mirror.Disable(ctx, q.backend, reason)
	})
	if ok {
		q.follow(j, events, nil, q.backend+" is disabled")
	}
}

func (s *Server) demote(q *request) {
	events := q.mirror.Watch(q.ctx)
	j, ok := q.begin(s.ctx, func(ctx context.Context, j *job) {
		ctx, cancel := context.WithTimeout(ctx, disableTime)
		defer cancel()
		j.err = q.mirror.Demote(ctx, q.backend)
	})
	if ok {
		q.follow(j, events, nil, q.backend+" does not count any more")
	}
}

func roleOf(m *raidstorage.Mirror, backend string) raidstorage.Role {
	for _, b := range m.Status().Backends {
		if b.Name == backend {
			return b.Role
		}
	}
	return raidstorage.RoleFull
}

func (s *Server) pack(q *request) {
	through := s.cfg.Clock().Add(-time.Duration(q.asked.Days) * 24 * time.Hour)
	opts := raidstorage.PackOptions{Through: raidstorage.TIDFromTime(through), GC: !q.asked.NoGC, CompareBytesPerSecond: q.asked.BytesPerSecond}
	if q.asked.DryRun {
		s.estimate(q, opts)
		return
	}
	events := q.mirror.Watch(q.ctx)
	if j, ok := q.begin(s.ctx, func(ctx context.Context, j *job) { j.err = q.mirror.Pack(ctx, opts) }); ok {
		q.follow(j, events, nil, "packed to "+opts.Through.String())
	}
}

// begin starts the operation, or joins the one that is under way if it is the same, and
// writes the first line. If it returns false the request is answered.
func (q *request) begin(ctx context.Context, run func(context.Context, *job)) (*job, bool) {
	op := q.op
	if op == OpPack && q.asked.DryRun {
		op = "pack dry run" // is not in the way of a pack
	}
	j, joined, err := q.s.start(ctx, jobKey{op, q.name, q.backend}, q.asked, run)
	if err != nil {
		refuse(q.w, http.StatusServiceUnavailable, *failureOf(err))
		return nil, false
	}
	same := j.asked
	same.Wait = q.asked.Wait
	// A verification or dry run ends with its client, and a reload has read the file already, which
	// may have been edited since.
	if joined && (same != q.asked || q.op == OpVerify || q.op == OpReload || q.asked.DryRun) {
		refuse(q.w, http.StatusConflict, Failure{Kind: KindBusy, Text: fmt.Sprintf("another %s is under way", op), Hint: "ask again when it has ended"})
		return nil, false
	}
	q.w.Header().Set("Content-Type", "application/x-ndjson")
	text := fmt.Sprintf("%s of mirror %s", op, q.name)
	if q.mirror == nil {
		text = string(q.op)
	}
	if q.backend != "" {
		text = fmt.Sprintf("%s backend %s of mirror %s", q.op, q.backend, q.name)
	}
	return j, q.send(Message{Type: TypeBegin, Text: text, Joined: joined}) == nil
}

// follow sends the progress of a job until it has ended, enough comes, or the client
// does not read.
func (q *request) follow(j *job, events <-chan raidstorage.Event, enough <-chan time.Time, done string) {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	latest := Message{Type: TypeProgress, Text: "waiting"}
	var err error
	for err == nil {
		select {
		case e, ok := <-events:
			if !ok {
				events = nil // the mirror closes, or the client has gone
				continue
			}
			m, ours := q.message(e)
			if !ours {
				continue
			}
			latest = m
			err = q.send(m)
		case m := <-j.progress:
			latest = m
			err = q.send(m)
		case <-ticker.C:
			latest.Missed = 0
			err = q.send(latest)
		case <-j.done:
			q.rest(events, j)
			end := Message{Type: TypeEnd, Text: done, Failure: failureOf(j.err), Report: j.report, Difference: j.difference, Estimate: j.estimate}
			if j.estimate != nil {
				end.Text = j.estimate.String()
			}
			if q.op == OpReload && len(j.difference) == 0 {
				end.Text = "nothing changes"
			}
			if end.Failure == nil && j.report != nil {
				end.Failure = j.report.differences()
				end.Text = j.report.verdict()
			}
			if end.Failure != nil {
				end.Text = end.Failure.Text
			}
			q.send(end)
			return
		case <-enough:
			q.send(Message{Type: TypeEnd, Text: "it goes on", GoesOn: true})
			return
		case <-q.ctx.Done():
			return
		}
	}
	q.s.cfg.Logger.Info("control: a client does not read", "op", string(q.op), "mirror", q.name, "err", err)
}

// rest sends the progress that was there before the end.
func (q *request) rest(events <-chan raidstorage.Event, j *job) {
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			if m, ours := q.message(e); ours && q.send(m) != nil {
				return
			}
		case m := <-j.progress:
			if q.send(m) != nil {
				return
			}
		default:
			return
		}
	}
}

// message returns what an event tells of the operation, if it does.
func (q *request) message(e raidstorage.Event) (Message, bool) {
	m := Message{Type: TypeProgress, Text: oneLine(e.String()), Missed: e.Missed, Time: e.Time}
	switch {
	case e.Kind == raidstorage.EventPack && q.op == OpPack && e.Pack != nil:
		m.Pack = packOf(e.Pack)
	case e.Kind == raidstorage.EventRecovery && (q.op == OpRecover || q.op == OpPromote) && e.Backend == q.backend && e.Recovery != nil:
		m.Recovery = recoveryOf(e.Recovery)
	case e.Kind == raidstorage.EventState && q.backend != "" && e.Backend == q.backend:
	case e.Kind == raidstorage.EventMembership && q.op != OpVerify:
	default:
		return Message{}, false
	}
	return m, true
}

// send writes a line. A client that does not read it in time gets no more.
func (q *request) send(m Message) error {
	m.Op, m.Mirror, m.Backend = q.op, q.name, q.backend
	if m.Time.IsZero() {
		m.Time = q.s.cfg.Clock().UTC()
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	q.rc.SetWriteDeadline(q.s.soon()) // recorders of tests have none
	if _, err := q.w.Write(append(b, '\n')); err != nil {
		return err
	}
	return q.rc.Flush()
}

// mirrorNames returns the names in order.
func (s *Server) mirrorNames() []string { return slices.Sorted(maps.Keys(s.cfg.Mirrors)) }
