//go:build interop

package zeoclient_test

import "testing"

// The same over Python's server with a FileStorage.

func BenchmarkPythonLoadBefore(b *testing.B) {
	benchmarkLoads(b, startRunzeo(b, shortDir(b), 1, "msgpack true").options(b))
}

func BenchmarkPythonCommit(b *testing.B) {
	benchmarkCommits(b, startRunzeo(b, shortDir(b), 1, "msgpack true").options(b))
}
