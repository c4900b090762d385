// Package zeoserver serves storages to ZEO clients: a Python application opens its
// database with ZEO's ClientStorage, versions 5 and 6, and notices nothing.
//
// A Server has any number of named storages. Each connection registers for one of
// them. Protocol 5 is spoken in both encodings, Z5 (pickle) and M5 (MessagePack);
// the client chooses. All methods that such clients call are there, with the results
// and exceptions of ZEO's own server; where that one leaves a lock or a connection
// behind, this one does not.
//
// # Where to read
//
//	server.go     listeners, connections, shutdown
//	conn.go       one connection: its reader, its writer, its end
//	dispatch.go   the table of methods
//	order.go      the rule that keeps clients' caches right; recent.go how loads keep it
//	turn.go       who commits next
//	txn.go        a transaction before it votes; vote.go its vote, finish.go its end
//	exceptions.go which error becomes which Python exception
//
// # Conflicts
//
// Resolving a conflict needs the application's classes, which this server does not
// have. Either it is an error for the client, as it is for clients of a Python server
// without the classes; or, with Config.ClientConflictResolution, the clients resolve
// conflicts themselves.
//
// # Other writers
//
// What a storage's other users commit is sent to clients if the storage is a
// raidstorage.Notifier. A program that serves a storage must not commit to the same
// value directly, beside the server: Notifiers tell nothing of that. A commit is
// acknowledged when what was committed before it has been notified of, or after three
// seconds. A notification that comes later still ends all connections.
//
// # What differs from ZEO's server
//
// The tid that a copying client gives must be later than the storage's last one: the
// vote fails with a StorageError. Clients can share the blob directory of a file
// storage only: for others, mirrors above all, storeBlobShared fails with Unsupported.
// The transaction timeout counts from the answer to the vote,
// so that only the client's own time is limited. Deleted and restored objects are
// invalidated, too. A vote that waits, and whose transaction is aborted, is answered,
// with a StorageTransactionError. While conflicts are resolved by a client, it keeps
// its turn. A client that does not read what is sent to it is dropped.
//
// A killed server leaves the files zeoserver-* of uploads under way in Config.TempDir.
package zeoserver
