package persist

import (
	"github.com/ulvs/ulvs/internal/shtab"
)

// Key returns the key of a template, without an engine's data; see Invalid.
func (t *Table) Key(id ID) Key {
	if d, ok := t.described[id]; ok {
		return d.key
	}
	return Key(*t.Table.Key(id))
}

// Dest returns the number of the template's real server.
func (t *Table) Dest(id ID) uint32 { return uint32(t.Value(id) & shtab.MaxValue) }

// Controls returns how many connections the template controls.
func (t *Table) Controls(id ID) uint32 { return t.Record(id).controls() }

// Invalid reports whether Invalidate hid the template. The kernel lists such a
// one with 65535 as its virtual and its destination port.
func (t *Table) Invalid(id ID) bool { return t.State(id)&flagInvalid != 0 }

// StateName is NONE or ASSURED (ip_vs_proto.c, ip_vs_state_name).
func (t *Table) StateName(id ID) string {
	if t.State(id)&flagAssured != 0 {
		return "ASSURED"
	}
	return "NONE"
}

// Assured reports whether a connection of the template was established.
func (t *Table) Assured(id ID) bool { return t.State(id)&flagAssured != 0 }
