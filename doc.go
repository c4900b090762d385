// Package raidstorage is RAID-1 for object databases: it composes storages of
// ZODB's kind - Data.fs files, storages in memory, other mirrors - into one, which
// keeps a full copy on each and survives the loss of all but the last.
//
//	m, err := raidstorage.Open(ctx, raidstorage.Config{
//		StateDir: "/var/lib/app/state",
//		Backends: []raidstorage.Backend{
//			{Name: "one", Open: func(ctx context.Context) (raidstorage.Storage, error) {
//				return filestorage.Open(ctx, "/disk1/Data.fs", filestorage.Options{})
//			}},
//			{Name: "two", Open: func(ctx context.Context) (raidstorage.Storage, error) {
//				return filestorage.Open(ctx, "/disk2/Data.fs", filestorage.Options{})
//			}},
//		},
//	})
//
// A Mirror is a Storage: an application that works on one backend works on a mirror.
//
// # What is promised
//
//   - An acknowledged transaction is on every backend that the membership record
//     calls in sync, and on at least Config.WriteQuorum of them. It is lost only if
//     all those lose their disks.
//   - What a client has seen is never taken back: the last tid does not go down,
//     over restarts either.
//   - All backends in sync hold the same transactions in the same order, tids rise
//     strictly and none is given twice, conflicting transactions never both commit.
//   - A backend that fails, hangs longer than Config.Timeouts, or contradicts the
//     others costs one commit one deadline. It leaves the record before that commit
//     is acknowledged, and it comes back through a recovery only, which copies what
//     it lacks while commits go on.
//   - A commit whose outcome cannot be known says so (*OutcomeUnknownError) and is
//     settled, one way for all, before anything else is committed.
//
// The membership record is the tie-break between backends, so the loss of StateDir
// (or of the Register) with backends that differ needs an operator's Config.Force.
//
// # Words
//
//	oid            identifies an object: OID, 8 bytes
//	tid, serial    identifies a transaction, and the object revision it wrote: TID
//	record         an object's data in a transaction: bytes that are not looked into
//	backend        a member of a mirror
//	in sync        said of backends that hold every acknowledged transaction
//	optimal, degraded, recovering, failed    what a mirror is as a whole
//
// # For readers of ZODB
//
//	Storage.LoadBefore     loadBefore; with MaxTID: load
//	LoadSerial             loadSerial
//	Storage.LastTID        lastTransaction
//	Storage.NewOIDs        new_oid
//	Storage.Begin          tpc_begin
//	Txn.Store              store
//	Txn.Delete             deleteObject
//	Txn.CheckCurrent       checkCurrentSerialInTransaction
//	Txn.Restore            restore, restoreBlob
//	Txn.Vote               tpc_vote
//	Txn.Finish             tpc_finish
//	Txn.Abort              tpc_abort
//	UndoTxn.Undo           undo
//	BlobTxn.StoreBlob      storeBlob
//	Storage.Iterate        iterator
//	Undoer.UndoLog         undoLog, undoInfo
//	Historian.History      history
//	Packer.Pack            pack
//	BlobLoader.OpenBlob    loadBlob
//	RecordIterator         record_iternext
//	Notifier.Subscribe     registerDB, invalidate
//	Sizer.Size             __len__, getSize
//
// Unlike ZODB, nothing is locked before Vote, and conflicts are never resolved by a
// storage.
//
// # Writing a backend
//
// Implement Storage and Txn, and the optional interfaces that fit, and run
// storagetest.Run on it: the suite holds every rule of the contract. A wrapper
// around another storage forwards optional interfaces through Can, and implements
// Wrapper, so that what is missing below is missing above.
//
// # Testing with a mirror
//
// Package memstorage makes a backend in a line, MemoryRegister is a register, and
// storagetest.Faulty is a backend that fails on demand. See examples/testdouble.
package raidstorage
