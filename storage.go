package raidstorage

import (
	"context"
	"io"
	"iter"
	"reflect"
)

// Storage is what every backend is, and every Mirror too: a transactional,
// multi-version store of object records, ZODB's IStorage. What only some
// storages can do is an optional interface (Undoer, Historian, Packer, GarbageFinder,
// StagedPacker, KeptFinder, PackEstimator, BlobLoader, Notifier, Truncater, Sizer,
// RecordIterator, LoadStarter), found with Can.
//
// All methods may be called from any goroutine. A method whose context has ended
// returns the context's error, soon, and leaves no lock held and no goroutine
// behind; only Abort frees its lock all the same, and Finish is all or nothing. After Close every method returns ErrClosed. A read-only
// storage returns *ReadOnlyError from NewOIDs and Begin. Any error that is not
// one of the types that a method names (see Classify) is a failure of the storage
// itself, such as an I/O error.
type Storage interface {
	// Name names the storage for people: a file's path, a server's address.
	Name() string

	// LoadBefore returns the latest revision of oid whose serial is less than
	// before (exclusive; MaxTID: the current revision). Revision.Data is the
	// caller's to keep but not to change. *NotFoundError when there is none, or
	// when that revision deletes the object or undoes its creation. Only whole,
	// finished transactions are seen. (ZODB: loadBefore, load.)
	LoadBefore(ctx context.Context, oid OID, before TID) (Revision, error)

	// LastTID returns the tid of the last finished transaction, 0 when there is
	// none. It does not change while a voted Txn holds the commit lock. (ZODB:
	// lastTransaction.)
	LastTID(ctx context.Context) (TID, error)

	// NewOIDs returns n ≥ 1 oids in ascending order, never 0, never given out
	// before by this opened storage, and greater than every oid stored in it.
	// (ZODB: new_oid.)
	NewOIDs(ctx context.Context, n int) ([]OID, error)

	// Begin starts a transaction. It takes no lock and may be followed by Begin of
	// others. meta.TID 0 lets the storage choose the tid when it votes, later than
	// its last; another value is used as it is, which must be later than the
	// storage's last tid when it votes (*TIDOrderError from Vote). *InvalidError
	// when User, Description or Extension exceed MaxMetaBytes or the status is
	// unknown. The storage keeps meta's slices until the transaction ends. (ZODB: tpc_begin.)
	Begin(ctx context.Context, meta Meta) (Txn, error)

	// Iterate yields the finished transactions with from ≤ tid ≤ through (both
	// inclusive), in tid order. Those that finish while it runs may be left out.
	// After an error it stops. A Transaction and what it yields are valid only
	// until the next one is yielded, but the Data slices may be kept. (ZODB:
	// iterator.)
	Iterate(ctx context.Context, from, through TID) iter.Seq2[*Transaction, error]

	// Close releases the storage: it ends its open transactions (a voted one
	// aborts), waits for calls under way and is idempotent. It returns the first
	// error of what had to be written.
	Close() error
}

// Txn is one transaction, owned by one caller: it is not safe for concurrent use.
// Changes are collected; Vote checks them all under the storage's commit lock, in
// the order in which they were staged. What is wrong whatever the storage holds
// (*InvalidError), and what can be told at once, may be said by the staging method
// already. For an oid that is changed more than once the last change counts.
// The storage may keep the data slices for ever; the caller must not change them
// any more. Undo and StoreBlob add what only some can do.
//
// Whatever happens, Abort is safe to call, more than once too and after Finish,
// where it has no effect. After the transaction has ended the other methods return
// *TxnStateError.
type Txn interface {
	// Store stages a new revision of oid. serial is the revision that the caller
	// read, 0 for a new object. If the object's current serial differs when the
	// transaction votes, Vote returns *ConflictError; the serial of a deleted object
	// is that of its deletion. An oid unknown to the storage is stored whatever
	// serial says. *InvalidError for data of length 0.
	Store(ctx context.Context, oid OID, serial TID, data []byte) error

	// Delete stages the deletion of oid (external garbage collection; older
	// revisions stay loadable). Vote returns *ConflictError if serial is not
	// current, *NotFoundError if there is no such object. (ZODB: deleteObject.)
	Delete(ctx context.Context, oid OID, serial TID) error

	// CheckCurrent asks Vote to return *ReadConflictError unless serial is the
	// current serial of oid, *NotFoundError if there is no such object. (ZODB:
	// checkCurrentSerialInTransaction.)
	CheckCurrent(ctx context.Context, oid OID, serial TID) error

	// Restore stages a record exactly as Iterate of another storage yielded it,
	// without conflict checks: recovery and conversion use it. record.TID must be
	// the tid that Begin was given. Nil Data is a deletion or an undone creation.
	// DataTID is kept, as a pointer to the earlier record, if that transaction is
	// here and has the same data; else it is ignored and the data stored again. A record with a blob brings it along. *InvalidError when the tids
	// differ, *UnsupportedError for a blob where the storage has no blobs.
	Restore(ctx context.Context, record Record) error

	// Vote takes the storage's commit lock, waiting for its turn, and checks and
	// stages everything, so that Finish cannot fail but for a broken disk or a lost
	// connection. The lock is held until Finish or Abort. An error ends the
	// transaction and frees the lock. Besides the errors that the staging methods
	// name: *UndoError, *TIDOrderError.
	Vote(ctx context.Context) (Vote, error)

	// Finish makes the voted transaction durable and visible, in one step, and
	// returns its tid. When it returns an error the outcome is unknown: after a
	// restart the transaction is there as a whole or not at all. *TxnStateError
	// without a successful Vote.
	Finish(ctx context.Context) (TID, error)

	// Abort ends the transaction without effect and frees the lock.
	Abort(ctx context.Context) error
}

// FinishStarter is a Txn whose Finish can be made in two steps, so that others vote
// while it is on its way to the disk. A mirror of storages whose transactions can do so
// lets its commits overlap.
type FinishStarter interface {
	Txn
	// StartFinish, in place of Finish, decides that the voted transaction is the next
	// one of the log, frees the commit lock, and returns; it does not wait for the
	// disk. From then on votes take the transaction for committed: Vote.Last may be its
	// tid. An error is as one of Finish.
	//
	// wait, which is called once, from any goroutine, returns when the transaction is
	// durable, and visible as a whole, at the latest then. If it fails the outcome is
	// unknown, and all that were started later fail as well. ctx ends only the waiting.
	// Whatever happens, a crash included, a transaction is in the log only if all
	// that were started before it are. Close waits for those that were started.
	StartFinish(ctx context.Context) (wait func(ctx context.Context) error, err error)
}

// FinishSender is a Txn of a storage far away, whose Finish need not be waited for before
// the next transaction votes: so a copy of a log costs one round trip for each
// transaction instead of two. It does not make commits overlap, as a FinishStarter does.
type FinishSender interface {
	Txn
	// SendFinish, in place of Finish, sends the finish and returns: the next transaction of
	// the storage may vote. Its Vote fails if this one was refused or its outcome is
	// unknown; else Vote.Last is this one's tid. An error is as one of Finish.
	//
	// wait, which is called once, from any goroutine, returns when the transaction has
	// finished, or why not, as Finish does.
	SendFinish(ctx context.Context) (wait func(ctx context.Context) error, err error)
}

// MaxMetaBytes is the longest User, Description and Extension, in bytes: their
// lengths are 16-bit fields in a FileStorage transaction header.
const MaxMetaBytes = 1<<16 - 1

// Status of a transaction in the log.
type TxnStatus byte

const (
	// StatusNormal is a transaction that may be undone.
	StatusNormal TxnStatus = ' '
	// StatusPacked is a transaction that a pack went over: it cannot be undone.
	StatusPacked TxnStatus = 'p'
)

// Meta is a transaction's metadata.
type Meta struct {
	TID         TID
	Status      TxnStatus // 0 means StatusNormal
	User        []byte
	Description []byte
	// Extension is the pickled dictionary of further metadata, empty for none.
	Extension []byte
	// Deferred lets Finish of a Flusher return before the transaction is durable.
	// Other storages take no notice. It is not part of the log.
	Deferred bool
}

// Vote is the answer of a successful Txn.Vote.
type Vote struct {
	// Changed lists, in ascending order, the oids whose data the storage made
	// itself: undone ones.
	Changed []OID
	// Last is the storage's last tid, read under the commit lock.
	Last TID
}

// Revision is one version of an object.
type Revision struct {
	Data   []byte
	Serial TID // the transaction that wrote it
	Next   TID // the transaction that replaced it, 0 if it is current
}

// Transaction is a committed unit, as the log holds it.
type Transaction struct {
	Meta
	Size int64 // bytes that it takes in the log, 0 where that is not known
	// Records yields the transaction's records in log order. It may be ranged over
	// more than once while the Transaction is valid.
	Records iter.Seq2[Record, error]
}

// Record is one object's part of a transaction.
type Record struct {
	OID OID
	TID TID
	// Data is nil for a deletion or an undone creation. Else it is the full data,
	// also where the storage holds only a pointer to an earlier record.
	Data []byte
	// DataTID is the earlier transaction whose data an undo or copy repeats, 0 if
	// the record has data of its own.
	DataTID TID
	// OpenBlob opens the blob of the record; nil if it has none.
	OpenBlob func(context.Context) (io.ReadCloser, error)
}

// Invalidation tells that a transaction became visible and which objects it
// changed, each once.
type Invalidation struct {
	TID  TID
	OIDs []OID
}

// TxnInfo describes a transaction for people: in undo logs and histories.
type TxnInfo struct {
	Meta
	Size int64 // of the object's data in a history, of the transaction in an undo log; bytes
}

// Undoer is a storage that can undo. Its transactions implement UndoTxn.
type Undoer interface {
	// UndoLog returns the undoable transactions for which match is true (nil: all),
	// newest first, without the first skip and at most limit of them. Packed
	// transactions are not undoable. (ZODB: undoLog, undoInfo.)
	UndoLog(ctx context.Context, skip, limit int, match func(TxnInfo) bool) ([]TxnInfo, error)
}

// UndoTxn is a Txn of an Undoer.
type UndoTxn interface {
	Txn
	// Undo stages the state before transaction tid, blobs included, of all objects
	// that it changed. Several transactions are undone in one by calls for the newest
	// first.
	// Vote returns *UndoError if one of them was changed since, to something else,
	// or if tid is not undoable. (ZODB: undo.)
	Undo(ctx context.Context, tid TID) error
}

// BlobTxn is a Txn of a BlobLoader.
type BlobTxn interface {
	Txn
	// StoreBlob is Store with a file attached to the revision: all that blob
	// yields until io.EOF, read before StoreBlob returns. (ZODB: storeBlob.)
	StoreBlob(ctx context.Context, oid OID, serial TID, data []byte, blob io.Reader) error
}

// BlobLoader is a storage that keeps blobs. Its transactions implement BlobTxn.
type BlobLoader interface {
	// OpenBlob opens the blob of the revision of oid that transaction serial wrote.
	// *NotFoundError if there is none. (ZODB: loadBlob.)
	OpenBlob(ctx context.Context, oid OID, serial TID) (io.ReadCloser, error)
}

// Historian is a storage that lists an object's revisions.
type Historian interface {
	// History returns the transactions that wrote oid, newest first, at most limit.
	// *NotFoundError for an unknown oid. (ZODB: history.)
	History(ctx context.Context, oid OID, limit int) ([]TxnInfo, error)
}

// RecordIterator is a storage that lists its current records.
type RecordIterator interface {
	// CurrentRecords yields the current record of each object with oid ≥ from, in
	// oid order, deleted ones left out. Objects changed while it runs are yielded in
	// one of their states. (ZODB: record_iternext.)
	CurrentRecords(ctx context.Context, from OID) iter.Seq2[Record, error]
}

// LoadStarter is a storage that can begin a load and answer it later, so that nobody
// waits for the answer: a server with many loads under way saves a goroutine for each,
// and the waking of it.
type LoadStarter interface {
	// StartLoad begins what LoadBefore does, without waiting, and tells to the answer
	// later, within a time that the storage bounds. If it returns a LoadSender, the load
	// may be held back until that is called: loads that begin together leave together.
	// False: nothing was begun and to is not called, as the storage would have to wait or
	// has the answer at hand; then LoadBefore will do.
	StartLoad(oid OID, before TID, to LoadAnswer) (held LoadSender, begun bool)
}

// LoadSender sends the loads that StartLoad has begun and held back. Its values can be
// compared: one call is enough for all loads with an equal one.
type LoadSender interface {
	// SendLoads does not wait. It may be called at any time, by any goroutine.
	SendLoads()
}

// LoadAnswer takes the answer of a load that was started. The storage calls it from a
// goroutine that does other work, too: its methods must not wait, nor call the storage.
type LoadAnswer interface {
	// Loaded is called once, perhaps before StartLoad has returned. What it is given is
	// what LoadBefore returns.
	Loaded(rev Revision, err error)
	// Flush is called once or more often after Loaded, perhaps after other answers, when
	// the storage has no more of them at hand: then all are to be passed on.
	Flush()
}

// Notifier is a storage that others may commit to: through another handle, or
// another client of the same server.
type Notifier interface {
	// Subscribe calls notify, one call at a time and in tid order, for each
	// transaction that becomes visible here and was not finished by a Txn of this
	// value, until cancel is called. notify must not wait, nor call the storage;
	// once cancel has returned it is not called any more. (ZODB: invalidate.)
	Subscribe(notify func(Invalidation)) (cancel func())
}

// Truncater is a storage whose last transactions can be cut off.
type Truncater interface {
	// TruncateAfter removes the transactions after tid, provided that the last one
	// is still last (compare-and-truncate, rule M5); else *TIDOrderError. It keeps
	// them where an operator can find them, if the storage is durable.
	TruncateAfter(ctx context.Context, tid, last TID) error
}

// Flusher is a storage that takes many transactions in a row faster if they need
// not be durable one by one, as in a recovery: those with Meta.Deferred.
type Flusher interface {
	// Flush makes every finished transaction durable. Until then, and until the next
	// transaction that is not deferred has finished, a crash may take back the
	// deferred ones, from some point on: what is left is a beginning of the log.
	Flush(ctx context.Context) error
}

// Sizer is a storage that knows how large it is.
type Sizer interface {
	// Size returns the number of objects and the bytes that the storage takes.
	// (ZODB: __len__, getSize.)
	Size(ctx context.Context) (objects, bytes int64, err error)
}

// Wrapper is a storage that forwards optional interfaces to others and so has the
// methods of more of them than it can serve. Can and Supports ask it.
type Wrapper interface {
	// Supports tells whether the optional interface can be served now.
	Supports(capability reflect.Type) bool
}

// Supports tells whether s has the optional interface capability.
func Supports(s Storage, capability reflect.Type) bool {
	if w, ok := s.(Wrapper); ok && !w.Supports(capability) {
		return false
	}
	return reflect.TypeOf(s).Implements(capability)
}

// Can returns s as the optional interface C (Undoer, Packer, ...), or an
// *UnsupportedError, which matches errors.ErrUnsupported.
func Can[C any](s Storage) (C, error) {
	capability := reflect.TypeFor[C]()
	if c, ok := s.(C); ok { // so a wrapper alone can say no
		if w, wraps := s.(Wrapper); !wraps || w.Supports(capability) {
			return c, nil
		}
	}
	var none C
	return none, &UnsupportedError{Storage: s.Name(), Capability: capability.Name()}
}

// LoadSerial returns the data of the revision of oid that transaction serial
// wrote, *NotFoundError if there is none. (ZODB: loadSerial.)
func LoadSerial(ctx context.Context, s Storage, oid OID, serial TID) ([]byte, error) {
	rev, err := s.LoadBefore(ctx, oid, serial+1)
	if err != nil {
		return nil, err
	}
	if rev.Serial != serial {
		return nil, &NotFoundError{OID: oid, Serial: serial}
	}
	return rev.Data, nil
}

// Undo stages the undoing of transaction tid, see UndoTxn; *UnsupportedError if
// txn's storage cannot undo.
func Undo(ctx context.Context, txn Txn, tid TID) error {
	u, ok := txn.(UndoTxn)
	if !ok {
		return &UnsupportedError{Capability: "UndoTxn"}
	}
	return u.Undo(ctx, tid)
}

// StoreBlob stages a record with a blob, see BlobTxn; *UnsupportedError if txn's
// storage has no blobs.
func StoreBlob(ctx context.Context, txn Txn, oid OID, serial TID, data []byte, blob io.Reader) error {
	b, ok := txn.(BlobTxn)
	if !ok {
		return &UnsupportedError{Capability: "BlobTxn"}
	}
	return b.StoreBlob(ctx, oid, serial, data, blob)
}
