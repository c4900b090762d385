package zeowire

import (
	"github.com/zeoraid/raidstorage"
)

// The class paths of exceptions that ZEO's client rebuilds, and others that servers
// send.
const (
	ClassKeyError         = "builtins.KeyError"
	ClassTypeError        = "builtins.TypeError"
	ClassValueError       = "builtins.ValueError"
	ClassAttributeError   = "builtins.AttributeError"
	ClassAssertionError   = "builtins.AssertionError"
	ClassException        = "builtins.Exception"
	ClassConflict         = "ZODB.POSException.ConflictError"
	ClassReadConflict     = "ZODB.POSException.ReadConflictError"
	ClassBTreesConflict   = "ZODB.POSException.BTreesConflictError"
	ClassPOSKey           = "ZODB.POSException.POSKeyError"
	ClassReadOnly         = "ZODB.POSException.ReadOnlyError"
	ClassStorageTxn       = "ZODB.POSException.StorageTransactionError"
	ClassStorage          = "ZODB.POSException.StorageError"
	ClassUndo             = "ZODB.POSException.UndoError"
	ClassMultipleUndo     = "ZODB.POSException.MultipleUndoErrors"
	ClassUnsupported      = "ZODB.POSException.Unsupported"
	ClassInvalidObjectRef = "ZODB.POSException.DanglingReferenceError"
)

// Exception is a Python exception as data. It is an error.
type Exception struct {
	Class string // dotted path
	Args  Value  // a tuple
	Attrs Value  // a dict
}

func (e *Exception) Error() string {
	return "server exception " + e.Class + e.State().String()
}

// NewException makes an exception without attributes.
func NewException(class string, args ...Value) *Exception {
	return &Exception{Class: class, Args: Tuple(args...), Attrs: Dict()}
}

// State is what an error reply carries besides the class: the attributes, or the
// args if there are none.
func (e *Exception) State() Value {
	if len(e.Attrs.items) > 0 {
		return e.Attrs
	}
	return Value{kind: KindTuple, items: e.Args.items}
}

// Value makes a Value of it, for an exception within a message.
func (e *Exception) Value() Value {
	return Value{kind: KindException, data: []byte(e.Class), items: []Value{
		{kind: KindTuple, items: e.Args.items}, {kind: KindDict, items: e.Attrs.items},
	}}
}

// Exception returns the exception that v is: a KindException or, as MessagePack has
// nested ones, the pair of class path and state.
func (v Value) Exception() (*Exception, bool) {
	if v.kind == KindException {
		return &Exception{Class: string(v.data), Args: v.items[0], Attrs: v.items[1]}, true
	}
	return exceptionOf(v)
}

func exceptionOf(v Value) (*Exception, bool) {
	pair, ok := v.Items()
	if !ok || len(pair) != 2 || pair[0].kind != KindText {
		return nil, false
	}
	e := NewException(string(pair[0].data))
	switch state := pair[1]; state.kind {
	case KindDict:
		e.Attrs = state
	case KindTuple, KindList:
		e.Args.items = state.items
	default:
		return nil, false
	}
	return e, true
}

// POSKeyError says that an object has no such revision.
func POSKeyError(oid raidstorage.OID) *Exception { return NewException(ClassPOSKey, OID(oid)) }

// NoBlobError is the POSKeyError of a blob that is missing.
func NoBlobError(oid raidstorage.OID, tid raidstorage.TID) *Exception {
	return NewException(ClassPOSKey, Text("No blob file"), OID(oid), TID(tid))
}

// ReadOnlyError refuses a change.
func ReadOnlyError() *Exception { return NewException(ClassReadOnly) }

// StorageTransactionError says that a call named another transaction than the
// connection's current one, which may be None.
func StorageTransactionError(current, given Value) *Exception {
	return NewException(ClassStorageTxn, current, given)
}

// KeyError says that there is no such key.
func KeyError(key Value) *Exception { return NewException(ClassKeyError, key) }

// ValueError says what is wrong with an argument.
func ValueError(text string) *Exception { return NewException(ClassValueError, Text(text)) }

// Conflict is what the two kinds of conflict errors tell.
type Conflict struct {
	OID       raidstorage.OID
	ClassName string // of the object, empty if unknown
	Committed raidstorage.TID
	Read      raidstorage.TID
}

// ConflictError says that an object was changed since it was read.
func ConflictError(c Conflict) *Exception {
	return c.exception(ClassConflict, "database conflict error")
}

// ReadConflictError says that an object that should be unchanged was changed.
func ReadConflictError(c Conflict) *Exception {
	return c.exception(ClassReadConflict, "database read conflict error")
}

func (c Conflict) exception(class, message string) *Exception {
	name := None()
	if c.ClassName != "" {
		name = Text(c.ClassName)
	}
	return &Exception{Class: class, Attrs: Dict(
		Entry("message", Text(message)), Entry("oid", OID(c.OID)), Entry("class_name", name),
		Entry("serials", Tuple(TID(c.Committed), TID(c.Read))),
	)}
}

// Conflict returns what a ConflictError or ReadConflictError tells.
func (e *Exception) Conflict() (c Conflict, ok bool) {
	if e.Class != ClassConflict && e.Class != ClassReadConflict {
		return c, false
	}
	oid, _ := e.Attrs.Get("oid")
	name, _ := e.Attrs.Get("class_name")
	serials, _ := e.Attrs.Get("serials")
	c.OID, ok = oid.OID()
	c.ClassName, _ = name.Text()
	pair, _ := serials.Items()
	if !ok || len(pair) != 2 {
		return Conflict{}, false
	}
	var ok1, ok2 bool
	c.Committed, ok1 = pair[0].TID()
	c.Read, ok2 = pair[1].TID()
	return c, ok1 && ok2
}

// UndoFailure is one object that an undo could not undo.
type UndoFailure struct {
	OID    raidstorage.OID
	Reason string
}

// UndoError says that a transaction cannot be undone. hasOID tells whether f.OID is
// the object that stands in the way.
func UndoError(f UndoFailure, hasOID bool) *Exception {
	oid := None()
	if hasOID {
		oid = OID(f.OID)
	}
	args := Tuple(Text(f.Reason), oid)
	if !hasOID {
		args = Tuple(Text(f.Reason))
	}
	return &Exception{Class: ClassUndo, Args: args, Attrs: Dict(Entry("_reason", Text(f.Reason)), Entry("_oid", oid))}
}

// MultipleUndoErrors lists the objects that stand in the way of an undo.
func MultipleUndoErrors(failures []UndoFailure) *Exception {
	errs := make([]Value, 0, len(failures))
	for _, f := range failures {
		errs = append(errs, Tuple(OID(f.OID), UndoError(f, true).Value()))
	}
	list := List(errs...)
	e := &Exception{Class: ClassMultipleUndo, Args: Tuple(list)}
	if len(errs) > 0 { // ZODB passes the first pair on to UndoError, in this order
		e.Attrs = Dict(Entry("_reason", errs[0].items[0]), Entry("_oid", errs[0].items[1]), Entry("_errs", list))
	} else {
		e.Attrs = Dict(Entry("_errs", list))
	}
	return e
}

// UndoFailures returns what an UndoError or MultipleUndoErrors tells. Failures that
// name no object have oid 0.
func (e *Exception) UndoFailures() (failures []UndoFailure, ok bool) {
	switch e.Class {
	case ClassUndo:
		f, ok := e.undoFailure()
		return []UndoFailure{f}, ok
	case ClassMultipleUndo:
		errs, _ := e.Attrs.Get("_errs")
		items, ok := errs.Items()
		if !ok {
			return nil, false
		}
		for _, item := range items {
			pair, ok := item.Items()
			if !ok || len(pair) != 2 {
				return nil, false
			}
			inner, ok := pair[1].Exception()
			if !ok {
				return nil, false
			}
			f, ok := inner.undoFailure()
			if !ok {
				return nil, false
			}
			if oid, ok := pair[0].OID(); ok {
				f.OID = oid
			}
			failures = append(failures, f)
		}
		return failures, true
	}
	return nil, false
}

func (e *Exception) undoFailure() (f UndoFailure, ok bool) {
	reason, _ := e.Attrs.Get("_reason")
	oid, _ := e.Attrs.Get("_oid")
	f.Reason, ok = reason.Text()
	f.OID, _ = oid.OID()
	return f, ok
}
