package zeoclient

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/zeoraid/raidstorage"
)

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 10 * time.Second
	// failFast is how long calls do not wait for another attempt after a failed one.
	failFast = 100 * time.Millisecond
)

// supervise keeps the storage connected. It ends with ctx, which Close ends.
func (s *Storage) supervise(ctx context.Context) {
	defer func() {
		if c := s.current(); c != nil { // perhaps one that Close did not see
			c.close(raidstorage.ErrClosed)
		}
	}()
	backoff := firstBackoff
	for {
		if c := s.current(); c != nil {
			s.watch(ctx, c)
			backoff = firstBackoff
		}
		if ctx.Err() != nil {
			return
		}
		if s.current() != nil {
			continue // watch found a better connection
		}
		c, err := s.connectAny(ctx, false)
		if err == nil {
			s.publish(c)
			continue
		}
		s.attemptFailed(err)
		timer := time.NewTimer(backoff)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-s.kick:
		}
		timer.Stop()
		backoff = min(2*backoff, lastBackoff)
	}
}

// watch returns when the connection has ended, or was replaced by a writable one.
func (s *Storage) watch(ctx context.Context, c *conn) {
	var again <-chan time.Time
	if c.readOnly && !s.opts.ReadOnly {
		ticker := time.NewTicker(s.opts.writableAgain)
		defer ticker.Stop()
		again = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
		case <-c.done:
			s.opts.Logger.Warn("connection to ZEO server lost", "server", c.server, "err", c.failure())
			s.mu.Lock()
			s.conn = nil
			s.mu.Unlock()
			c.wg.Wait()
		case <-again:
			better, err := s.connectAny(ctx, true)
			if err != nil {
				continue
			}
			s.publish(better)
			c.drain(ctx.Done(), better.done)
			c.close(errors.New("replaced by a connection to a server that may be written to"))
		}
		return
	}
}

func (s *Storage) current() *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn
}

// capabilities returns what the last server told of its storage.
func (s *Storage) capabilities() serverInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastInfo
}

// publish makes c the storage's connection.
func (s *Storage) publish(c *conn) {
	s.opts.Logger.Info("connected to ZEO server", "server", c.server, "read-only", c.readOnly, "encoding", c.encoding.String())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn, s.lastInfo, s.lastErr = c, c.info, nil
	close(s.attempt)
	s.attempt = make(chan struct{})
}

func (s *Storage) attemptFailed(err error) {
	s.opts.Logger.Debug("no connection to ZEO server", "server", s.opts.Name, "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr, s.lastTried = err, time.Now()
	close(s.attempt)
	s.attempt = make(chan struct{})
}

// connection returns the connection, or waits for one attempt to make one.
func (s *Storage) connection(ctx context.Context) (*conn, error) {
	for waited := false; ; waited = true {
		s.mu.Lock()
		c, attempt, lastErr, tried := s.conn, s.attempt, s.lastErr, s.lastTried
		s.mu.Unlock()
		if c != nil && c.failure() == nil {
			return c, nil
		}
		if waited || lastErr != nil && time.Since(tried) < failFast {
			if lastErr == nil {
				lastErr = errors.New("the connection was lost at once")
			}
			return nil, &DisconnectedError{Server: s.opts.Name, Err: lastErr}
		}
		select {
		case s.kick <- struct{}{}:
		default:
		}
		select {
		case <-attempt:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.closed:
			return nil, raidstorage.ErrClosed
		}
	}
}

// connectAny tries the addresses in turn, at first for writing, unless the storage
// is read-only.
func (s *Storage) connectAny(ctx context.Context, writableOnly bool) (*conn, error) {
	modes := []bool{s.opts.ReadOnly}
	if s.opts.ReadOnlyFallback && !writableOnly {
		modes = []bool{false, true}
	}
	var errs []error
	for _, readOnly := range modes {
		for _, address := range s.opts.Addresses {
			c, err := s.opts.connect(ctx, address, readOnly, s, s.adopt)
			if err == nil {
				if err = s.checkClaim(ctx, c); err == nil {
					return c, nil
				}
				c.close(err)
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			errs = append(errs, err)
		}
	}
	if len(errs) == 1 {
		return nil, errs[0]
	}
	return nil, attemptsError(errs)
}

// attemptsError is what several addresses, or ways to register, came to.
type attemptsError []error

func (e attemptsError) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "; ")
}

func (e attemptsError) Unwrap() []error { return e }

// adopt compares a server's last tid with what was seen before: nothing that a
// caller has seen may be taken back. The reader calls it, before any invalidation.
func (s *Storage) adopt(c *conn, last raidstorage.TID) error {
	s.mu.Lock()
	known, seen := s.known, s.seen
	least := max(seen, raidstorage.TID(s.shown.Load()))
	c.claimed, c.before = last, least
	if !known || last >= least {
		s.known, s.seen = true, last
	}
	s.mu.Unlock()
	if known && last < least {
		return &BehindError{Server: c.server, Last: last, Seen: least}
	}
	c.epoch = s.cache.adopt(last, known && last == seen)
	if !known {
		s.notes.start(last)
	} else if last > seen {
		s.notes.push(note{tid: last, search: true})
	}
	return nil
}
