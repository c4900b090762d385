// Package zeoclient makes a raidstorage.Storage of one remote ZEO server: unmodified
// Python ones (ZEO 5 and 6), and package zeoserver's.
//
// Many calls share a connection and are under way at the same time; a transaction is
// collected here and leaves in one write when it votes. The protocol is ZEO's version
// 5 in the encoding that the server prefers, see internal/zeowire.
//
// Calls have deadlines, their context's and Options.CallTimeout, and a call whose
// context ends returns at once. A server that cannot be understood, that violates the
// protocol, or that is lost, fails all calls under way with errors of this package,
// which raidstorage.Classify takes for failures of the storage. Then connections are
// tried again in the background; what a transaction had voted for is gone. A server
// that comes back with an older last tid than it had before is not used.
//
// # What the protocol cannot say
//
// An Extension must be a pickled dict of plain values; it comes back pickled anew, and
// an empty one as none. Pack always collects garbage, or never, as the server is
// configured. Records with blobs are restored by storing them. Python's server does
// not name deleted and restored objects when it tells of others' transactions, so that
// those which name none are looked up in its log; objects that were deleted in a
// transaction that also stored some are missed, by Subscribe and by the cache.
// Its file storage packs by other rules than the contract's where an object is only
// referred to by later records (raidstorage.KeptFinder), and does not tell which record is
// damaged.
package zeoclient
