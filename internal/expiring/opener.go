package expiring

import "github.com/ulvs/ulvs/internal/shtab"

// Opened is set in the state word of an entry that a program has made, until its owner
// has taken it over: it has no record and no time to live yet.
const PendingFlag = 1 << 15

// SlotPool lends programs what they need to make entries: the rings in block, of so many
// CPUs (shtab.NewSlotPool).
func (t *Table[E]) SlotPool(block []byte, cpus int) (*shtab.SlotPool, error) {
	return shtab.NewSlotPool(t.Table, block, cpus, func(i uint32) uint32 { return t.Stamp(i) + t.recs[i].timeout })
}

// Pending reports whether a program has made the entry, and its owner has not taken it
// over.
func (t *Table[E]) Pending(i uint32) bool { return t.State(i)&PendingFlag != 0 }

// Live reports whether a slot holds an entry that is not Pending.
func (t *Table[E]) Live(i uint32) bool { return t.Valid(i) && !t.Pending(i) }

// Opened counts an entry that a program says it has made. False: there is nothing left to
// do for it. It was taken already; or it is another's double, made at the same moment,
// and is ended.
func (t *Table[E]) Opened(i uint32) bool {
	if !t.Valid(i) || !t.Pending(i) {
		return false
	}
	t.CountOpened(i)
	return t.first(i)
}

// first ends an entry that a look-up of its key does not find.
func (t *Table[E]) first(i uint32) bool {
	k := t.Key(i)
	if at, ok := t.Lookup(k, t.Hash(k)); !ok || at != i {
		t.End(i)
		return false
	}
	return true
}

// EachPending calls yield for the entries that are Pending in a table that was adopted,
// which has counted them, and ends those of which there are doubles. yield takes them
// over or ends them.
func (t *Table[E]) EachPending(yield func(i uint32)) {
	for i := range uint32(t.Slots()) {
		if t.Valid(i) && t.Pending(i) && t.first(i) {
			yield(i)
		}
	}
}
