package conn

import "github.com/ulvs/ulvs/internal/shtab"

// SlotPool lends programs what they need to make connections: the rings in block, of so
// many CPUs (internal/shtab, Rings).
func (t *Table) SlotPool(block []byte, cpus int) (*shtab.SlotPool, error) {
	return t.t.SlotPool(block, cpus)
}

// Opened counts a connection that a program says it has made. False: there is nothing
// left to do for it. It was taken already; or it is another's double, made at the
// same moment, and is ended.
func (t *Table) Opened(id ID) bool { return t.t.Opened(uint32(id)) }

// Pending reports whether a program has made the connection and Accept was not called
// for it yet: it has a flow, a real server and a state, and no template or timer.
func (t *Table) Pending(id ID) bool { return t.t.Pending(uint32(id)) }

// EachPending calls yield for the connections of an adopted table that are Pending.
// yield takes or removes them.
func (t *Table) EachPending(yield func(ID)) { t.t.EachPending(func(i uint32) { yield(ID(i)) }) }

// Accept makes of a connection that a program has made what Insert and its first packet
// would have, at the time of that packet: template and the owner's bits are Insert's.
func (t *Table) Accept(id ID, template uint32, owner uint8) Change {
	i := uint32(id)
	to, timeout := t.t.State(i)&stateMask, t.timeouts.udp
	c := Change{}
	if t.Flow(id).Proto() == protoTCP {
		to %= tcpStates
		timeout = t.timeouts.tcp[to]
		c.Activated = tcpActive>>to&1 != 0
	}
	t.open(i, template, timeout, uint32(owner&0xf)<<ownerShift|to, c)
	return c
}

// open gives a new entry its record and its state, from the time in its stamp on.
func (t *Table) open(i, template, timeout, state uint32, c Change) {
	state |= t.timeouts.gen<<genShift | flagSet
	if c.Activated {
		state |= flagActive
	}
	t.t.Owner(i).template = template
	t.t.ArmFromStamp(i, timeout)
	t.t.SetState(i, state)
}

// Stamp is the tick of the connection's last packet.
func (t *Table) Stamp(id ID) uint32 { return t.t.Stamp(uint32(id)) }

// Secure reports what SetSecure said.
func (t *Table) Secure() bool { return t.secure }
