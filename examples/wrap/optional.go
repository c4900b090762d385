package wrap

import (
	"context"
	"errors"

	"github.com/zeoraid/raidstorage"
)

// The methods of optional interfaces ask Can, so that a call that was made without
// asking Supports is refused in the usual way.

// UndoLog implements raidstorage.Undoer.
func (c *Compressed) UndoLog(ctx context.Context, skip, limit int,
	match func(raidstorage.TxnInfo) bool) ([]raidstorage.TxnInfo, error) {
	inner, err := raidstorage.Can[raidstorage.Undoer](c.inner)
	if err != nil {
		return nil, err
	}
	return inner.UndoLog(ctx, skip, limit, match)
}

// History implements raidstorage.Historian. The inner storage knows only the
// compressed sizes, so each revision is loaded.
func (c *Compressed) History(ctx context.Context, oid raidstorage.OID, limit int) ([]raidstorage.TxnInfo, error) {
	inner, err := raidstorage.Can[raidstorage.Historian](c.inner)
	if err != nil {
		return nil, err
	}
	infos, err := inner.History(ctx, oid, limit)
	if err != nil {
		return nil, err
	}
	for i := range infos {
		data, err := raidstorage.LoadSerial(ctx, c, oid, infos[i].TID)
		if _, deleted := errors.AsType[*raidstorage.NotFoundError](err); err != nil && !deleted {
			return nil, err
		}
		infos[i].Size = int64(len(data))
	}
	return infos, nil
}

// Subscribe implements raidstorage.Notifier. A storage that does not notify has
// nothing to tell.
func (c *Compressed) Subscribe(notify func(raidstorage.Invalidation)) (cancel func()) {
	inner, err := raidstorage.Can[raidstorage.Notifier](c.inner)
	if err != nil {
		return func() {}
	}
	return inner.Subscribe(notify)
}

// TruncateAfter implements raidstorage.Truncater.
func (c *Compressed) TruncateAfter(ctx context.Context, tid, last raidstorage.TID) error {
	inner, err := raidstorage.Can[raidstorage.Truncater](c.inner)
	if err != nil {
		return err
	}
	return inner.TruncateAfter(ctx, tid, last)
}
