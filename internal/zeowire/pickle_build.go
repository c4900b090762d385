package zeowire

// This file has the opcodes that make values of other values.

// maxWork is how many values, or 64 bytes of them, may be put into others, on all
// levels.
const maxWork = 1 << 25

// hasGlobal tells whether v is a class, or a tuple that has one: an argument of the
// functions that rebuild exceptions, but no value of a message.
func (v Value) hasGlobal() bool {
	if v.kind == KindTuple {
		for _, item := range v.items {
			if item.kind == kindGlobal {
				return true
			}
		}
	}
	return v.kind == kindGlobal
}

// use makes a Value of an entry, to be put into something: if it was being built, it
// is closed.
func (m *pickleMachine) use(e entry) (entry, error) {
	if e.object == 0 {
		return e, nil
	}
	o := &m.objects[e.object-1]
	o.closed = true
	return entry{v: o.v, cost: o.cost}, nil
}

// add adds the cost of one more item. All that is ever added is bounded too: a pickle
// may throw away what it has made, and make it again.
func (m *pickleMachine) add(c *cost, item cost) error {
	c.depth = max(c.depth, item.depth+1)
	c.items += item.items
	c.bytes += item.bytes
	m.work += item.items + item.bytes/64
	switch {
	case m.work > maxWork+m.maxItems:
		return m.fail("too much to do")
	case c.depth > m.maxDepth:
		return m.fail("nested too deep")
	case c.items > m.maxItems:
		return m.fail("too many values")
	case c.bytes > m.maxBytes:
		return m.fail("too many bytes")
	}
	return nil
}

// collect removes the last n entries from the stack and returns them as Values; their
// costs are added to c. In tuples, classes are allowed for a while.
func (m *pickleMachine) collect(n int, c *cost, classes bool) ([]Value, error) {
	if n == 0 {
		return nil, nil
	}
	entries := m.stack[len(m.stack)-n:]
	items := m.d.room(n)
	for i := range entries {
		e := &entries[i]
		if e.object != 0 {
			used, err := m.use(*e)
			if err != nil {
				return nil, err
			}
			e = &used
		}
		if (e.v.kind == kindGlobal || e.v.kind == KindTuple) && e.v.hasGlobal() &&
			(!classes || e.v.kind == KindTuple) {
			return nil, m.fail("a class where a value should be")
		}
		if err := m.add(c, e.cost); err != nil {
			return nil, err
		}
		items[i] = e.v
	}
	m.stack = m.stack[:len(m.stack)-n]
	return items, nil
}

// tuple makes a tuple of the last n entries.
func (m *pickleMachine) tuple(n int) error {
	if n > 0 {
		floor := 0
		if k := len(m.marks); k > 0 {
			floor = m.marks[k-1]
		}
		if len(m.stack)-floor < n {
			return m.fail("the stack is empty")
		}
	}
	c := cost{depth: 1, items: 1}
	items, err := m.collect(n, &c, true)
	if err != nil {
		return err
	}
	return m.pushEntry(entry{v: Value{kind: KindTuple, items: items}, cost: c})
}

// fromMark makes something of all entries after the mark.
func (m *pickleMachine) fromMark(op byte) error {
	height, err := m.popMark()
	if err != nil {
		return err
	}
	n := len(m.stack) - height
	switch op {
	case opPopMark:
		m.stack = m.stack[:height]
		return nil
	case opTuple:
		return m.tuple(n)
	}
	v := Value{kind: KindList}
	if op == opDict {
		v.kind = KindDict
	}
	o := object{v: v, cost: cost{depth: 1, items: 1}}
	if err := m.extendObject(&o, n); err != nil {
		return err
	}
	return m.pushObject(o)
}

// build pushes something that is empty as yet.
func (m *pickleMachine) build(v Value) error {
	return m.pushObject(object{v: v, cost: cost{depth: 1, items: 1}})
}

func (m *pickleMachine) pushObject(o object) error {
	if len(m.objects) >= m.maxItems {
		return m.fail("too many values")
	}
	m.objects = append(m.objects, o)
	return m.pushEntry(entry{object: int32(len(m.objects))})
}

// open returns what is being built, of the given kind, at the top of the stack.
func (m *pickleMachine) open(kind Kind) (*object, error) {
	e, err := m.top()
	if err != nil {
		return nil, err
	}
	if e.object == 0 || m.objects[e.object-1].v.kind != kind {
		return nil, m.fail("the opcode does not fit what it is for")
	}
	o := &m.objects[e.object-1]
	if o.closed {
		return nil, m.fail("something is changed after it was used")
	}
	return o, nil
}

// extend adds items to a list, or keys and values to a dict.
func (m *pickleMachine) extend(op byte) error {
	kind, height := KindList, len(m.stack)-1
	if op == opSetItem || op == opSetItems {
		kind, height = KindDict, len(m.stack)-2
	}
	if op == opAppends || op == opSetItems {
		var err error
		if height, err = m.popMark(); err != nil {
			return err
		}
	} else if n := len(m.marks); height < 0 || n > 0 && height < m.marks[n-1] {
		return m.fail("the stack is empty")
	}
	// The list is below its new items.
	items := len(m.stack) - height
	all := m.stack
	m.stack = m.stack[:height]
	o, err := m.open(kind)
	m.stack = all
	if err != nil {
		return err
	}
	return m.extendObject(o, items)
}

func (m *pickleMachine) extendObject(o *object, n int) error {
	if o.v.kind == KindDict && n%2 != 0 {
		return m.fail("a key without a value")
	}
	items, err := m.collect(n, &o.cost, false)
	if err != nil {
		return err
	}
	if o.closed {
		return m.fail("something contains itself")
	}
	if o.v.kind == KindDict {
		for i := 0; i < n; i += 2 {
			if !items[i].hashable() {
				return m.fail("a key of a dict that cannot be one")
			}
		}
	}
	if len(o.v.items) == 0 {
		o.v.items = items
		return nil
	}
	o.v.items = append(o.v.items, items...)
	return nil
}
