package persist

import "time"

// Beside says that programs make templates too (internal/shtab, Rings): to be called
// before the first can.
func (t *Table) Beside() { t.t.Beside() }

// Homes is how many slots keys hash to. Slots from there on have to be lent to
// programs, and TakeBack gives one back that they did not get.
func (t *Table) Homes() uint32                { return t.t.Homes() }
func (t *Table) Lend() (slot uint32, ok bool) { return t.t.Lend() }
func (t *Table) TakeBack(slot uint32)         { t.t.TakeBack(slot) }

// Retired takes the slots that are in quarantine, and Free gives them back once
// no program can still act on what was in them.
func (t *Table) Retired() []uint32   { return t.t.Retired() }
func (t *Table) Free(slots []uint32) { t.t.Free(slots) }

// Made counts a template that a program says it has made. False: there is nothing left
// to do for it. It was taken already; or it is another's double, made at the same
// moment, and is ended.
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

// Untaken reports whether a program has made the template and Take was not called for
// it yet: it has a key and a real server, and no time to live.
func (t *Table) Untaken(id ID) bool { return t.t.State(uint32(id))&flagMade != 0 }

// EachUntaken calls yield for the templates that are Untaken in a table that was
// adopted, and ends those of which there are doubles. yield takes or discards them.
func (t *Table) EachUntaken(yield func(ID)) {
	for i := range uint32(t.t.Slots()) {
		if t.t.Valid(i) && t.Untaken(ID(i)) && t.first(i) {
			yield(ID(i))
		}
	}
}

// Take makes of a template that a program has made what Insert would have, when the
// program did.
func (t *Table) Take(id ID, timeout time.Duration) {
	i := uint32(id)
	t.settle()
	*t.t.Owner(i) = record{}
	t.made = i + 1
	t.t.Resume(i, t.t.Ticks(timeout))
	t.t.SetState(i, flagStarted)
}

// Discard ends a template that was not taken, without Ended.
func (t *Table) Discard(id ID) { t.t.End(uint32(id)) }
