//go:build !race

package filestorage_test

const raceEnabled = false
