package zeowire

import (
	"slices"
	"strings"
)

// This file has the opcodes that name classes. A class is never looked up, nothing is
// called: exceptions become data, ZopeUndo's Prefix its path, and a dict that a call
// makes of pairs, as some metadata of transactions have it, a dict.

const (
	posModule    = "ZODB.POSException"
	prefixModule = "ZopeUndo.Prefix"
	prefixName   = "Prefix"
	// maxClass bounds the names of classes.
	maxClass = 200
)

// What a class in a pickle is good for; in num of its Value.
const (
	globalException     = iota
	globalRecon         // ZODB.POSException._recon(class, state)
	globalPrefix        // ZopeUndo.Prefix.Prefix
	globalReconstructor // copyreg._reconstructor(class, object, None)
	globalObject        // object, as an argument of the latter
	globalDict          // dict
)

// class does what concerns classes.
func (m *pickleMachine) class(op byte) error {
	switch op {
	case opGlobal:
		module, err := m.line()
		if err != nil {
			return err
		}
		name, err := m.line()
		if err != nil {
			return err
		}
		return m.global(module, name)
	case opStackGlobal:
		name, err := m.pop()
		if err != nil {
			return err
		}
		module, err := m.pop()
		if err != nil {
			return err
		}
		if name.v.kind != KindText || module.v.kind != KindText {
			return m.fail("the name of a class that is no text")
		}
		return m.global(module.v.data, name.v.data)
	case opBuild:
		return m.setState()
	}
	args, err := m.pop()
	if err != nil {
		return err
	}
	class, err := m.pop()
	if err != nil {
		return err
	}
	if class.v.kind != kindGlobal || args.v.kind != KindTuple || args.object != 0 {
		return m.fail("a call of something that is no class")
	}
	return m.construct(class.v, args, op == opNewObj)
}

// global pushes a class, if it is one that messages may name.
func (m *pickleMachine) global(module, name []byte) error {
	if len(module)+len(name) > maxClass || !isPath(module) || !isPath(name) {
		return m.fail("a name of a class that cannot be one")
	}
	path := string(module) + "." + string(name)
	what, ok := globalOf(path)
	if !ok {
		return m.fail("the class " + path + " is not allowed")
	}
	return m.push(Value{kind: kindGlobal, num: uint64(what), data: []byte(path)})
}

func globalOf(path string) (what int, ok bool) {
	switch path {
	case posModule + "._recon":
		return globalRecon, true
	case prefixModule + "." + prefixName:
		return globalPrefix, true
	case "copy_reg._reconstructor", "copyreg._reconstructor":
		return globalReconstructor, true
	case "builtins.object", "__builtin__.object":
		return globalObject, true
	case "builtins.dict", "__builtin__.dict":
		return globalDict, true
	case "builtins.StopIteration", "builtins.KeyboardInterrupt", "builtins.SystemExit", "builtins.GeneratorExit",
		posModule + ".Unsupported":
		return globalException, true
	}
	// Which names are exceptions only Python knows, so what is called so counts.
	for _, suffix := range []string{"Error", "Errors", "Exception", "Warning", "Conflict", "Disconnected"} {
		if strings.HasSuffix(path, suffix) {
			return globalException, true
		}
	}
	return 0, false
}

// isPath tells whether b has only what dotted names have.
func isPath(b []byte) bool {
	return len(b) > 0 && !slices.ContainsFunc(b, func(c byte) bool {
		return !(c == '.' || c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z')
	})
}

// construct does what calling the class would do.
func (m *pickleMachine) construct(class Value, args entry, newObj bool) error {
	items := args.v.items
	switch what := class.num; {
	case what == globalException:
		if args.v.hasGlobal() {
			return m.fail("a class where a value should be")
		}
		return m.pushException(class.data, args, entry{v: Dict(), cost: cost{depth: 1, items: 1}})
	case what == globalRecon && !newObj && len(items) == 2 && isGlobal(items[0], globalException) &&
		items[1].kind == KindDict:
		state, c := items[1], args.cost
		exceptionArgs, attrs := splitArgs(state)
		return m.pushException(items[0].data, entry{v: exceptionArgs, cost: c}, entry{v: attrs})
	case what == globalPrefix && newObj && len(items) == 0:
		return m.build(Value{kind: KindPrefix})
	case what == globalReconstructor && !newObj && len(items) == 3 && isGlobal(items[0], globalPrefix) &&
		isGlobal(items[1], globalObject) && items[2].kind == KindNone:
		return m.build(Value{kind: KindPrefix})
	case what == globalPrefix && !newObj && len(items) == 1 && items[0].kind == KindText:
		return m.push(Value{kind: KindPrefix, data: items[0].data})
	case what == globalDict && !newObj:
		return m.callDict(args)
	}
	return m.fail("a call of a class that is not allowed")
}

// callDict does what dict() does, and dict(pairs). As the pairs are copied, a pickle
// that calls it for the same ones again and again is refused: all calls together may
// have no more pairs than the pickle has bytes.
func (m *pickleMachine) callDict(args entry) error {
	if len(args.v.items) == 0 {
		return m.build(Value{kind: KindDict})
	}
	pairs := args.v.items[0]
	if len(args.v.items) > 1 || pairs.kind != KindList && pairs.kind != KindTuple {
		return m.fail("a dict of something that is no pairs")
	}
	if m.called += len(pairs.items); m.called > len(m.body) {
		return m.fail("too much to do")
	}
	// The arguments, the pairs, and what is in a pair: a dict is two levels less.
	inside := args.cost
	inside.depth = max(inside.depth-3, 0)
	o := object{v: Value{kind: KindDict}, cost: cost{depth: 1, items: 1}}
	if err := m.add(&o.cost, inside); err != nil {
		return err
	}
	items := make([]Value, 0, 2*len(pairs.items))
	for _, pair := range pairs.items {
		if pair.kind != KindTuple && pair.kind != KindList || len(pair.items) != 2 {
			return m.fail("a dict of something that is no pairs")
		}
		if !pair.items[0].hashable() {
			return m.fail("a key of a dict that cannot be one")
		}
		items = append(items, pair.items...)
	}
	o.v.items = items
	return m.pushObject(o)
}

func isGlobal(v Value, what uint64) bool { return v.kind == kindGlobal && v.num == what }

// pushException pushes an exception, to which attributes may be added yet.
func (m *pickleMachine) pushException(class []byte, args, attrs entry) error {
	c := cost{depth: 1, items: 1, bytes: len(class)}
	if err := m.add(&c, args.cost); err != nil {
		return err
	}
	if err := m.add(&c, attrs.cost); err != nil {
		return err
	}
	v := Value{kind: KindException, data: class, items: []Value{args.v, attrs.v}}
	return m.pushObject(object{v: v, cost: c})
}

// splitArgs takes the entry "args" out of the state of one of ZODB's exceptions.
func splitArgs(state Value) (args, attrs Value) {
	args, attrs = Tuple(), Value{kind: KindDict}
	for i := 0; i < len(state.items); i += 2 {
		key, v := state.items[i], state.items[i+1]
		if key.kind == KindText && string(key.data) == "args" && v.kind == KindTuple {
			args = v
			continue
		}
		attrs.items = append(attrs.items, key, v)
	}
	return args, attrs
}

// setState adds attributes to an exception, or gives a prefix its path.
func (m *pickleMachine) setState() error {
	state, err := m.pop()
	if err != nil {
		return err
	}
	if state, err = m.use(state); err != nil {
		return err
	}
	if state.v.kind != KindDict {
		return m.fail("a state that is no dict")
	}
	e, err := m.top()
	if err != nil {
		return err
	}
	if e.object == 0 {
		return m.fail("a state for something that has none")
	}
	o := &m.objects[e.object-1]
	if o.closed {
		return m.fail("something is changed after it was used")
	}
	switch o.v.kind {
	case KindPrefix:
		var c cost
		if err := m.add(&c, state.cost); err != nil {
			return err
		}
		path, ok := prefixState(state.v)
		if !ok {
			return m.fail("a prefix that is none")
		}
		o.v.data = path
		o.cost.bytes = len(path)
		return nil
	case KindException:
		if err := m.add(&o.cost, state.cost); err != nil {
			return err
		}
		// Nobody else has these yet, see splitArgs and construct.
		o.v.items[1].items = append(o.v.items[1].items, state.v.items...)
		return nil
	}
	return m.fail("a state for something that has none")
}

// prefixState returns the path of which a Prefix keeps the parts.
func prefixState(state Value) ([]byte, bool) {
	path, _ := state.Get("path")
	length, _ := state.Get("length")
	n, ok := length.Int()
	if !ok || path.kind != KindList || n != int64(len(path.items)) || n == 0 {
		return nil, false
	}
	var joined []byte
	for i, part := range path.items {
		if part.kind != KindText || strings.Contains(string(part.data), "/") {
			return nil, false
		}
		if i > 0 {
			joined = append(joined, '/')
		}
		joined = append(joined, part.data...)
	}
	return joined, true
}
