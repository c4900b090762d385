package filestorage

import (
	"context"
	"errors"
	"os"

	"github.com/zeoraid/raidstorage"
)

// Kinds of findings, see Finding.Kind.
const (
	kindMagic      = "magic"
	kindTruncated  = "truncated"
	kindUnfinished = "unfinished"
	kindLength     = "length"
	kindStatus     = "status"
	kindTID        = "tid"
	kindRecord     = "record"
	kindPrevious   = "previous"
	kindBack       = "back"
	kindIndex      = "index"
	kindPickle     = "pickle"
	kindDangling   = "dangling"
	kindBlob       = "blob"
	kindOrphan     = "orphan"
	kindTemporary  = "temporary"
	kindLost       = "lost"
)

// Finding is something wrong with a file.
type Finding struct {
	// Kind is one of a fixed set of words, for programs:
	//
	//	magic       the file is no FileStorage
	//	truncated   the file ends within a transaction, or in bytes that are none
	//	unfinished  the last transaction was voted but not finished
	//	length      two lengths contradict each other, or what they enclose
	//	status      a transaction's status is not one
	//	tid         a transaction's or record's tid is out of order or not one
	//	record      bytes within a transaction that are no record of it
	//	previous    a pointer to the object's previous record is wrong
	//	back        a pointer to the record with the data is wrong
	//	index       the index file is not that of this file
	//	pickle      a record's data are not two pickles
	//	dangling    a current record refers to an object that cannot be loaded
	//	blob        a blob's file is missing
	//	orphan      a blob's file belongs to no revision (a warning)
	//	temporary   a temporary file was left (a warning)
	//	lost        Recover did not copy this
	Kind   string
	Offset int64 // in the file, in bytes; -1 if it is about no place in it
	Length int64 // of the bytes concerned, 0 if that makes no sense
	TID    raidstorage.TID
	OID    raidstorage.OID // of the object concerned, if Object is true
	Object bool
	// Warning says that nothing is wrong with the database: a crash may leave such
	// things, and they are in nobody's way.
	Warning bool
	Text    string // for people
}

// InspectOptions are the options of Check, Dump and Recover. The zero value is
// ready. The functions are called one at a time, by the goroutine that called.
type InspectOptions struct {
	// Found is called with each finding, in the order in which they are made. What
	// it keeps is its own. nil: they are only counted.
	Found func(Finding)
	// Progress is called now and then with the bytes that were read and those that
	// will have been in the end. nil: never.
	Progress func(done, total int64)
	// Opaque says that the data of records are not pickles: nothing is looked for
	// in them.
	Opaque bool
	// Live says that another process may be writing the file, so that an unfinished
	// transaction at its end is no finding.
	Live bool
	// BlobDir is the directory of the blobs, as in Options. Empty: blobs are not
	// looked for, unless BlobFile is set. Check also lists it, for files that belong
	// to nothing, in memory of 24 bytes for each blob.
	BlobDir string
	// BlobFile, where blobs are elsewhere, returns the path of the file that a blob's
	// revision should have.
	BlobFile func(raidstorage.OID, raidstorage.TID) string
	// FreshBlobDir is the directory, not there yet, where Recover puts the blobs that
	// it takes over from BlobDir or BlobFile.
	FreshBlobDir string
	// WholeOnly makes Recover leave out damaged transactions, of which it copies the
	// readable records otherwise.
	WholeOnly bool
	// JSON makes Dump write one JSON object for each line.
	JSON bool
}

// Report says how much Check, Dump or Recover went through.
type Report struct {
	Size         int64 // of the file, in bytes
	Transactions int64 // whole ones; for Recover, those that it wrote
	Records      int64 // likewise
	Objects      int64 // with a record
	Findings     int64 // without the warnings
	Warnings     int64
	Blobs        int64 // that Recover took over
	// LostBytes were not understood as any part of a transaction, or, for Recover,
	// not copied.
	LostBytes int64
}

// Check reads the FileStorage at path and tells what is wrong with it: all that
// Python's fstest and fsrefs tell, and the index file, previous and back pointers of
// all records, pickles of all revisions, and blobs; and, as warnings, blob files that
// belong to nothing and temporary files that a crash has left, unless opts.Live says
// that they may be in use. It changes nothing, takes no
// lock, and goes on after damage, so that one place does not hide another. It reads
// the file twice, as far as it was when Check began; memory is that of an index,
// some bytes for each object, and the largest record.
//
// An error says that Check could not tell: the file could not be read, or ctx ended.
// The report is that far. A file that is no FileStorage at all is a finding.
func Check(ctx context.Context, path string, opts InspectOptions) (report *Report, err error) {
	// The index comes before the size: one that is saved meanwhile would reach
	// beyond it.
	saved, savedEnd, indexErr := readIndexFile(path)
	var blobs *blobCheck
	if opts.BlobDir != "" {
		if blobs, err = listBlobs(ctx, opts.BlobDir, opts.Live); err != nil {
			return nil, err
		}
		opts.BlobFile = blobs.dir.file
	}
	in, err := inspect(path, opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.f.Close()) }()
	if ok, err := in.magic(); !ok {
		return &in.report, err
	}
	c := &checker{inspection: in, index: newIndex(), pointers: newIndex(), unloadable: newIndex(),
		saved: saved, savedEnd: savedEnd, blobs: blobs}
	if !opts.Live {
		if c.temps, err = dataTemps(path); err != nil {
			return &in.report, err
		}
		if blobs != nil {
			c.temps = append(c.temps, blobs.temps...)
		}
	}
	if indexErr != nil {
		c.found(Finding{Kind: kindIndex, Offset: -1, Text: "the index file cannot be read: " + indexErr.Error()})
	}
	c.passes = 2
	if opts.Opaque && opts.BlobFile == nil {
		c.passes = 1
	}
	if err := c.structure(ctx); err != nil {
		return &in.report, err
	}
	in.report.Objects = int64(c.index.count)
	last := c.last
	if c.passes > 1 {
		if err := c.resolvePointers(ctx); err != nil {
			return &in.report, err
		}
		if err := c.contents(ctx); err != nil {
			return &in.report, err
		}
	}
	return &in.report, c.leftovers(ctx, last)
}

// inspection is what Check, Dump and Recover have in common.
type inspection struct {
	walker
	f      *os.File
	opts   InspectOptions
	report Report
	passes int64 // how often the file is read
	told   int64 // where Progress was called last, over all passes
}

// inspect opens the file at path.
func inspect(path string, opts InspectOptions) (*inspection, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = &raidstorage.InvalidError{Op: "inspect", Reason: path + " is a directory"}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	in := &inspection{f: f, opts: opts, report: Report{Size: info.Size()}, passes: 1}
	in.walker = walker{w: window{r: f, end: info.Size()}, end: info.Size(), live: opts.Live, found: in.tell}
	return in, nil
}

// tell counts a finding and passes it on.
func (in *inspection) tell(f Finding) {
	in.report.Findings++
	if in.opts.Found != nil {
		in.opts.Found(f)
	}
}

// warn counts a warning and passes it on.
func (in *inspection) warn(f Finding) {
	in.report.Warnings++
	f.Warning = true
	if in.opts.Found != nil {
		in.opts.Found(f)
	}
}

// magic tells whether the file is a FileStorage; if it is not, that is a finding.
func (in *inspection) magic() (bool, error) {
	b := make([]byte, min(magicLen, in.end))
	if err := readFull(in.f, b, 0); err != nil {
		return false, err
	}
	switch {
	case string(b) == magic, string(b) == magicPython2:
		return true, nil
	case len(b) == 0:
		in.found(Finding{Kind: kindMagic, Text: "the file is empty"})
	default:
		in.found(Finding{Kind: kindMagic, Length: magicLen, Text: "the file does not begin as a FileStorage"})
	}
	return false, nil
}

// progressStep is how many bytes are read between two calls of Progress.
const progressStep = 1 << 20

// progress tells that pass, counted from 0, has come to pos.
func (in *inspection) progress(pass, pos int64) {
	done := pass*in.end + pos
	if in.opts.Progress != nil && (done-in.told >= progressStep || pos == in.end) {
		in.told = done
		in.opts.Progress(done, in.passes*in.end)
	}
}
