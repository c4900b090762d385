// Package rules is a test only: it keeps the architecture as it is meant to be. Who
// may import whom, how long files and functions get, where goroutines start, what
// state a package has, which names are documented, and whether what the README tells
// people to run is run here too.
package rules
