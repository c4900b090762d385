package raidstorage_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// TestPackTimesTellTransactionsApart: a ZEO server learns the pack time as a float. It
// must pack the transaction at that time and not the next one, even if the clock stands
// still, or the mirror has started again, whose first tids lie in the future.
func TestPackTimesTellTransactionsApart(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	rng := rand.New(rand.NewPCG(1, 0x71d))
	for try := range 40 {
		now := time.Unix(rng.Int64N(1<<32), rng.Int64N(1e9)).UTC()
		server := &ourServer{dir: t.TempDir()}
		address, err := server.start()
		if err != nil {
			t.Fatal(err)
		}
		d := &mixedDisk{server: server, address: address, dir: server.dir}
		var reg raidstorage.MemoryRegister
		start := func() *raidstorage.Mirror {
			m, err := raidstorage.Open(ctx, raidstorage.Config{Membership: &reg, Clock: func() time.Time { return now },
				Backends: []raidstorage.Backend{{Name: "served", Open: d.direct}}})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		m := start()
		var tids []raidstorage.TID
		for i := range 4 {
			if i == 2 { // again
				if err := m.Close(); err != nil {
					t.Fatal(err)
				}
				m = start()
			}
			tids = append(tids, storagetest.Commit(t, m, map[raidstorage.OID]string{0: storagetest.Pickled(fmt.Sprint(i))}))
		}
		through := tids[rng.IntN(3)]
		client, err := d.direct(ctx)
		if err != nil {
			t.Fatal(err)
		}
		packer, err := raidstorage.Can[raidstorage.Packer](client)
		if err == nil {
			err = packer.Pack(ctx, raidstorage.PackOptions{Through: through, GC: true})
		}
		if err != nil {
			t.Fatal(err)
		}
		for txn, err := range client.Iterate(ctx, 0, raidstorage.MaxTID) {
			if err != nil {
				t.Fatal(err)
			}
			// A pack that frees nothing leaves the status.
			if packed := txn.Status == raidstorage.StatusPacked; packed && txn.TID > through || !packed && txn.TID <= through && through > tids[0] {
				t.Errorf("try %d, the clock at %v: after a pack to %v transaction %v is packed: %v; all are %v", try, now, through, txn.TID, packed, tids)
			}
		}
		for _, s := range []raidstorage.Storage{client, m} {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		server.kill()
	}
}
