package raidstorage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// FileRegister is a Register in a directory: membership.json and marks.json, each
// replaced as a whole and fsynced with the directory, readable for people and with
// a checksum. A lock file keeps other processes out, so it serves a mirror with
// one front-end.
type FileRegister struct {
	dir  string
	lock *os.File
	slot chan struct{} // one slot, held across file operations
	once sync.Once
}

var _ Register = (*FileRegister)(nil)

// OpenFileRegister opens the register in dir, which it creates if missing. An
// *InvalidError says that another process has it open.
func OpenFileRegister(dir string) (*FileRegister, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &InvalidError{Op: "open state directory " + dir, Reason: "another mirror has it open"}
		}
		return nil, fmt.Errorf("lock state directory %s: %w", dir, err)
	}
	return &FileRegister{dir: dir, lock: lock, slot: make(chan struct{}, 1)}, nil
}

// Close frees the directory for others. It is not to be used afterwards.
func (r *FileRegister) Close() error {
	var err error
	r.once.Do(func() {
		r.slot <- struct{}{} // waits for a write under way; file writes end by themselves
		// Closing the file alone would leave it locked while a process that this one is
		// just starting still has a copy of the descriptor.
		err = errors.Join(syscall.Flock(int(r.lock.Fd()), syscall.LOCK_UN), r.lock.Close())
	})
	return err
}

const (
	membershipFile = "membership.json"
	marksFile      = "marks.json"
)

// Load implements Register.
func (r *FileRegister) Load(ctx context.Context) (m Membership, err error) {
	err = r.locked(ctx, func() error { return r.read(membershipFile, &m) })
	return m, err
}

// CompareAndSet implements Register.
func (r *FileRegister) CompareAndSet(ctx context.Context, next Membership) error {
	return r.locked(ctx, func() error {
		var have Membership
		if err := r.read(membershipFile, &have); err != nil {
			return err
		}
		if have.Epoch != next.Epoch-1 {
			return &EpochError{Want: next.Epoch - 1, Have: have.Epoch}
		}
		return r.write(membershipFile, next)
	})
}

// Reserve implements Register.
func (r *FileRegister) Reserve(ctx context.Context, floor, step Marks) (from Marks, err error) {
	err = r.locked(ctx, func() error {
		var have, raised Marks
		if err := r.read(marksFile, &have); err != nil {
			return err
		}
		from, raised = have.reserve(floor, step)
		return r.write(marksFile, raised)
	})
	return from, err
}

func (r *FileRegister) locked(ctx context.Context, do func() error) error {
	select {
	case r.slot <- struct{}{}:
		defer func() { <-r.slot }()
		return do()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sealed is the form of both files.
type sealed struct {
	SHA256 string          `json:"sha256"` // of Record, compacted
	Record json.RawMessage `json:"record"`
}

func seal(record []byte) string {
	sum := sha256.Sum256(record)
	return hex.EncodeToString(sum[:])
}

// read fills into from the named file; a missing file leaves it as it is.
func (r *FileRegister) read(name string, into any) error {
	path := filepath.Join(r.dir, name)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	var s sealed
	var record bytes.Buffer
	if err := json.Unmarshal(data, &s); err != nil {
		return &CorruptError{Storage: path, Offset: -1, Reason: err.Error()}
	}
	if err := json.Compact(&record, s.Record); err != nil {
		return &CorruptError{Storage: path, Offset: -1, Reason: err.Error()}
	}
	if seal(record.Bytes()) != s.SHA256 {
		return &CorruptError{Storage: path, Offset: -1, Reason: "the checksum is wrong"}
	}
	if err := json.Unmarshal(record.Bytes(), into); err != nil {
		return &CorruptError{Storage: path, Offset: -1, Reason: err.Error()}
	}
	return nil
}

// write replaces the named file. The order is what makes it atomic and durable:
// the new content is on disk before the name points to it, and the name before
// write returns.
func (r *FileRegister) write(name string, value any) error {
	record, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	data, err := json.MarshalIndent(sealed{SHA256: seal(record), Record: record}, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	temp := filepath.Join(r.dir, name+".new")
	if err := writeSynced(temp, append(data, '\n')); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(temp, filepath.Join(r.dir, name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return syncDir(r.dir)
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
