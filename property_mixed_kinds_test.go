//go:build !interop || !linux

package raidstorage_test

// foreignKinds are servers of others: Python's, with the interop tag on Linux.
func foreignKinds() []mixedKind { return nil }
