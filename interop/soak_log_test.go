//go:build interop

package interop_test

import (
	"context"
	"io"
	"strings"

	"github.com/zeoraid/raidstorage"
)

// logged is a transaction of ours in a log.
type logged struct {
	tid     raidstorage.TID
	name    string
	packed  bool
	content soakContent
	counts  map[raidstorage.OID]int // that counters have
}

// readLogged reads a transaction of a log; nil for one of somebody else.
func readLogged(ctx context.Context, txn *raidstorage.Transaction) (*logged, error) {
	name := string(txn.Description)
	if !strings.HasPrefix(name, soakPrefix) {
		return nil, nil
	}
	g := &logged{tid: txn.TID, name: name, packed: txn.Status == raidstorage.StatusPacked, content: make(soakContent), counts: make(map[raidstorage.OID]int)}
	for rec, err := range txn.Records {
		if err != nil {
			return nil, err
		}
		var blob io.ReadCloser
		if rec.OpenBlob != nil {
			if blob, err = rec.OpenBlob(ctx); err != nil {
				return nil, err
			}
		}
		if g.content[rec.OID], err = digestAndClose(rec.Data, blob); err != nil {
			return nil, err
		}
		if n, ok := soakNumber(rec.Data, "count"); ok {
			g.counts[rec.OID] = n
		}
	}
	return g, nil
}

func digestAndClose(data []byte, blob io.ReadCloser) (string, error) {
	if blob == nil {
		return soakDigest(data, nil)
	}
	defer blob.Close()
	return soakDigest(data, blob)
}
