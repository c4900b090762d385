package storagetest

import (
	"reflect"
	"strings"

	"github.com/zeoraid/raidstorage"
)

// Capability is a set of the optional interfaces of package raidstorage.
type Capability uint

// The optional interfaces, named as in package raidstorage.
const (
	Undoer Capability = 1 << iota
	Historian
	Packer
	BlobLoader
	Notifier
	Truncater
	Sizer
	RecordIterator
	GarbageFinder
	StagedPacker
	PackEstimator
	KeptFinder

	// All is every optional interface.
	All = Undoer | Historian | Packer | BlobLoader | Notifier | Truncater | Sizer | RecordIterator | GarbageFinder | StagedPacker | PackEstimator | KeptFinder
)

// Has tells whether all of other are in the set.
func (c Capability) Has(other Capability) bool { return c&other == other }

// String lists the set's interfaces, "none" for an empty set.
func (c Capability) String() string {
	var names []string
	for _, i := range interfaces() {
		if c.Has(i.capability) {
			names = append(names, i.typ.Name())
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, "|")
}

// CapabilitiesOf returns the optional interfaces that s serves now, for a test of
// a wrapper that must offer what the storage below it does.
func CapabilitiesOf(s raidstorage.Storage) Capability {
	var c Capability
	for _, i := range interfaces() {
		if raidstorage.Supports(s, i.typ) {
			c |= i.capability
		}
	}
	return c
}

type optional struct {
	capability Capability
	typ        reflect.Type
}

func interfaces() []optional {
	return []optional{
		{Undoer, reflect.TypeFor[raidstorage.Undoer]()},
		{Historian, reflect.TypeFor[raidstorage.Historian]()},
		{Packer, reflect.TypeFor[raidstorage.Packer]()},
		{BlobLoader, reflect.TypeFor[raidstorage.BlobLoader]()},
		{Notifier, reflect.TypeFor[raidstorage.Notifier]()},
		{Truncater, reflect.TypeFor[raidstorage.Truncater]()},
		{Sizer, reflect.TypeFor[raidstorage.Sizer]()},
		{RecordIterator, reflect.TypeFor[raidstorage.RecordIterator]()},
		{GarbageFinder, reflect.TypeFor[raidstorage.GarbageFinder]()},
		{StagedPacker, reflect.TypeFor[raidstorage.StagedPacker]()},
		{PackEstimator, reflect.TypeFor[raidstorage.PackEstimator]()},
		{KeptFinder, reflect.TypeFor[raidstorage.KeptFinder]()},
	}
}

func capabilityRules() []rule {
	return subject("capabilities", needs{},
		rule{name: "the storage has the declared capabilities and no others", run: func(e *env) {
			if got, want := CapabilitiesOf(e.s), e.f.Capabilities; got != want {
				e.Fatalf("the storage has %v, the fixture declares %v", got, want)
			}
		}},
		rule{name: "transactions can undo and store blobs exactly if the storage can", run: func(e *env) {
			txn := e.begin(raidstorage.Meta{})
			if _, got := txn.(raidstorage.UndoTxn); got != e.f.Capabilities.Has(Undoer) {
				e.Errorf("a transaction is an UndoTxn: %v, the storage is declared an Undoer: %v", got, !got)
			}
			if _, got := txn.(raidstorage.BlobTxn); got != e.f.Capabilities.Has(BlobLoader) {
				e.Errorf("a transaction is a BlobTxn: %v, the storage is declared a BlobLoader: %v", got, !got)
			}
		}},
		rule{name: "the storage has a name", run: func(e *env) {
			if e.s.Name() == "" {
				e.Fatalf("Name is empty")
			}
		}},
	)
}
