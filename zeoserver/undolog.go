package zeoserver

import (
	"context"
	"slices"
	"strings"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// extension is the dict that a transaction's pickled extension holds, empty if it is
// none or has in it what only Python can make: ZEO's FileStorage does the same.
func (c *conn) extension(meta raidstorage.Meta) zeowire.Value {
	if len(meta.Extension) == 0 {
		return zeowire.Dict()
	}
	v, err := (&zeowire.Decoder{Encoding: zeowire.Pickle}).Value(meta.Extension)
	if err != nil || v.Kind() != zeowire.KindDict {
		c.logger().Warn("a transaction's extension cannot be read", "storage", c.store.name, "tid", meta.TID.String(), "err", err)
		return zeowire.Dict()
	}
	return v
}

// describe makes the dict of an undo log or a history: ext, then the entries.
// override says whether an extension's key wins over ours, as in undo logs.
func (c *conn) describe(meta raidstorage.Meta, override bool, own ...zeowire.Pair) zeowire.Value {
	dict := c.extension(meta)
	ext, _ := dict.Pairs()
	if len(ext) == 0 {
		return zeowire.Dict(own...)
	}
	pairs := make([]zeowire.Pair, 0, len(own)+len(ext)/2)
	names := make(map[string]bool, len(own))
	for _, p := range own {
		name, _ := p.Key.Text()
		names[name] = true
		if v, ok := dict.Get(name); ok && override {
			p.Value = v
		}
		pairs = append(pairs, p)
	}
	for i := 0; i+1 < len(ext); i += 2 {
		if name, ok := ext[i].Text(); !ok || !names[name] {
			pairs = append(pairs, zeowire.Pair{Key: ext[i], Value: ext[i+1]})
		}
	}
	return zeowire.Dict(pairs...)
}

// history lists the transactions that wrote an object.
func (c *conn) history(k call, args *arguments) error {
	if !args.has(0) { // ZEO's storages look it up before they look at the rest
		return zeowire.NewException(zeowire.ClassPOSKey, zeowire.None())
	}
	oid, size := args.oid(0), args.intOr(1, 1)
	if args.err != nil {
		return args.err
	}
	return c.slow.add(k.method, func() {
		h, err := raidstorage.Can[raidstorage.Historian](c.store.storage)
		if err != nil {
			k.fail(err)
			return
		}
		infos, err := h.History(c.dead, oid, int(min(max(size, 0), maxHistory)))
		items := make([]zeowire.Value, 0, len(infos))
		for _, i := range infos {
			items = append(items, c.describe(i.Meta, false,
				zeowire.Entry("time", zeowire.Float(epoch(i.TID.Time()))),
				zeowire.Entry("user_name", zeowire.Bytes(i.User)),
				zeowire.Entry("description", zeowire.Bytes(i.Description)),
				zeowire.Entry("tid", zeowire.TID(i.TID)),
				zeowire.Entry("size", zeowire.Int(i.Size)),
			))
		}
		k.finish(zeowire.List(items...), err)
	})
}

// maxHistory bounds the length of a history and of an undo log.
const maxHistory = 1 << 16

func (c *conn) undoLog(k call, args *arguments) error {
	return c.undoInfo(k, args)
}

// undoInfo lists the transactions from first on: up to last, an index, or at most
// -last of them.
func (c *conn) undoInfo(k call, args *arguments) error {
	first, last := max(args.int(0), 0), args.int(1)
	spec := args.at(2).Clone()
	pairs, ok := spec.Pairs()
	if !ok && !spec.IsNone() {
		args.wrong(2, "a dict")
	}
	if args.err != nil {
		return args.err
	}
	limit := last - first
	if last < 0 {
		limit = -last
	}
	return c.slow.add(k.method, func() {
		u, err := raidstorage.Can[raidstorage.Undoer](c.store.storage)
		if err != nil { // as ZEO answers for a storage that cannot undo
			k.replyWhenRoom(zeowire.Tuple())
			return
		}
		k.finish(c.listUndo(c.dead, u, int(min(first, 1<<31)), int(min(max(limit, 0), maxHistory)), pairs))
	})
}

func (c *conn) listUndo(ctx context.Context, u raidstorage.Undoer, skip, limit int, spec []zeowire.Value) (zeowire.Value, error) {
	if limit == 0 {
		return zeowire.List(), nil
	}
	var match func(raidstorage.TxnInfo) bool
	if len(spec) > 0 {
		match = func(i raidstorage.TxnInfo) bool { return matches(c.undoEntry(i), spec) }
	}
	infos, err := u.UndoLog(ctx, skip, limit, match)
	if err != nil {
		return zeowire.Value{}, err
	}
	items := make([]zeowire.Value, 0, len(infos))
	for _, i := range infos {
		items = append(items, c.undoEntry(i))
	}
	return zeowire.List(items...), nil
}

func (c *conn) undoEntry(i raidstorage.TxnInfo) zeowire.Value {
	return c.describe(i.Meta, true,
		zeowire.Entry("id", zeowire.Bytes(undoID(i.TID))),
		zeowire.Entry("time", zeowire.Float(epoch(i.TID.Time()))),
		zeowire.Entry("user_name", zeowire.Bytes(i.User)),
		zeowire.Entry("size", zeowire.Int(i.Size)),
		zeowire.Entry("description", zeowire.Bytes(i.Description)),
	)
}

// matches tells whether an entry has all items of a specification; a missing one is
// None.
func matches(entry zeowire.Value, spec []zeowire.Value) bool {
	for i := 0; i+1 < len(spec); i += 2 {
		name, ok := spec[i].Text()
		if !ok {
			return false
		}
		have, _ := entry.Get(name)
		want := spec[i+1]
		if prefix, ok := want.PrefixPath(); ok {
			if !hasPrefix(have, prefix) {
				return false
			}
		} else if !have.Equal(want) {
			return false
		}
	}
	return true
}

// hasPrefix is Prefix.__eq__: the segments of the path are the first ones of what it
// is compared with, whose last segment may have a user's name after a space.
func hasPrefix(have zeowire.Value, prefix string) bool {
	text, ok := have.Text()
	if b, isBytes := have.Bytes(); isBytes {
		text, ok = string(b), true
	}
	if !ok {
		return false
	}
	path, want := strings.Split(text, "/"), strings.Split(prefix, "/")
	last := path[len(path)-1]
	if i := strings.LastIndexByte(last, ' '); i >= 0 {
		path[len(path)-1] = last[:i]
	}
	return len(path) >= len(want) && slices.Equal(path[:len(want)], want)
}
