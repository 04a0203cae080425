package expiring

import "github.com/ulvs/ulvs/internal/shtab"

// Made is set in the state word of an entry that a program has made, until its owner
// has taken it over: it has no record and no time to live yet.
const Made = 1 << 15

// Lend lends programs what they need to make entries: the rings in block, of so many
// CPUs (shtab.NewLoan).
func (t *Table[E]) Lend(block []byte, cpus int) (*shtab.Loan, error) {
	return shtab.NewLoan(t.Table, block, cpus, func(i uint32) uint32 { return t.Stamp(i) + t.recs[i].timeout })
}

// Untaken reports whether a program has made the entry, and its owner has not taken it
// over.
func (t *Table[E]) Untaken(i uint32) bool { return t.State(i)&Made != 0 }

// Live reports whether a slot holds an entry that is not Untaken.
func (t *Table[E]) Live(i uint32) bool { return t.Valid(i) && !t.Untaken(i) }

// Told counts an entry that a program says it has made. False: there is nothing left to
// do for it. It was taken already; or it is another's double, made at the same moment,
// and is ended.
func (t *Table[E]) Told(i uint32) bool {
	if !t.Valid(i) || !t.Untaken(i) {
		return false
	}
	t.Made(i)
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

// EachUntaken calls yield for the entries that are Untaken in a table that was adopted,
// which has counted them, and ends those of which there are doubles. yield takes them
// over or ends them.
func (t *Table[E]) EachUntaken(yield func(i uint32)) {
	for i := range uint32(t.Slots()) {
		if t.Valid(i) && t.Untaken(i) && t.first(i) {
			yield(i)
		}
	}
}
