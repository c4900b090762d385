//go:build race

package filestorage_test

// raceEnabled tells that sync.Pool forgets things on purpose.
const raceEnabled = true
