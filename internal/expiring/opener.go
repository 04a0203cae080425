package expiring

import "github.com/ulvs/ulvs/internal/shtab"

// PendingFlag is set in the state word of an entry that a program has opened, until its owner
// has taken it over: it has no record and no time to live yet.
const PendingFlag = 1 << 15

// SlotPool gives programs what they need to insert entries: the rings in block, of so many
// CPUs (shtab.NewSlotPool).
func (t *Table[ID, E]) SlotPool(block []byte, cpus int) (*shtab.SlotPool, error) {
	return shtab.NewSlotPool(t.tab, block, cpus, func(i uint32) uint32 { return t.tab.Stamp(i) + t.recs[i].timeout })
}

// NamingPool is SlotPool where a value's bits from shift on, if they are not 0, name something else,
// which touch reads too; what it returns means nothing.
func (t *Table[ID, E]) NamingPool(block []byte, cpus, shift int, touch func(uint32) uint32) (*shtab.SlotPool, error) {
	return shtab.NewSlotPool(t.tab, block, cpus, func(i uint32) uint32 {
		sum := t.tab.Stamp(i) + t.recs[i].timeout
		if named := t.tab.Value(i) >> shift; named != 0 {
			sum += touch(uint32(named))
		}
		return sum
	})
}

// Pending reports whether a program has opened the entry, and its owner has not accepted
// it.
func (t *Table[ID, E]) Pending(id ID) bool { return t.State(id)&PendingFlag != 0 }

// Live reports whether a slot holds an entry that is not Pending.
func (t *Table[ID, E]) Live(id ID) bool { return t.tab.Valid(uint32(id)) && !t.Pending(id) }

// Opened counts an entry that a program says it has opened. False: there is nothing left to
// do for it. It was accepted already; or it is another's double, inserted at the same moment (first),
// for which double is called, if it is not nil, and which is ended.
func (t *Table[ID, E]) Opened(id ID, double func(ID)) bool {
	if !t.Pending(id) || !t.tab.Valid(uint32(id)) {
		return false
	}
	t.tab.CountOpened(uint32(id))
	return t.first(id, double)
}

// first ends an entry that a look-up of its key does not find, or that it finds instead of one which the
// owner has already: that was published later, in a better place. It reports whether the entry stays.
func (t *Table[ID, E]) first(id ID, double func(ID)) bool {
	if !t.tab.First(uint32(id), PendingFlag) {
		if double != nil {
			double(id)
		}
		t.End(id)
		return false
	}
	return true
}

// EachPending calls yield for the entries that are Pending in a table that was adopted,
// which has counted them, and ends those of which there are doubles. yield takes them
// over or ends them.
func (t *Table[ID, E]) EachPending(yield func(ID)) {
	for i := range uint32(t.Slots()) {
		if id := ID(i); t.tab.Valid(i) && t.Pending(id) && t.first(id, nil) {
			yield(id)
		}
	}
}
