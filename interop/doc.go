// Package interop holds tests only, with the build tag interop: programs written in
// Python that know nothing of this module, against our servers and files.
//
// The tests that ZODB and ZEO bring along for their own storages run through ZEO's
// ClientStorage against our server, over memory, a file and a mirror, in both encodings
// (TestZODBSuites, TestZEO5Client); so do the tools that operators have, and Zope.
//
// The interpreters come from the environment: RAIDSTORAGE_PYTHON has what
// .ci/requirements.txt lists, RAIDSTORAGE_PYTHON5 what .ci/requirements-zeo5.txt lists,
// RAIDSTORAGE_ZOPE what .ci/requirements-zope.txt lists. A test whose interpreter is
// missing fails. RAIDSTORAGE_LOG=1 shows what our servers log.
//
// TestSoak has all kinds of faults come at random, for RAIDSTORAGE_SOAK:
//
//	RAIDSTORAGE_SOAK=8h go test -tags interop -count=1 -timeout 0 -v -run Soak ./interop
package interop
