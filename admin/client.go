package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// DefaultURL is where zeoraid serve has its control if nothing else is said.
const DefaultURL = "http://127.0.0.1:8180"

// Limits of answers.
const (
	maxLine   = 1 << 20
	maxStatus = 64 << 20
	patience  = 60 * time.Second // without a line: the server sends one every few seconds
)

// Client asks a Server. It may be copied and used from any goroutine.
type Client struct {
	URL      string        // empty means DefaultURL
	HTTP     *http.Client  // nil: one of its own, for each request
	Patience time.Duration // the longest time without an answer or a line; 0 means 60 s
}

// UnreachableError says that no server answered as this package's does.
type UnreachableError struct {
	URL string
	Err error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("control at %s: %v", e.URL, e.Err) }

func (e *UnreachableError) Unwrap() error { return e.Err }

// Status asks for the status. Errors: *UnreachableError.
func (c Client) Status(ctx context.Context) (*Status, error) {
	var st Status
	err := c.ask(ctx, http.MethodGet, "/status", nil, func(r *http.Response, _ func()) error {
		if r.StatusCode != http.StatusOK {
			return refusal(r)
		}
		return json.NewDecoder(io.LimitReader(r.Body, maxStatus)).Decode(&st)
	})
	if err != nil {
		return nil, err
	}
	return &st, nil
}

// Do asks for an operation of a mirror, calls progress for each line of the answer, the
// last one included, and returns that one. A mirror's refusal or failure is no error
// but in the message. Errors: *UnreachableError, ctx's.
func (c Client) Do(ctx context.Context, mirror string, op Op, q Request, progress func(Message)) (*Message, error) {
	return c.do(ctx, "/mirrors/"+url.PathEscape(mirror)+"/"+string(op), q, progress)
}

// Reload has the server put its edited configuration in force, or with dryRun tell what
// that would change. It is like Do.
func (c Client) Reload(ctx context.Context, dryRun bool, progress func(Message)) (*Message, error) {
	return c.do(ctx, "/reload", Request{DryRun: dryRun}, progress)
}

func (c Client) do(ctx context.Context, path string, q Request, progress func(Message)) (*Message, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	var last *Message
	err = c.ask(ctx, http.MethodPost, path, body, func(r *http.Response, alive func()) error {
		lines := bufio.NewScanner(r.Body)
		lines.Buffer(nil, maxLine)
		for lines.Scan() {
			alive()
			var m Message
			if err := json.Unmarshal(lines.Bytes(), &m); err != nil || m.Type == "" {
				return fmt.Errorf("no answer of a zeoraid: %s, %.80q", r.Status, lines.Bytes())
			}
			if m.Type == TypeEnd {
				last = &m
			}
			if progress != nil {
				progress(m)
			}
		}
		switch {
		case lines.Err() != nil:
			return lines.Err()
		case last == nil:
			return fmt.Errorf("the answer has no end: %w", io.ErrUnexpectedEOF)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return last, nil
}

// errSilence ends a request whose server says nothing any more.
var errSilence = errors.New("no answer in time")

// ask makes a request and has read the answer; alive tells that the server lives.
func (c Client) ask(ctx context.Context, method, path string, body []byte, read func(r *http.Response, alive func()) error) error {
	base := c.URL
	if base == "" {
		base = DefaultURL
	}
	limit := c.Patience
	if limit == 0 {
		limit = patience
	}
	silence, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(limit, func() { cancel(errSilence) })
	defer timer.Stop()
	address, err := url.Parse(base)
	if err == nil && (address.Scheme != "http" && address.Scheme != "https" || address.Host == "") {
		err = errors.New("it must be http://HOST:PORT")
	}
	var q *http.Request
	if err == nil {
		q, err = http.NewRequestWithContext(silence, method, address.JoinPath(path).String(), bytes.NewReader(body))
	}
	if err != nil {
		return &UnreachableError{URL: base, Err: err}
	}
	if body != nil {
		q.Header.Set("Content-Type", "application/json")
	}
	client := c.HTTP
	if client == nil {
		transport := &http.Transport{Proxy: http.ProxyFromEnvironment}
		defer transport.CloseIdleConnections()
		client = &http.Client{Transport: transport}
	}
	r, err := client.Do(q)
	if err == nil {
		defer r.Body.Close()
		err = read(r, func() { timer.Reset(limit) })
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case context.Cause(silence) == errSilence:
		err = errSilence
	}
	return &UnreachableError{URL: base, Err: err}
}

// refusal is what an answer that is no status says.
func refusal(r *http.Response) error {
	var m Message
	text, _ := io.ReadAll(io.LimitReader(r.Body, maxLine)) // what there is
	if json.Unmarshal(text, &m) == nil && m.Failure != nil {
		return m.Failure
	}
	return fmt.Errorf("no answer of a zeoraid: %s", r.Status)
}
