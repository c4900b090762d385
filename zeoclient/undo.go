package zeoclient

import (
	"context"
	"encoding/base64"
	"strings"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// undoBatch is how many entries of the undo log are asked for at a time, where not
// all of them may match.
const undoBatch = 200

// UndoLog implements raidstorage.Undoer.
func (s *Storage) UndoLog(ctx context.Context, skip, limit int, match func(raidstorage.TxnInfo) bool) ([]raidstorage.TxnInfo, error) {
	leave, c, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if skip < 0 || limit < 0 {
		return nil, &raidstorage.InvalidError{Op: "undo log", Reason: "a negative number"}
	}
	if limit == 0 {
		return nil, nil
	}
	if match == nil {
		return c.undoLog(ctx, skip, limit)
	}
	var found []raidstorage.TxnInfo
	for first := 0; ; first += undoBatch {
		batch, err := c.undoLog(ctx, first, undoBatch)
		if err != nil {
			return nil, err
		}
		for _, t := range batch {
			if !match(t) {
				continue
			}
			if skip > 0 {
				skip--
				continue
			}
			if found = append(found, t); len(found) == limit {
				return found, nil
			}
		}
		if len(batch) < undoBatch {
			return found, nil
		}
	}
}

func (c *conn) undoLog(ctx context.Context, first, limit int) ([]raidstorage.TxnInfo, error) {
	infos, err := request(ctx, c, zeowire.UndoLog, func(v zeowire.Value) ([]raidstorage.TxnInfo, error) {
		return takeInfos(v, "id", takeUndoID)
	}, zeowire.Int(int64(first)), zeowire.Int(int64(-limit)))
	if e, ok := raised(err, zeowire.ClassUndo); ok { // as Python's does during a pack
		return nil, &raidstorage.UndoError{Reason: e.State().String()}
	}
	if err != nil {
		return nil, c.mapped(zeowire.UndoLog, err)
	}
	return infos[:min(len(infos), limit)], nil
}

// takeInfos reads the reply to undoLog or history.
func takeInfos(v zeowire.Value, tidKey string, tid func(zeowire.Value) (raidstorage.TID, bool)) ([]raidstorage.TxnInfo, error) {
	items, ok := v.Items()
	if !ok {
		return nil, violation("no list")
	}
	infos := make([]raidstorage.TxnInfo, len(items))
	for i, item := range items {
		var err error
		if infos[i], err = info(item, tidKey, tid); err != nil {
			return nil, err
		}
	}
	return infos, nil
}

// takeUndoID reads the base64 of a tid, which may have a line end.
func takeUndoID(v zeowire.Value) (raidstorage.TID, bool) {
	id, ok := text(v)
	if !ok {
		return 0, false
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(id)))
	if err != nil {
		return 0, false
	}
	tid, err := raidstorage.TIDFromBytes(b)
	return tid, err == nil
}

// History implements raidstorage.Historian.
func (s *Storage) History(ctx context.Context, oid raidstorage.OID, limit int) ([]raidstorage.TxnInfo, error) {
	leave, c, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return c.history(ctx, oid, limit)
}

func (c *conn) history(ctx context.Context, oid raidstorage.OID, limit int) ([]raidstorage.TxnInfo, error) {
	limit = max(limit, 0)
	infos, err := request(ctx, c, zeowire.History, func(v zeowire.Value) ([]raidstorage.TxnInfo, error) {
		return takeInfos(v, "tid", zeowire.Value.TID)
	}, zeowire.OID(oid), zeowire.Int(int64(limit)))
	if _, none := raised(err, zeowire.ClassPOSKey, zeowire.ClassKeyError); none {
		return nil, &raidstorage.NotFoundError{OID: oid}
	}
	if err != nil {
		return nil, c.mapped(zeowire.History, err)
	}
	return infos[:min(len(infos), limit)], nil
}
