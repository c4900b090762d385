package filestorage_test

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// indexShape is a way in which oids come, and how many bytes of memory the index may
// take for each.
type indexShape struct {
	name  string
	bound float64
	oid   func(i uint64) raidstorage.OID
}

// scatter is a bijection, so that no oid comes twice.
func scatter(i uint64) uint64 {
	i ^= i >> 31
	i *= 0x7fb5d329728ea185
	i ^= i >> 27
	i *= 0x81dadef4bc2dd44d
	return i ^ i>>33
}

func indexShapes(n uint64) []indexShape {
	return []indexShape{
		{"dense, in order", 10, func(i uint64) raidstorage.OID { return raidstorage.OID(i) }},
		{"dense, in any order", 10, func(i uint64) raidstorage.OID {
			return raidstorage.OID((i * 7_368_787) % n) // a prime that does not divide n
		}},
		{"random, 64 bits", 24, func(i uint64) raidstorage.OID { return raidstorage.OID(scatter(i)) }},
		{"random, in order", 24, func(i uint64) raidstorage.OID { return raidstorage.OID(i * ((1<<64 - 1) / n)) }},
		{"one in 50", 24, func(i uint64) raidstorage.OID { return raidstorage.OID(i * 50) }},
		{"one in 25", 24, func(i uint64) raidstorage.OID { return raidstorage.OID(i * 25) }},
		{"runs of 20", 24, func(i uint64) raidstorage.OID { return raidstorage.OID(scatter(i/20)<<8 | i%20) }},
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// fillIndex returns an index of n oids, and the bytes that it holds for each.
func fillIndex(n uint64, shape indexShape) (x filestorage.Index, each float64) {
	before := heap()
	x = filestorage.NewIndex()
	for i := range n {
		x.Set(shape.oid(i), int64(100+i))
	}
	return x, float64(heap()-before) / float64(n)
}

// Not parallel: it measures the memory of the process.
func TestTheIndexIsSmall(t *testing.T) {
	const objects = 1_000_000
	for _, shape := range indexShapes(objects) {
		x, built := fillIndex(objects, shape)
		if x.Len() != objects {
			t.Fatalf("%s: %d objects", shape.name, x.Len())
		}
		random := rand.New(rand.NewPCG(1, 2))
		for range 1000 {
			i := random.Uint64N(objects)
			if got := x.Get(shape.oid(i)); got != int64(100+i) {
				t.Fatalf("%s: oid %v is at %d, want %d", shape.name, shape.oid(i), got, 100+i)
			}
		}
		var file bytes.Buffer
		if err := x.Write(&file, 1<<40); err != nil {
			t.Fatal(err)
		}
		runtime.KeepAlive(x)
		x = filestorage.Index{}
		before := heap()
		x, err := filestorage.LoadIndex(bytes.NewReader(file.Bytes()), int64(file.Len()))
		if err != nil || x.Len() != objects {
			t.Fatalf("%s: %d objects, %v", shape.name, x.Len(), err)
		}
		loaded := float64(heap()-before) / objects
		t.Logf("%-20s %5.2f bytes for an object, %5.2f after loading", shape.name, built, loaded)
		if built > shape.bound || loaded > shape.bound {
			t.Errorf("%s: %.2f bytes for an object, %.2f after loading, want %.0f at most", shape.name, built, loaded, shape.bound)
		}
		runtime.KeepAlive(x)
		runtime.KeepAlive(&file)
	}
}

// BenchmarkIndexMemory reports the memory of an index of 10 million objects for each
// of them.
func BenchmarkIndexMemory(b *testing.B) {
	const objects = 10_000_000
	for _, shape := range indexShapes(objects) {
		b.Run(shape.name, func(b *testing.B) {
			for b.Loop() {
				x, each := fillIndex(objects, shape)
				b.ReportMetric(each, "B/object")
				runtime.KeepAlive(x)
			}
		})
	}
}
