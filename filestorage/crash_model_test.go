//go:build linux

package filestorage_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// powerFS is a file system after some of the recorded operations. It knows what the
// disk may hold when the power fails now:
//
//   - Of each sector of a file, any of its contents since the file was synced; what lies
//     between the old end and a new one reads as zeros where it never was written.
//   - For the size of a file, any of those since then.
//   - Of the changes of names, any since their directory was synced, in order. A rename
//     is one change; syncing either directory makes it durable.
//
// A sync covers what was done before it began, and not before it has ended.
type powerFS struct {
	ops     []fsOp // all, for synced
	files   map[int]*powerFile
	names   map[string]int // durable ones
	changes []nameChange   // not durable yet
	covered map[int]int    // by the index of a sync: how many of its file's operations it covers
	dirs    map[int]string
}

// powerFile is the part of a file that is durable, and what was done to it since.
type powerFile struct {
	durable []byte
	pending []diskWrite
	first   int // how many operations came before pending
}

// nameChange gives a name to a node, or takes one away, or both at once.
type nameChange struct {
	at         int // index of the operation
	give, take string
	node       int
}

func newPowerFS(ops []fsOp) *powerFS {
	return &powerFS{ops: ops, files: make(map[int]*powerFile), names: make(map[string]int), covered: make(map[int]int),
		dirs: map[int]string{0: "."}}
}

// apply does operation i.
func (p *powerFS) apply(i int) {
	op := p.ops[i]
	switch op.Kind {
	case "write", "truncate":
		f := p.files[op.Node]
		f.pending = append(f.pending, diskWrite{op.Off, op.Data})
	case "create":
		p.files[op.Node] = &powerFile{}
		p.changes = append(p.changes, nameChange{at: i, give: op.Path, node: op.Node})
	case "mkdir":
		p.dirs[op.Node] = op.Path
		p.changes = append(p.changes, nameChange{at: i, give: op.Path, node: op.Node})
	case "link":
		p.changes = append(p.changes, nameChange{at: i, give: op.To, node: op.Node})
	case "rename":
		p.changes = append(p.changes, nameChange{at: i, give: op.To, node: op.Node, take: op.Path})
	case "remove":
		p.changes = append(p.changes, nameChange{at: i, take: op.Path})
	case "sync":
		if f := p.files[op.Node]; f != nil {
			p.covered[i] = f.first + len(f.pending)
		}
	case "synced":
		p.synced(op.Node)
	}
}

// synced makes durable what the sync that began with operation i covers.
func (p *powerFS) synced(i int) {
	node := p.ops[i].Node
	if f := p.files[node]; f != nil {
		n := max(0, p.covered[i]-f.first)
		for _, w := range f.pending[:n] {
			f.durable = w.apply(f.durable)
		}
		f.pending, f.first = f.pending[n:], f.first+n
		return
	}
	dir := p.dirs[node]
	durable := make(map[int]bool)
	for n, c := range slices.Backward(p.changes) {
		in := c.give != "" && filepath.Dir(c.give) == dir || c.take != "" && filepath.Dir(c.take) == dir
		if !durable[n] && (c.at > i || !in) {
			continue
		}
		durable[n] = true
		if c.give != "" && c.take != "" { // a rename from another directory: what made the name there comes with it
			for earlier := range n {
				if e := p.changes[earlier]; e.give == c.take || e.take == c.take {
					durable[earlier] = true
				}
			}
		}
	}
	left := p.changes[:0]
	for n, c := range p.changes {
		if durable[n] {
			c.apply(p.names)
		} else {
			left = append(left, c)
		}
	}
	p.changes = left
}

func (c nameChange) apply(names map[string]int) {
	if c.take != "" {
		delete(names, c.take)
	}
	if c.give != "" {
		names[c.give] = c.node
	}
}

// image is what is on a disk: the content of each file, nil for a directory.
type image map[string][]byte

// whole returns all that was done.
func (p *powerFS) whole() image {
	return p.image(func(n int) bool { return true }, func(f *powerFile) []byte { return f.version(len(f.pending)) })
}

// image returns an image with those changes of names that chosen tells, and those
// contents.
func (p *powerFS) image(chosen func(n int) bool, content func(*powerFile) []byte) image {
	names := maps.Clone(p.names)
	for n, c := range p.changes {
		if chosen(n) {
			c.apply(names)
		}
	}
	im, contents := make(image), make(map[int][]byte)
	for _, path := range slices.Sorted(maps.Keys(names)) {
		dir := filepath.Dir(path)
		if parent, there := im[dir]; dir != "." && (!there || parent != nil) {
			continue // the directory never reached the disk
		}
		node := names[path]
		f := p.files[node]
		if f == nil {
			im[path] = nil
			continue
		}
		if contents[node] == nil { // a file with two names has one content
			contents[node] = append([]byte{}, content(f)...)
		}
		im[path] = contents[node]
	}
	return im
}

// Ways in which a part of what is pending reaches the disk.
const (
	partNone = iota
	partAll
	partFirst  // what came first
	partSome   // some sectors in their last state, the others in their first
	partMixed  // each sector in any state
	partsCount // how many there are
)

// sample returns one of the images that the disk may hold.
func (p *powerFS) sample(r *rand.Rand) image {
	each, names := r.IntN(partsCount+2), r.IntN(partsCount) // beyond partsCount: each file by itself
	first, chance := r.IntN(len(p.changes)+1), r.Float64()
	if names >= partSome && r.IntN(2) == 0 {
		chance = 0.9 // nearly all
	}
	chosen := func(n int) bool {
		switch names {
		case partNone:
			return false
		case partAll:
			return true
		case partFirst:
			return n < first
		}
		return r.Float64() < chance
	}
	return p.image(chosen, func(f *powerFile) []byte {
		if each < partsCount {
			return f.sample(each, r)
		}
		return f.sample(r.IntN(partsCount), r)
	})
}

// version returns the file with the first n of the pending operations.
func (f *powerFile) version(n int) []byte {
	b := slices.Clone(f.durable)
	for _, w := range f.pending[:n] {
		b = w.apply(b)
	}
	return b
}

// sample returns one of the contents that the disk may hold.
func (f *powerFile) sample(part int, r *rand.Rand) []byte {
	n := len(f.pending)
	if n == 0 {
		return f.durable
	}
	switch part {
	case partNone:
		return f.durable
	case partAll:
		return f.version(n)
	case partFirst:
		k := 1 + r.IntN(n)
		return f.mix(func(int) int { return k - r.IntN(2) }, k-r.IntN(2)) // the last one torn
	case partSome:
		chance := r.Float64()
		return f.mix(func(int) int {
			if r.Float64() < chance {
				return n
			}
			return 0
		}, n*r.IntN(2))
	}
	return f.mix(func(int) int { return r.IntN(n + 1) }, r.IntN(n+1))
}

// mix returns the file with each sector as it was after as many of the pending
// operations as choose says, and the size after size of them.
func (f *powerFile) mix(choose func(sector int) int, size int) []byte {
	longest, length, end := len(f.durable), len(f.durable), len(f.durable)
	for i, w := range f.pending {
		if w.data == nil {
			length = int(w.off)
		} else {
			length = max(length, int(w.off)+len(w.data))
		}
		longest = max(longest, length)
		if i+1 == size {
			end = length
		}
	}
	out := append(slices.Clone(f.durable), make([]byte, longest-len(f.durable))...)
	picks := make([]int, (longest+sectorSize-1)/sectorSize)
	for i := range picks {
		picks[i] = choose(i)
	}
	now := slices.Clone(f.durable)
	for i, w := range f.pending {
		now = w.apply(now)
		for s, pick := range picks {
			if pick != i+1 {
				continue
			}
			sector := out[s*sectorSize : min(len(out), (s+1)*sectorSize)]
			clear(sector)
			if s*sectorSize < len(now) {
				copy(sector, now[s*sectorSize:])
			}
		}
	}
	return out[:end]
}

// sum identifies the image.
func (im image) sum() [sha256.Size]byte {
	h := sha256.New()
	for _, path := range slices.Sorted(maps.Keys(im)) {
		fmt.Fprintf(h, "%s %v %d\n", path, im[path] == nil, len(im[path]))
		h.Write(im[path])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// place makes dir hold the image and nothing else. Two names of a file stay that only
// where their contents are one slice.
func (im image) place(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o777); err != nil {
		return err
	}
	placed := make(map[*byte]string)
	for _, path := range slices.Sorted(maps.Keys(im)) {
		content, full := im[path], filepath.Join(dir, path)
		var err error
		switch {
		case content == nil:
			err = os.Mkdir(full, 0o777)
		case len(content) > 0 && placed[&content[0]] != "":
			err = os.Link(placed[&content[0]], full)
		default:
			err = os.WriteFile(full, content, 0o666)
			if len(content) > 0 {
				placed[&content[0]] = full
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// imageOf reads the image back.
func imageOf(dir string) (image, error) {
	im := make(image)
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path) // it is below dir
		if err != nil || rel == "." {
			return err
		}
		if e.IsDir() {
			im[rel] = nil
			return nil
		}
		content, err := os.ReadFile(path)
		im[rel] = append([]byte{}, content...)
		return err
	})
	return im, err
}

// differs names the first difference, empty if there is none.
func (im image) differs(other image) string {
	all := maps.Clone(im)
	maps.Copy(all, other)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		a, inA := im[path]
		b, inB := other[path]
		if inA != inB || (a == nil) != (b == nil) || !bytes.Equal(a, b) {
			return fmt.Sprintf("%s: there %v and %v, %d and %d bytes", path, inA, inB, len(a), len(b))
		}
	}
	return ""
}
