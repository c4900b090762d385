//go:build linux

package filestorage_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
	"github.com/zeoraid/raidstorage/storagetest"
)

// loggedTxn is a transaction of a log: its name in the workload, and all of it.
type loggedTxn struct {
	name string
	sum  [sha256.Size]byte
}

// crashStore is a directory in which the storage of a crash state is opened.
type crashStore struct {
	dir  string
	opts filestorage.Options
}

func (c crashStore) path() string { return filepath.Join(c.dir, crashData) }

// open opens the storage as the next process would, and returns what is in it. Every
// object must be found as the log has it, and nothing may be left to find for Check.
func (c crashStore) open() (log []loggedTxn, err error) {
	if err := c.indexFits(); err != nil {
		return nil, err
	}
	s, err := c.openUnlocked()
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	log, err = logOf(s)
	if err = errors.Join(err, s.Close()); err != nil {
		return log, err
	}
	return log, c.clean()
}

// openUnlocked opens the storage. Who starts a process at the same time has given it a
// copy of the lock's descriptor, which it has until it runs its program.
func (c crashStore) openUnlocked() (*filestorage.Storage, error) {
	for start := time.Now(); ; runtime.Gosched() {
		s, err := filestorage.Open(context.Background(), c.path(), c.opts)
		if _, locked := errors.AsType[*filestorage.LockedError](err); !locked || time.Since(start) > 10*time.Second {
			return s, err
		}
	}
}

// indexFits tells whether the index file, if there is one, is that of a beginning of
// the data. It is never more than the data: not even before Open looks at it.
func (c crashStore) indexFits() error {
	if _, err := os.Stat(c.path()); err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	var errs []error
	_, err := filestorage.Check(context.Background(), c.path(), filestorage.InspectOptions{Found: func(f filestorage.Finding) {
		if f.Kind == "index" {
			errs = append(errs, fmt.Errorf("before it was opened: %s", f.Text))
		}
	}})
	return errors.Join(append(errs, err)...)
}

// clean returns an error for everything that Check finds.
func (c crashStore) clean() error {
	var errs []error
	opts := filestorage.InspectOptions{Found: func(f filestorage.Finding) {
		if !f.Warning { // a crash may leave temporary files
			errs = append(errs, fmt.Errorf("check: %s at %d: %s", f.Kind, f.Offset, f.Text))
		}
	}}
	if c.opts.BlobDir != "" {
		opts.BlobFile = func(oid raidstorage.OID, tid raidstorage.TID) string {
			var b strings.Builder
			for _, part := range oid.Bytes() {
				fmt.Fprintf(&b, "0x%02x/", part)
			}
			serial := tid.Bytes()
			return filepath.Join(c.opts.BlobDir, b.String()+fmt.Sprintf("0x%x.blob", bytes.TrimLeft(serial[:], "\x00")))
		}
	}
	_, err := filestorage.Check(context.Background(), c.path(), opts)
	return errors.Join(append(errs, err)...)
}

// goesOn commits one more transaction, closes, and checks.
func (c crashStore) goesOn() error {
	ctx := context.Background()
	s, err := c.openUnlocked()
	if err != nil {
		return fmt.Errorf("open again: %w", err)
	}
	defer s.Close()
	if s.Repaired() != nil {
		return errors.New("open again: it is repaired a second time")
	}
	txn, err := s.Begin(ctx, raidstorage.Meta{})
	if err != nil {
		return err
	}
	defer func() { _ = txn.Abort(ctx) }()
	if err := txn.Store(ctx, 5000, 0, []byte(storagetest.Pickled("it goes on"))); err != nil {
		return err
	}
	if _, err := txn.Vote(ctx); err != nil {
		return err
	}
	if _, err := txn.Finish(ctx); err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	return c.clean()
}

// logOf returns the log, and an error unless loads agree with it.
func logOf(s *filestorage.Storage) ([]loggedTxn, error) {
	ctx := context.Background()
	var log []loggedTxn
	current := make(map[raidstorage.OID]raidstorage.Record)
	for txn, err := range s.Iterate(ctx, 0, raidstorage.MaxTID) {
		if err != nil {
			return log, fmt.Errorf("iterate: %w", err)
		}
		h := sha256.New()
		fmt.Fprintf(h, "%v %c %q %q\n", txn.TID, txn.Status, txn.User, txn.Description)
		for rec, err := range txn.Records {
			if err != nil {
				return log, fmt.Errorf("iterate: %w", err)
			}
			fmt.Fprintf(h, "%v %v %v %d\n", rec.OID, rec.TID, rec.DataTID, len(rec.Data))
			h.Write(rec.Data)
			if rec.OpenBlob != nil {
				if err := addBlob(ctx, h, rec); err != nil {
					return log, err
				}
			}
			rec.Data = slices.Clone(rec.Data)
			current[rec.OID] = rec
		}
		log = append(log, loggedTxn{string(txn.Description), [sha256.Size]byte(h.Sum(nil))})
	}
	return log, loadsAgree(ctx, s, current)
}

func addBlob(ctx context.Context, w io.Writer, rec raidstorage.Record) error {
	blob, err := rec.OpenBlob(ctx)
	if err != nil {
		return fmt.Errorf("blob of %v in %v: %w", rec.OID, rec.TID, err)
	}
	n, err := io.Copy(w, blob)
	fmt.Fprintf(w, "blob of %d bytes\n", n)
	return errors.Join(err, blob.Close())
}

func loadsAgree(ctx context.Context, s *filestorage.Storage, current map[raidstorage.OID]raidstorage.Record) error {
	for oid, rec := range current {
		rev, err := s.LoadBefore(ctx, oid, raidstorage.MaxTID)
		_, missing := errors.AsType[*raidstorage.NotFoundError](err)
		switch {
		case missing && rec.Data == nil:
		case err != nil:
			return fmt.Errorf("load %v: %w", oid, err)
		case rev.Serial != rec.TID || string(rev.Data) != string(rec.Data):
			return fmt.Errorf("load %v: serial %v, %d bytes, the log has %v, %d bytes", oid, rev.Serial, len(rev.Data), rec.TID, len(rec.Data))
		}
	}
	return nil
}

// promises are what the workload was told before the power failed.
type promises struct {
	logs      [][]loggedTxn // what the log became: up to each pack, and to the end
	epoch     int           // how many packs have switched
	finishing map[string]bool
	acked     []string
}

// kept returns an error unless the log is the beginning of one that it may be, and has
// all that was acknowledged and nothing that nobody wanted to finish.
func (p *promises) kept(log []loggedTxn) error {
	for _, txn := range log {
		if !p.finishing[txn.name] {
			return fmt.Errorf("%s is in the log, but Finish was not called", txn.name)
		}
	}
	err := errors.New("the log is no beginning of the one that it was to become")
	for epoch, whole := range p.logs[:p.epoch+1] {
		if len(log) > len(whole) || !slices.Equal(log, whole[:len(log)]) {
			continue
		}
		if err = p.lacks(log, epoch); err == nil {
			return nil
		}
	}
	return err
}

// lacks returns an error if something that was acknowledged is not in the log, unless
// a pack has removed it.
func (p *promises) lacks(log []loggedTxn, epoch int) error {
	in := func(log []loggedTxn, name string) bool {
		return slices.ContainsFunc(log, func(txn loggedTxn) bool { return txn.name == name })
	}
	for _, name := range p.acked {
		if in(log, name) {
			continue
		}
		if slices.ContainsFunc(p.logs[epoch:], func(later []loggedTxn) bool { return in(later, name) }) {
			return fmt.Errorf("%s was acknowledged and is lost", name)
		}
	}
	return nil
}
