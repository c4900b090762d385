package zeoserver

import (
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// pack packs to a time, with the garbage collection that ZEO's FileStorage does.
// Read-only clients may pack, too. The reply comes when it is done, or at once; other
// calls of the connection go on.
func (c *conn) pack(k call, args *arguments) error {
	seconds, ok := args.at(0).Float()
	if !ok {
		args.wrong(0, "a time")
	}
	wait := true
	if len(args.items) > 1 {
		wait = args.truth(1)
	}
	if args.err != nil {
		return args.err
	}
	through := raidstorage.TIDFromTime(timeOf(seconds))
	if wait {
		if err := c.slot(); err != nil {
			return err
		}
		c.spawn(k.method, func() {
			defer func() { <-c.slots }()
			if err := c.srv.pack(c.store, through); err != nil {
				k.fail(err)
				return
			}
			k.reply(zeowire.None())
		})
		return nil
	}
	if err := c.srv.packLater(c, through); err != nil {
		return err
	}
	k.reply(zeowire.None())
	return nil
}

// timeOf is a Python time.
func timeOf(seconds float64) time.Time {
	const far = 1 << 37 // some thousand years
	seconds = min(max(seconds, -far), far)
	whole := int64(seconds)
	return time.Unix(whole, int64((seconds-float64(whole))*1e9))
}

// pack packs, and tells all connections of the new size. It goes on when the client
// goes away; the end of the server ends it.
func (s *Server) pack(st *served, through raidstorage.TID) error {
	p, err := raidstorage.Can[raidstorage.Packer](st.storage)
	if err != nil {
		return err
	}
	s.cfg.Logger.Info("pack begins", "storage", st.name, "tid", through.String())
	if err := p.Pack(s.dead, raidstorage.PackOptions{Through: through, GC: true}); err != nil {
		return err
	}
	s.cfg.Logger.Info("pack is done", "storage", st.name, "tid", through.String())
	info := sizeInfo(st.size(s.dead))
	for _, c := range st.order.all() {
		c.out.send(func(w *zeowire.Writer) error { return w.Message(info) })
	}
	return nil
}

// packLater packs in a goroutine that the end of the server waits for.
func (s *Server) packLater(c *conn, through raidstorage.TID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return errServerClosed
	}
	if s.packs >= maxPacks {
		return storageError(errBusy)
	}
	s.packs++
	st := c.store
	s.group.Go(func() {
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.packs--
		}()
		if err := s.pack(st, through); err != nil {
			s.cfg.Logger.Error("pack failed", "storage", st.name, "err", err)
		}
	})
	return nil
}
