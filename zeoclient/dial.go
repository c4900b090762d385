package zeoclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/netio"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// unregisteredFrame bounds a server's messages before it has answered register.
const unregisteredFrame = 1 << 20

// serverInfo is what get_info tells of a storage.
type serverInfo struct {
	objects, bytes                       int64
	undo, records, blobs, iterate, erase bool
}

// connect makes a connection to one server, registered and ready. readOnly is how to
// register. adopt is called in the reader when the server has answered with its last
// tid; an error of it is the connection's end.
func (o *Options) connect(ctx context.Context, address string, readOnly bool, events sink, adopt func(*conn, raidstorage.TID) error) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, o.DialTimeout)
	defer cancel()
	nc, err := o.dial(ctx, address)
	if err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(nc, 64<<10)
	frames, encoding, err := o.shakeHands(ctx, nc, in)
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	raw := nc
	if secure, ok := nc.(*tls.Conn); ok {
		raw = secure.NetConn()
	}
	c := &conn{
		server: address, nc: nc, raw: raw, encoding: encoding, timeout: o.CallTimeout, parting: o.parting, events: events, readOnly: readOnly,
		in: in, calls: map[int64]*call{}, downloads: map[blobKey]*download{},
		output: output{out: &zeowire.Writer{Encoding: encoding}, spare: &zeowire.Writer{Encoding: encoding}, direct: netio.New(nc)},
		wake:   make(chan struct{}, 1), done: make(chan struct{}),
	}
	c.wg.Go(c.write)
	c.wg.Go(func() { c.read(frames) })
	if err := c.register(ctx, o, frames, adopt); err != nil {
		if ctx.Err() != nil && c.failure() == nil {
			err = &TimeoutError{Server: address, Call: zeowire.Register, After: o.DialTimeout}
		}
		c.close(err)
		return nil, err
	}
	return c, nil
}

func (o *Options) dial(ctx context.Context, address string) (net.Conn, error) {
	network := "tcp"
	if strings.Contains(address, "/") {
		network = "unix"
	}
	nc, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil || o.TLS == nil {
		return nc, err
	}
	config := o.TLS
	if config.ServerName == "" && network == "tcp" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			_ = nc.Close()
			return nil, err
		}
		config = config.Clone()
		config.ServerName = host
	}
	secure := tls.Client(nc, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		return nil, err
	}
	return secure, nil
}

// shakeHands agrees on the encoding, which is the one that the server prefers.
func (o *Options) shakeHands(ctx context.Context, nc net.Conn, in *bufio.Reader) (*zeowire.FrameReader, zeowire.Encoding, error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := nc.SetDeadline(deadline); err != nil {
			return nil, 0, err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	frames := zeowire.NewFrameReader(in, zeowire.MaxHandshake)
	body, err := frames.Next()
	if err != nil {
		return nil, 0, err
	}
	encoding, err := zeowire.ParseAnnouncement(body)
	if err != nil {
		return nil, 0, &ProtocolError{Server: nc.RemoteAddr().String(), Reason: "no ZEO server", Err: err}
	}
	answer := &zeowire.Writer{}
	if err := answer.Raw(encoding.Handshake()); err != nil {
		return nil, 0, err
	}
	if _, err := nc.Write(answer.Bytes()); err != nil {
		return nil, 0, err
	}
	if !stop() {
		return nil, 0, ctx.Err()
	}
	frames.SetLimit(unregisteredFrame)
	return frames, encoding, nc.SetDeadline(time.Time{})
}

// register selects the storage, and asks what it is like, in one write.
func (c *conn) register(ctx context.Context, o *Options, frames *zeowire.FrameReader, adopt func(*conn, raidstorage.TID) error) error {
	register := c.newCall(zeowire.Register, func(v zeowire.Value) error {
		last := raidstorage.TID(0)
		if !v.IsNone() {
			var ok bool
			if last, ok = v.TID(); !ok {
				return violation("no tid")
			}
		}
		frames.SetLimit(o.MaxFrameBytes) // this runs in the reader, as it must
		// What was told before the answer is in it; if not, then it is looked up like
		// everything else that was missed.
		last = max(last, c.early)
		c.registered = true
		c.see(last)
		return adopt(c, last)
	})
	if err := c.start(ctx, register, zeowire.Text(o.Storage), zeowire.Bool(c.readOnly)); err != nil {
		return err
	}
	if err := c.wait(ctx, register); err != nil {
		return o.refused(c.server, err)
	}
	info, err := c.getInfo(ctx)
	if err != nil {
		return c.mapped(zeowire.GetInfo, err)
	}
	c.info = info
	if o.Label == "" {
		return nil
	}
	return c.send(ctx, func(w *zeowire.Writer) error {
		return w.Message(zeowire.AsyncCall(zeowire.SetClientLabel, zeowire.Text(o.Label)))
	})
}

// refused says why a server would not let us register.
func (o *Options) refused(server string, err error) error {
	exc, ok := errors.AsType[*exceptionError](err)
	switch {
	case ok && exc.exc.Class == zeowire.ClassReadOnly:
		return &raidstorage.ReadOnlyError{Storage: o.Name, Reason: "the server is"}
	case ok && exc.exc.Class == zeowire.ClassValueError:
		return &raidstorage.InvalidError{Op: "register at " + server, Reason: exc.exc.State().String()}
	case ok:
		return &ServerError{Server: server, Call: zeowire.Register, Class: exc.exc.Class, State: exc.exc.State().String()}
	}
	return err
}

func (c *conn) getInfo(ctx context.Context) (serverInfo, error) {
	return request(ctx, c, zeowire.GetInfo, func(v zeowire.Value) (info serverInfo, err error) {
		if v.Kind() != zeowire.KindDict {
			return info, violation("no dict")
		}
		number := func(key string) int64 {
			item, _ := v.Get(key)
			n, _ := item.Int()
			return n
		}
		yes := func(key string) bool {
			item, _ := v.Get(key)
			b, _ := item.Bool()
			return b
		}
		info.objects, info.bytes = number("length"), number("size")
		info.undo, info.records = yes("supportsUndo"), yes("supports_record_iternext")
		listed, _ := v.Get("interfaces")
		items, _ := listed.Items()
		for _, item := range items {
			pair, _ := item.Items()
			if len(pair) != 2 {
				continue
			}
			module, _ := pair[0].Text()
			name, _ := pair[1].Text()
			if module != "ZODB.interfaces" {
				continue
			}
			info.blobs = info.blobs || name == "IBlobStorage"
			info.iterate = info.iterate || name == "IStorageIteration"
			info.erase = info.erase || name == "IExternalGC"
		}
		return info, nil
	})
}
