package admin

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// Config says what a Server shows and controls. Zero fields are defaults.
type Config struct {
	// Mirrors by the name under which they are served. The caller closes them, after
	// the Server's Shutdown.
	Mirrors map[string]*raidstorage.Mirror
	// Server returns what the ZEO server tells of each storage; nil: there is none.
	Server func() map[string]zeoserver.Status
	// Reload puts a configuration that was edited in force, or only tells what that would
	// change, one thing a line, where that is known with an error too. It is called for one
	// request at a time, with a deadline. nil: there is nothing to reload.
	Reload func(ctx context.Context, dryRun bool) (difference []string, err error)
	// Logger gets who asked for what; nil discards.
	Logger *slog.Logger
	// WriteTimeout is how long a client may take to read one line of progress before
	// it is given up; default 10 s.
	WriteTimeout time.Duration
	// MaxRequests is how many requests that control something are served at the same
	// time, and how many others; what is more is refused. Default 64.
	MaxRequests int
	// Clock tells the time; default time.Now.
	Clock func() time.Time
}

// Limits of requests.
const (
	maxBody       = 16 << 10
	maxHeader     = 16 << 10
	headerTimeout = 10 * time.Second
	readTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
)

// Server serves status and control. Its methods may be called from any goroutine.
type Server struct {
	cfg      Config // immutable after New
	handler  http.Handler
	http     *http.Server
	registry *prometheus.Registry
	template *template.Template
	verifier verifier
	controls chan struct{} // one for each POST, which may take long
	views    chan struct{} // one for each other request

	ctx  context.Context // ends with Shutdown: of all operations
	stop context.CancelFunc

	mu      sync.Mutex // guards the fields below
	closing bool
	jobs    map[jobKey]*job
	running sync.WaitGroup // of the jobs; added to with mu held and closing false
}

// New returns a Server. It starts nothing; Serve, or the Handler, does. Errors:
// *raidstorage.InvalidError.
func New(cfg Config) (*Server, error) {
	cfg.Mirrors = maps.Clone(cfg.Mirrors)
	for name, m := range cfg.Mirrors {
		if name == "" || m == nil {
			return nil, &raidstorage.InvalidError{Op: "admin", Reason: fmt.Sprintf("mirror %q has no name, or is nil", name)}
		}
	}
	if cfg.WriteTimeout < 0 || cfg.MaxRequests < 0 {
		return nil, &raidstorage.InvalidError{Op: "admin", Reason: "WriteTimeout and MaxRequests must not be negative"}
	}
	if cfg.WriteTimeout == 0 {
		cfg.WriteTimeout = 10 * time.Second
	}
	if cfg.MaxRequests == 0 {
		cfg.MaxRequests = 64
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	s := &Server{
		cfg:      cfg,
		registry: prometheus.NewRegistry(),
		verifier: verifyMirror,
		controls: make(chan struct{}, cfg.MaxRequests),
		views:    make(chan struct{}, cfg.MaxRequests),
		jobs:     make(map[jobKey]*job),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	if err := s.register(); err != nil {
		s.stop()
		return nil, err
	}
	var err error
	if s.template, err = newTemplate(); err != nil {
		s.stop()
		return nil, err
	}
	s.handler = s.routes()
	s.http = &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Handler serves all that the package documents, for servers of the caller's own. It
// refuses what changes something after Shutdown.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve serves on l until Shutdown, when it returns nil, and closes l. Several
// listeners may be served at the same time.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin: %w", err)
	}
	return nil
}

// Shutdown ends the recoveries, packs and verifications that the Server has begun,
// closes the listeners, and waits for the requests. If ctx ends first it closes the
// connections and returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.stop()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	for _, j := range s.allJobs() {
		select {
		case <-j.done:
		case <-ctx.Done():
			return errors.Join(err, fmt.Errorf("admin: %s of mirror %s goes on: %w", j.key.op, j.key.mirror, ctx.Err()))
		}
	}
	s.running.Wait() // their goroutines are at their last line
	return err
}

// routes makes the handler.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /status", s.status)
	mux.HandleFunc("GET /healthz", s.healthy)
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", s.metrics())
	for op, run := range map[Op]func(*request){OpRecover: s.recover, OpDisable: s.disable, OpPromote: s.promote, OpDemote: s.demote, OpPack: s.pack, OpVerify: s.verify} {
		mux.HandleFunc("POST /mirrors/{mirror}/"+string(op), func(w http.ResponseWriter, r *http.Request) { s.control(w, r, op, run) })
	}
	mux.HandleFunc("POST /reload", func(w http.ResponseWriter, r *http.Request) { s.control(w, r, OpReload, s.reload) })
	guard := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		slots := s.views
		if r.Method == http.MethodPost {
			slots = s.controls
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			http.Error(w, "too many requests at the same time", http.StatusServiceUnavailable)
			return
		}
		// A client that does not read must not keep its slot.
		http.NewResponseController(w).SetWriteDeadline(s.soon()) // recorders of tests have none
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		guard.ServeHTTP(w, r)
	})
}

func (s *Server) healthy(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") }

// ready tells whether every mirror takes commits.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	closing := s.closing
	s.mu.Unlock()
	if closing {
		http.Error(w, "the server is ending", http.StatusServiceUnavailable)
		return
	}
	for _, name := range s.mirrorNames() {
		if st := s.cfg.Mirrors[name].Status(); st.Condition == raidstorage.Failed {
			http.Error(w, fmt.Sprintf("mirror %s: failed: %s", name, oneLine(st.Reason)), http.StatusServiceUnavailable)
			return
		}
	}
	fmt.Fprintln(w, "ok")
}
