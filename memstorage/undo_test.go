package memstorage

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/zeoraid/raidstorage"
)

// TestUndoDecidesAsFileStorageDoes replays what testdata/undo.py let ZODB's
// FileStorage do.
func TestUndoDecidesAsFileStorageDoes(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile("testdata/undo.txt")
	if err != nil {
		t.Fatal(err)
	}
	var s *Storage
	var tids []raidstorage.TID
	line := 0
	for step := range strings.Lines(string(script)) {
		line++
		fields := strings.Split(strings.TrimSpace(step), "\t")
		words := strings.Fields(fields[0])
		if words[0] == "reset" {
			s, tids = New(""), nil
			continue
		}
		tid, err := tryCommit(t, s, func(txn *txn) error { return perform(t, s, txn, words, tids) })
		outcome := "ok"
		if _, refused := errors.AsType[*raidstorage.UndoError](err); refused {
			outcome = "refused"
		} else if err != nil {
			t.Fatalf("line %d: %v", line, err)
		} else {
			tids = append(tids, tid)
		}
		state := make([]string, 3)
		for i := range state {
			if state[i] = current(t, s, raidstorage.OID(i+1)); state[i] == "" {
				state[i] = "-"
			}
		}
		if shown := strings.Join(state, " "); outcome != fields[1] || shown != fields[2] {
			t.Fatalf("line %d, %q: %s, %s instead of %s, %s", line, fields[0], outcome, shown, fields[1], fields[2])
		}
	}
}

// perform stages what the words of a script's line say.
func perform(t *testing.T, s *Storage, txn *txn, words []string, tids []raidstorage.TID) error {
	numbers := make([]int, len(words))
	for i, word := range words {
		numbers[i], _ = strconv.Atoi(word) // 0 for a word that is no number
	}
	if words[0] == "undo" {
		for _, n := range numbers[1:] {
			if err := txn.Undo(t.Context(), tids[n]); err != nil {
				return err
			}
		}
		return nil
	}
	oid := raidstorage.OID(numbers[1])
	var serial raidstorage.TID
	if history, err := s.History(t.Context(), oid, 1); err == nil {
		serial = history[0].TID
	}
	if words[0] == "delete" {
		return txn.Delete(t.Context(), oid, serial)
	}
	return txn.Store(t.Context(), oid, serial, []byte(words[2]))
}
