package config

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxFaults is how many faults are kept: a hostile file has one on each line.
const maxFaults = 100

// faults collects what is wrong.
type faults struct {
	all   []Fault
	more  int            // beyond maxFaults
	order map[string]int // of files, as they came up
}

func (fs *faults) add(pos Pos, message, hint string) {
	if len(fs.all) >= maxFaults {
		fs.more++
		return
	}
	if fs.order == nil {
		fs.order = make(map[string]int)
	}
	if _, ok := fs.order[pos.File]; !ok {
		fs.order[pos.File] = len(fs.order)
	}
	fs.all = append(fs.all, Fault{Pos: pos, Message: message, Hint: hint})
}

// unknown adds a fault of a word that is none of those known.
func (fs *faults) unknown(pos Pos, message, word string, known []string) {
	hint := ""
	if len(fs.all) < maxFaults { // else it is not shown, and finding it takes time
		hint = suggest(word, known)
	}
	fs.add(pos, message, hint)
}

// sorted returns the faults by file and line.
func (fs *faults) sorted() []Fault {
	all := slices.Clone(fs.all)
	slices.SortStableFunc(all, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(fs.order[a.File], fs.order[b.File]), cmp.Compare(a.Line, b.Line))
	})
	if fs.more > 0 {
		all = append(all, Fault{Message: strconv.Itoa(fs.more) + " more faults"})
	}
	return all
}

// maxQuoted is how many bytes of a file's text a message repeats.
const maxQuoted = 80

// quote makes text of the file safe to show.
func quote(s string) string { return strconv.Quote(shorten(s)) }

// quoteName is quote without the quotes, for names within brackets.
func quoteName(s string) string {
	q := quote(s)
	return q[1 : len(q)-1]
}

func shorten(s string) string {
	if len(s) <= maxQuoted {
		return s
	}
	n := maxQuoted
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}

// suggest names the known name that is nearest to an unknown one, or all of them where
// none is near.
func suggest(unknown string, known []string) string {
	best, bestAt := "", len(unknown)
	if len(unknown) <= maxQuoted {
		for _, k := range known {
			if d := distance(lower(unknown), lower(k)); d < bestAt {
				best, bestAt = k, d
			}
		}
	}
	if best != "" && bestAt <= max(1, len(unknown)/3) {
		return "did you mean " + best + "?"
	}
	if len(known) == 0 {
		return ""
	}
	return "known are " + strings.Join(known, ", ")
}

// distance counts the letters to insert, remove, change or swap with the next one to
// make b of a.
func distance(a, b string) int {
	last, row := make([]int, len(b)+1), make([]int, len(b)+1)
	next := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		for j := 1; j <= len(b); j++ {
			differs := 1
			if a[i-1] == b[j-1] {
				differs = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+differs)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], last[j-2]+1)
			}
		}
		last, row, next = row, next, last
	}
	return row[len(b)]
}
