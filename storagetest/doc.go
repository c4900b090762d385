// Package storagetest tests storages, and lets storages fail in tests.
//
// Run is the conformance suite for everybody who writes a raidstorage.Storage: a
// backend, a wrapper, a mirror. One call runs it:
//
//	func TestConformance(t *testing.T) {
//		storagetest.Run(t, storagetest.Fixture{
//			Open:         func(t testing.TB) raidstorage.Storage { return mystore.New(t.TempDir()) },
//			Capabilities: storagetest.Undoer | storagetest.Historian,
//		})
//	}
//
// What the storage can do beyond raidstorage.Storage is declared in the fixture.
// A declared capability that is missing fails, and so does one that is there and
// was not declared: nothing is skipped in silence.
//
// Faulty wraps any storage in one that fails, waits, lies or loses replies when a
// test says so. Log takes a snapshot of a storage's whole log for comparison, and
// Commit writes a transaction in one line.
package storagetest
