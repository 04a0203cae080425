package conn

// Beside says that programs make connections too (internal/shtab, Rings): to be
// called before the first can.
func (t *Table) Beside() { t.t.Beside() }

// Homes is how many slots flows hash to. Slots from there on have to be lent to
// programs, and TakeBack gives one back that they did not get.
func (t *Table) Homes() uint32                { return t.t.Homes() }
func (t *Table) Lend() (slot uint32, ok bool) { return t.t.Lend() }
func (t *Table) TakeBack(slot uint32)         { t.t.TakeBack(slot) }

// Made counts a connection that a program says it has made. False: there is nothing
// left to do for it. It was taken already; or it is another's double, made at the
// same moment, and is ended.
func (t *Table) Made(id ID) bool {
	i := uint32(id)
	if !t.t.Valid(i) || !t.Untaken(id) {
		return false
	}
	t.t.Made(i)
	return t.first(i)
}

// first ends an entry that a look-up of its key does not find.
func (t *Table) first(i uint32) bool {
	k := t.t.Key(i)
	if at, ok := t.t.Lookup(k, t.t.Hash(k)); !ok || at != i {
		t.t.End(i)
		return false
	}
	return true
}

// Untaken reports whether a program has made the connection and Take was not called
// for it yet: it has a flow, a real server and a state, and no template or timer.
func (t *Table) Untaken(id ID) bool { return t.t.State(uint32(id))&flagMade != 0 }

// EachUntaken calls yield for the connections that are Untaken in a table that was
// adopted, and ends those of which there are doubles. yield takes or removes them.
func (t *Table) EachUntaken(yield func(ID)) {
	for i := range uint32(t.t.Slots()) {
		if t.t.Valid(i) && t.Untaken(ID(i)) && t.first(i) {
			yield(ID(i))
		}
	}
}

// Take makes of a connection that a program has made what Insert and its first packet
// would have, at the time of that packet: template and the owner's bits are Insert's.
func (t *Table) Take(id ID, template uint32, owner uint8) Change {
	i := uint32(id)
	to, timeout := t.t.State(i)&stateMask, t.timeouts.udp
	is := uint32(owner&0xf)<<ownerShift | to | t.timeouts.gen<<genShift | flagSet
	var c Change
	if t.Flow(id).Proto() == protoTCP {
		timeout = t.timeouts.tcp[to%tcpStates]
		if c.Activated = tcpActive>>to&1 != 0; c.Activated {
			is |= flagActive
		}
	}
	t.t.Owner(i).template = template
	t.t.Resume(i, timeout)
	t.t.SetState(i, is)
	return c
}

// Stamp is the tick of the connection's last packet.
func (t *Table) Stamp(id ID) uint32 { return t.t.Stamp(uint32(id)) }

// Secure reports what SetSecure said.
func (t *Table) Secure() bool { return t.secure }
