//go:build linux

package filestorage_test

import (
	"crypto/sha256"
	"path/filepath"
	"strings"
	"testing"
)

// plantedBug is a mistake that the storage could make: a sync or a removal left out. It
// is planted in the record, where the file system never hears of the call.
type plantedBug struct {
	name, workload string
	missing        func(tr *crashTrial, i int, op fsOp) bool
}

// followed tells whether the next operation of a kind that what accepts comes before
// any that until accepts.
func (tr *crashTrial) followed(i int, what, until func(fsOp) bool) bool {
	for _, op := range tr.ops[i+1:] {
		if what(op) {
			return true
		}
		if until(op) {
			return false
		}
	}
	return false
}

func isSync(op fsOp) bool   { return op.Kind == "synced" }
func isSwitch(op fsOp) bool { return op.Kind == "rename" && op.To == crashData }

// isStatus tells whether the operation overwrites the status of a transaction.
func isStatus(op fsOp) bool {
	return op.Kind == "write" && op.Path == crashData && len(op.Data) == 1
}

func isAck(op fsOp) bool {
	return op.Kind == "mark" && strings.HasPrefix(string(op.Data), "ack ")
}

func plantedBugs() []plantedBug {
	syncOf := func(accept func(path string) bool) func(*crashTrial, int, fsOp) bool {
		return func(_ *crashTrial, _ int, op fsOp) bool { return isSync(op) && accept(op.Path) }
	}
	return []plantedBug{
		{"the status is overwritten before the data are synced", "commit", func(tr *crashTrial, i int, op fsOp) bool {
			return isSync(op) && tr.followed(i, isStatus, isSync)
		}},
		{"a commit is acknowledged before its status is synced", "commit", func(tr *crashTrial, i int, op fsOp) bool {
			return isSync(op) && tr.followed(i, isAck, isSync)
		}},
		{"the status of a deferred transaction is overwritten before its data are synced", "settle", func(tr *crashTrial, i int, op fsOp) bool {
			return isSync(op) && tr.followed(i, isStatus, isSync)
		}},
		{"Flush returns before the statuses are synced", "settle", func(tr *crashTrial, i int, op fsOp) bool {
			return isSync(op) && tr.followed(i, isAck, isSync)
		}},
		{"nothing is synced", "commit", syncOf(func(string) bool { return true })},
		{"the name of a new file is not synced", "commit", syncOf(func(path string) bool { return path == "." })},
		{"the index is renamed before it is synced", "index", syncOf(func(path string) bool { return strings.HasSuffix(path, ".index_tmp") })},
		{"the packed file is renamed before it is synced", "pack", syncOf(func(path string) bool { return path == crashData+".pack" })},
		{"the directory is not synced after the packed file is renamed", "pack", func(tr *crashTrial, i int, op fsOp) bool {
			return isSync(op) && op.Path == "." && !tr.followed(i, isSwitch, func(op fsOp) bool { return isSync(op) && op.Path == "." }) && i > 50
		}},
		{"the directory is not synced before the packed file is renamed", "pack", func(tr *crashTrial, i int, op fsOp) bool {
			return isSync(op) && op.Path == "." && tr.followed(i, isSwitch, func(op fsOp) bool { return isSync(op) && op.Path == "." })
		}},
		{"the old index stays beside the packed file", "pack", func(_ *crashTrial, _ int, op fsOp) bool {
			return op.Kind == "remove" && op.Path == crashData+".index"
		}},
		{"a blob is renamed before it is synced", "blob", syncOf(func(path string) bool { return strings.HasPrefix(path, crashBlobs+"/tmp/") })},
		{"the directory of a blob is not synced", "blob", syncOf(func(path string) bool { return strings.HasPrefix(path, crashBlobs+"/0x00/") })},
		{"a transaction is written before its blob has its name", "blob", func(_ *crashTrial, _ int, op fsOp) bool {
			return op.Kind == "rename" && filepath.Ext(op.To) == ".blob"
		}},
	}
}

// The campaign must notice mistakes.
func TestCrashCampaignNoticesPlantedBugs(t *testing.T) {
	t.Parallel()
	for _, bug := range plantedBugs() {
		t.Run(bug.name, func(t *testing.T) {
			t.Parallel()
			const records = 10
			states := 0
			for seed := range uint64(records) {
				tr := record(t, bug.workload, seed)
				found, planted := tr, 0
				found.ops = tr.without(func(i int, op fsOp) bool {
					missing := bug.missing(tr, i, op)
					if missing {
						planted++
					}
					return missing
				})
				found.seen = make(map[[sha256.Size]byte][]loggedTxn)
				if err := found.play(4 * statesPerRecord); err != nil && planted > 0 {
					first, _, _ := strings.Cut(err.Error(), "\n")
					t.Logf("%d calls left out; noticed in seed %d after %d states: %s", planted, seed, states+tr.states, first)
					return
				}
				states += tr.states
			}
			t.Errorf("not noticed in %d states", states)
		})
	}
}
