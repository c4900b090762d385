package zeoclient

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// Storage is a storage of a ZEO server. All methods may be called from any
// goroutine.
//
// While there is no connection, calls wait for one attempt to connect and then fail
// with a *DisconnectedError, at once if one has just failed: a mirror goes on without
// this backend then, and must not be held up. Attempts go on in the background.
type Storage struct {
	opts    Options
	cache   *cache     // nil: none
	shared  *sharedDir // nil: none
	notes   notifier
	fresh   allocator
	commit  chan struct{} // one slot: a connection has one transaction at a time
	behind  *sentFinish   // the last finish that was sent and not waited for; commit guards it
	phantom atomic.Uint64 // the last one that a server told of, see checkClaim
	shown   atomic.Uint64 // the greatest tid in any reply; the server may not have told of it

	stop   context.CancelFunc
	closed <-chan struct{}
	kick   chan struct{} // one slot: connect now
	wg     sync.WaitGroup
	calls  sync.WaitGroup // calls under way; added to with mu held

	mu        sync.Mutex // guards the fields below
	conn      *conn      // nil: there is none
	isClosed  bool
	attempt   chan struct{} // closed when the attempt to connect under way, or the next one, has ended
	lastErr   error         // of the last attempt
	lastTried time.Time
	known     bool            // seen is valid
	seen      raidstorage.TID // the last tid that any connection has told of
	lastInfo  serverInfo      // of the last connection
}

var (
	_ raidstorage.Storage        = (*Storage)(nil)
	_ raidstorage.Undoer         = (*Storage)(nil)
	_ raidstorage.Historian      = (*Storage)(nil)
	_ raidstorage.Packer         = (*Storage)(nil)
	_ raidstorage.BlobLoader     = (*Storage)(nil)
	_ raidstorage.Notifier       = (*Storage)(nil)
	_ raidstorage.Sizer          = (*Storage)(nil)
	_ raidstorage.RecordIterator = (*Storage)(nil)
	_ raidstorage.Wrapper        = (*Storage)(nil)
)

// Open connects to the first server that answers; it does not go on trying. Errors:
// *raidstorage.InvalidError for wrong options and for a storage that the server does
// not have, *raidstorage.ReadOnlyError where it may not be written to, and the
// failures of this package. With several addresses they are joined.
func Open(ctx context.Context, opts Options) (*Storage, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.Background())
	s := &Storage{
		opts: opts.withDefaults(), commit: make(chan struct{}, 1), stop: stop, closed: running.Done(),
		kick: make(chan struct{}, 1), attempt: make(chan struct{}),
	}
	s.notes.init()
	s.fresh.slot = make(chan struct{}, 1)
	if s.opts.CacheBytes > 0 {
		s.cache = newCache(s.opts.CacheBytes)
	}
	c, err := s.connectAny(ctx, false)
	if err == nil && opts.SharedBlobDir != "" { // the server has made it by now
		if s.shared, err = openShared(opts.SharedBlobDir); err != nil {
			c.close(err)
		}
	}
	if err != nil {
		stop()
		return nil, err
	}
	s.publish(c)
	s.wg.Go(func() { s.supervise(running) })
	s.wg.Go(func() { s.tellAll(running) })
	return s, nil
}

// Name returns Options.Name, or the addresses and the storage's name.
func (s *Storage) Name() string { return s.opts.Name }

// LastTID asks the server. It is a *BehindError when the server has told of a later
// one before.
func (s *Storage) LastTID(ctx context.Context) (raidstorage.TID, error) {
	leave, c, err := s.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	return s.lastTID(ctx, c)
}

func (s *Storage) lastTID(ctx context.Context, c *conn) (raidstorage.TID, error) {
	before := raidstorage.TID(c.seen.Load())
	last, err := request(ctx, c, zeowire.LastTransaction, s.takeLast)
	if err != nil {
		return 0, c.mapped(zeowire.LastTransaction, err)
	}
	if last < before {
		return 0, &BehindError{Server: c.server, Last: last, Seen: before}
	}
	return c.truth(last), nil
}

// takeLast reads the reply to lastTransaction.
func (s *Storage) takeLast(v zeowire.Value) (raidstorage.TID, error) {
	if v.IsNone() {
		return 0, nil
	}
	tid, ok := v.TID()
	if !ok {
		return 0, violation("no tid")
	}
	if uint64(tid) != s.phantom.Load() { // that may be taken back
		s.show(tid)
	}
	s.cache.shown(tid)
	return tid, nil
}

// show notes a tid that a reply has: a server that does not know it any more is behind.
func (s *Storage) show(tid raidstorage.TID) {
	for {
		shown := s.shown.Load()
		if uint64(tid) <= shown || s.shown.CompareAndSwap(shown, uint64(tid)) {
			return
		}
	}
}

// Size asks the server for the number of objects, and the bytes of its file.
func (s *Storage) Size(ctx context.Context) (objects, bytes int64, err error) {
	leave, c, err := s.enter(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer leave()
	info, err := c.getInfo(ctx)
	if err != nil {
		return 0, 0, c.mapped(zeowire.GetInfo, err)
	}
	return info.objects, info.bytes, nil
}

// Supports implements raidstorage.Wrapper: what the server's storage can do, as it
// told when the last connection was made. There is no Truncater.
func (s *Storage) Supports(capability reflect.Type) bool {
	info := s.capabilities()
	switch capability {
	case reflect.TypeFor[raidstorage.Undoer]():
		return info.undo
	case reflect.TypeFor[raidstorage.BlobLoader]():
		return info.blobs
	case reflect.TypeFor[raidstorage.RecordIterator]():
		return info.records
	}
	return reflect.TypeFor[*Storage]().Implements(capability)
}

// ReadOnly tells whether the storage can be written to now: with ReadOnlyFallback
// that changes.
func (s *Storage) ReadOnly() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opts.ReadOnly || s.conn != nil && s.conn.readOnly
}

// Close ends the connection, and with it all calls and transactions, and waits for
// them. It is idempotent.
func (s *Storage) Close() error {
	s.mu.Lock()
	s.isClosed = true
	c := s.conn
	s.mu.Unlock()
	s.stop()
	if c != nil {
		c.close(raidstorage.ErrClosed)
	}
	s.wg.Wait()
	s.calls.Wait()
	return nil
}

// enter begins a call: it returns a connection, and the function to call at the end.
func (s *Storage) enter(ctx context.Context) (leave func(), c *conn, err error) {
	if err := s.begin(ctx); err != nil {
		return nil, nil, err
	}
	if c, err = s.connection(ctx); err != nil {
		s.calls.Done()
		return nil, nil, err
	}
	return s.calls.Done, c, nil
}

// begin begins a call, which ends with calls.Done.
func (s *Storage) begin(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed {
		return raidstorage.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.calls.Add(1)
	return nil
}

// invalidated implements sink: the reader calls it.
func (s *Storage) invalidated(c *conn, tid raidstorage.TID, oids []raidstorage.OID) {
	s.saw(tid)
	s.cache.invalidate(tid, oids)
	s.fresh.stored(oids)
	s.notes.push(note{tid: tid, oids: oids, search: len(oids) == 0})
}

// packed implements sink.
func (s *Storage) packed() { s.cache.clear() }

// saw raises the last tid that the server told of.
func (s *Storage) saw(tid raidstorage.TID) {
	s.mu.Lock()
	s.seen = max(s.seen, tid)
	s.mu.Unlock()
}

// mapped turns the error of a call into one of the contract, unless the caller knows
// better what an exception means.
func (c *conn) mapped(name string, err error) error {
	e, ok := errors.AsType[*exceptionError](err)
	if !ok {
		return err
	}
	if e.exc.Class == zeowire.ClassReadOnly {
		return &raidstorage.ReadOnlyError{Storage: c.server, Reason: "the server refuses changes"}
	}
	return &ServerError{Server: c.server, Call: name, Class: e.exc.Class, State: e.exc.State().String()}
}

// raised returns the exception that err is, of one of the classes.
func raised(err error, classes ...string) (*zeowire.Exception, bool) {
	e, ok := errors.AsType[*exceptionError](err)
	if !ok {
		return nil, false
	}
	for _, class := range classes {
		if e.exc.Class == class {
			return e.exc, true
		}
	}
	return nil, false
}
