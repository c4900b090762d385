package raidstorage

import (
	"context"
	"reflect"
	"slices"

	"github.com/hashicorp/go-multierror"
)

// PackEstimator is a Packer that tells what a pack would drop, without dropping it.
type PackEstimator interface {
	Packer
	// EstimatePack returns what Pack with opts would drop if it began now and nothing was
	// written until it ends. Nothing changes; reads and commits go on, and what they write
	// meanwhile may be left out. Another pack of the storage may wait for it, and it for
	// one. ctx bounds it. Errors as of Pack.
	EstimatePack(ctx context.Context, opts PackOptions) (PackEstimate, error)
}

// PackEstimate is what a pack would drop. Every record that would go counts once, in
// Objects or in Revisions.
type PackEstimate struct {
	Through TID // the pack time
	// Objects counts the garbage: objects that were there at Through and of which no
	// record up to it would stay. ObjectBytes is the size of their data as of then.
	Objects, ObjectBytes int64
	// Revisions counts all other records that would go: old revisions, those of garbage
	// among them, deletions, and undone creations. RevisionBytes is the size of their data.
	// Data that a record only repeats from an earlier one, by an undo, has no bytes of its
	// own.
	Revisions, RevisionBytes int64
	// Bytes is by how much the storage would become smaller (Sizer). That is more than the
	// data: the headers of records and transactions go too. It is less, or even negative,
	// where later records repeat data that goes, and get it themselves. Blobs do not
	// count.
	Bytes int64
	// Classes tells the same by the class of the objects, those with the most bytes
	// first: at most MaxPackClasses, and then the sum of the others as PackClassOther.
	Classes []PackClass
}

// PackClass is what a pack would drop of the objects of one class.
type PackClass struct {
	Class     string // module and name, of the record itself, or one of those below
	Objects   int64  // as PackEstimate.Objects
	Revisions int64
	Bytes     int64 // ObjectBytes and RevisionBytes
}

// MaxPackClasses is how many classes a PackEstimate names.
const MaxPackClasses = 100

// Classes of what has none. No class of Python's has such a name.
const (
	PackClassOther    = "(other)"    // the sum of the classes that are not named
	PackClassUnknown  = "(unknown)"  // the record's pickle does not tell
	PackClassDeletion = "(deletion)" // a deletion or an undone creation has no class
)

var _ PackEstimator = (*Mirror)(nil)

// EstimatePack implements PackEstimator. One backend in sync that packs by what is decided
// for all tells what the mirror's pack would drop there; *UnsupportedError if there is none.
// What other backends, such as ZEO servers, drop they alone know. It waits for no
// recovery, and holds up neither commits nor recoveries, but a pack perhaps. Each backend
// has Timeouts.Pack; if one fails the next is asked. Failures are *BackendErrors, and
// degrade nobody.
func (m *Mirror) EstimatePack(ctx context.Context, opts PackOptions) (PackEstimate, error) {
	if err := ctx.Err(); err != nil {
		return PackEstimate{}, err
	}
	if err := supports[PackEstimator](m); err != nil {
		return PackEstimate{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	v := m.view.Load()
	able := slices.DeleteFunc(slices.Clone(v.sessions), func(s *session) bool { return !estimates(s) })
	if len(able) == 0 { // they have just gone
		return PackEstimate{}, &UnavailableError{Need: 1}
	}
	if opts.Through = m.packTime(v, opts.Through); opts.Through == 0 {
		return PackEstimate{}, nil
	}
	able, err := m.knowing(ctx, v, able, opts.Through)
	if err != nil {
		return PackEstimate{}, err
	}
	var errs *multierror.Error
	for _, s := range m.mostFirst(ctx, able) {
		estimate, err := leave(ctx, m, m.tuned().Timeouts.Pack, func(ctx context.Context) (PackEstimate, error) {
			return estimateAt(ctx, s.storage, opts)
		})
		if m.closing() {
			return PackEstimate{}, ErrClosed
		}
		if err == nil {
			return estimate, nil
		}
		errs = gather(errs, &BackendError{Backend: s.b.cfg.Name, Op: "estimate pack", Err: err})
		// Another one would say the same, or was not asked for.
		if ctx.Err() != nil || Classify(err) != ClassFailure || isA[*CorruptError](err) {
			break
		}
	}
	return PackEstimate{}, errs
}

// estimateAt asks a backend, which decides first, as the mirror's pack has it do.
func estimateAt(ctx context.Context, s Storage, opts PackOptions) (PackEstimate, error) {
	if !opts.Decided {
		opts.Decided, opts.Garbage = true, nil
		if opts.GC {
			finder, err := Can[GarbageFinder](s)
			if err != nil {
				return PackEstimate{}, err
			}
			if opts.Garbage, err = finder.FindGarbage(ctx, opts.Through, func(context.Context) error { return nil }); err != nil {
				return PackEstimate{}, err
			}
		}
	}
	estimator, err := Can[PackEstimator](s)
	if err != nil {
		return PackEstimate{}, err
	}
	return estimator.EstimatePack(ctx, opts)
}

// estimates tells whether a backend can say what a pack by a decision would drop.
func estimates(s *session) bool {
	return native(s) && Supports(s.storage, reflect.TypeFor[PackEstimator]())
}
