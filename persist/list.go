package persist

import (
	"time"

	"github.com/ulvs/ulvs/internal/shtab"
)

// Key is the key of a template, without an engine's data; see Invalid.
func (t *Table) Key(id ID) Key {
	if d, ok := t.described[id]; ok {
		return d.key
	}
	return Key(*t.t.Key(uint32(id)))
}

// Dest is the number of the template's real server.
func (t *Table) Dest(id ID) uint32 { return uint32(t.t.Value(uint32(id)) & shtab.MaxValue) }

// Controls is how many connections the template controls.
func (t *Table) Controls(id ID) uint32 { return t.t.Owner(uint32(id)).controls }

// Invalid reports whether Invalidate hid the template. The kernel lists such a
// one with 65535 as its virtual and its destination port.
func (t *Table) Invalid(id ID) bool { return t.t.State(uint32(id))&flagInvalid != 0 }

// StateName is NONE or ASSURED (ip_vs_proto.c, ip_vs_state_name).
func (t *Table) StateName(id ID) string {
	if t.t.State(uint32(id))&flagAssured != 0 {
		return "ASSURED"
	}
	return "NONE"
}

// Assured reports whether a connection of the template was established.
func (t *Table) Assured(id ID) bool { return t.t.State(uint32(id))&flagAssured != 0 }

// Packets is how often Counted was called.
func (t *Table) Packets(id ID) uint32 { return t.t.Count(uint32(id)) }

// Idle is how many ticks ago the template was used.
func (t *Table) Idle(id ID, now uint32) uint32 { return now - t.t.Stamp(uint32(id)) }

// Slots is how many slots there are, and Live whether one holds a template that is not
// Pending: for looking at some at random.
func (t *Table) Slots() int      { return t.t.Slots() }
func (t *Table) Live(id ID) bool { return t.t.Live(uint32(id)) }

// Expires is how long the template has to live if it is not used.
func (t *Table) Expires(id ID, now uint32) time.Duration { return t.t.Expires(uint32(id), now) }

// Each calls yield for the templates in slots from on, and looks at no more
// than budget slots. It returns where to go on, and false when it came to the
// end. Templates that come and go between two calls may be missed, and those that are
// Pending are; yield may remove the one that it is called for.
func (t *Table) Each(from ID, budget int, yield func(ID)) (next ID, more bool) {
	n, more := t.t.Each(uint32(from), budget, func(i uint32) { yield(ID(i)) })
	return ID(n), more
}
