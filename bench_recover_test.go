package raidstorage_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/memstorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// Transactions of the recovery benchmarks have 10 objects of 300 bytes; the bytes of
// MB/s are those of the objects.
const (
	recoverTransactions = 10_000
	recoverMissed       = 1_000
	recoverObjects      = 10
	recoverBytes        = 300
)

// BenchmarkRecover measures from the call of Recover to its return: of all of a
// database of 100,000 objects into an empty backend, and of the last 1,000
// transactions that a backend missed. The files are synced, as they are by default.
func BenchmarkRecover(b *testing.B) {
	for _, kind := range []string{"memory", "file"} {
		b.Run("empty/"+kind, func(b *testing.B) {
			source := newRecoverDisk(b, kind, recoverTransactions)
			benchRecover(b, source, recoverTransactions, func() *recoverDisk { return newRecoverDisk(b, kind, 0) })
		})
		b.Run("missed/"+kind, func(b *testing.B) {
			source := newRecoverDisk(b, kind, recoverTransactions+recoverMissed)
			target := newRecoverDisk(b, kind, recoverTransactions)
			last := target.last(b)
			benchRecover(b, source, recoverMissed, func() *recoverDisk {
				target.truncate(b, last)
				return target
			})
		})
	}
}

// benchRecover recovers the targets that next returns, each from source.
func benchRecover(b *testing.B, source *recoverDisk, missing int, next func() *recoverDisk) {
	b.SetBytes(int64(missing) * recoverObjects * recoverBytes)
	for b.Loop() {
		b.StopTimer()
		target := next()
		m, err := raidstorage.Open(b.Context(), raidstorage.Config{
			Membership: &raidstorage.MemoryRegister{}, AutoRecover: raidstorage.AutoRecoverOff,
			Backends: []raidstorage.Backend{{Name: name(0), Open: source.open}, {Name: name(1), Open: target.open}},
		})
		if err != nil {
			b.Fatal(err)
		}
		if state := m.Status().Backends[1].State; state != raidstorage.StateFailed {
			b.Fatalf("the target is %v before its recovery", state)
		}
		b.StartTimer()
		err = m.Recover(b.Context(), name(1))
		b.StopTimer()
		if err := errors.Join(err, m.Close()); err != nil {
			b.Fatal(err)
		}
		if want, got := source.last(b), target.last(b); got != want {
			b.Fatalf("the target ends at %v, the source at %v", got, want)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(missing), "ns/txn")
}

// recoverDisk is a database that outlives the mirrors over it.
type recoverDisk struct {
	open func(context.Context) (raidstorage.Storage, error)
}

// newRecoverDisk makes one with the given number of transactions: the same ones each
// time.
func newRecoverDisk(b *testing.B, kind string, transactions int) *recoverDisk {
	b.Helper()
	d := &recoverDisk{}
	durability := filestorage.NoSync // to fill it
	switch kind {
	case "memory":
		s := memstorage.New(kind)
		d.open = func(context.Context) (raidstorage.Storage, error) { return s.Another(kind), nil }
	default:
		path := filepath.Join(b.TempDir(), "Data.fs")
		d.open = func(ctx context.Context) (raidstorage.Storage, error) {
			return filestorage.Open(ctx, path, filestorage.Options{Durability: durability})
		}
	}
	d.use(b, func(s raidstorage.Storage) {
		for n := range transactions {
			storagetest.Transact(b, s, raidstorage.Meta{TID: raidstorage.TID(n+1) << 32}, func(txn raidstorage.Txn) error {
				for i := range recoverObjects {
					data := make([]byte, recoverBytes)
					data[0], data[1], data[2] = byte(n), byte(n>>8), byte(i)
					if err := txn.Store(b.Context(), raidstorage.OID(n*recoverObjects+i+1), 0, data); err != nil {
						return err
					}
				}
				return nil
			})
		}
	})
	durability = filestorage.Sync
	return d
}

// use opens the database for a moment.
func (d *recoverDisk) use(b *testing.B, do func(raidstorage.Storage)) {
	b.Helper()
	s, err := d.open(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	do(s)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

func (d *recoverDisk) last(b *testing.B) (last raidstorage.TID) {
	b.Helper()
	d.use(b, func(s raidstorage.Storage) {
		var err error
		if last, err = s.LastTID(b.Context()); err != nil {
			b.Fatal(err)
		}
	})
	return last
}

// truncate cuts off what is after the given transaction.
func (d *recoverDisk) truncate(b *testing.B, after raidstorage.TID) {
	b.Helper()
	end := d.last(b)
	if end == after {
		return
	}
	d.use(b, func(s raidstorage.Storage) {
		truncater, err := raidstorage.Can[raidstorage.Truncater](s)
		if err == nil {
			err = truncater.TruncateAfter(b.Context(), after, end)
		}
		if err != nil {
			b.Fatal(err)
		}
	})
}
