package shtab

import "sync/atomic"

// Valid reports whether slot i holds an entry, detached or not.
func (t *Table) Valid(i uint32) bool {
	w := atomic.LoadUint64(&t.slots[i].word)
	return w != 0 && w != limbo
}

// Found reports whether a look-up of the key of slot i finds it, and not another slot.
// An entry in a home slot is found unless it is beside one of its key, which has its tag then.
func (t *Table) Found(i uint32) bool {
	s := &t.slots[i]
	if w := atomic.LoadUint64(&s.word); i < t.home && int64(w) < 0 &&
		(w^atomic.LoadUint64(&t.slots[i^1].word))>>ValueBits != 0 {
		return true
	}
	h := t.Hash(&s.key)
	tag, home := tagOf(h), t.homeOf(h)
	switch {
	case i == home:
		return atomic.LoadUint64(&s.word)>>ValueBits == tag
	case i == home^1:
		return !t.slots[home].holds(&s.key, tag) && atomic.LoadUint64(&s.word)>>ValueBits == tag
	}
	at, ok := t.Lookup(&s.key, h)
	return ok && at == i
}

// Hides reports whether a look-up finds slot i instead of another one that has its key, and none of these bits
// in its state. Two that insert a key at the same time may each have a slot: the one that has the better place
// is found once it is published, and that may be later.
func (t *Table) Hides(i, bits uint32) bool {
	s := &t.slots[i]
	w := atomic.LoadUint64(&s.word)
	if i < t.home {
		beside := &t.slots[i^1]
		if (w^atomic.LoadUint64(&beside.word))>>ValueBits != 0 &&
			atomic.LoadUint32(&s.next)|atomic.LoadUint32(&beside.next) == 0 {
			return false
		}
	}
	h := t.Hash(&s.key)
	tag, at := tagOf(h), i
	hidden := func(i uint32) bool { return t.slots[i].holds(&s.key, tag) && t.State(i)&bits == 0 }
	if i < t.home {
		at = t.homeOf(h)
		if i == at && hidden(i^1) {
			return true
		}
	}
	for next := atomic.LoadUint32(&t.slots[at].next); next != 0; next = atomic.LoadUint32(&t.slots[next-1].next) {
		if hidden(next - 1) {
			return true
		}
	}
	return false
}

// Key, Value, Stamp, State and Count are the entry's fields.
func (t *Table) Key(i uint32) *Key     { return &t.slots[i].key }
func (t *Table) Value(i uint32) uint64 { return atomic.LoadUint64(&t.slots[i].word) & MaxValue }
func (t *Table) Stamp(i uint32) uint32 { return t.slots[i].stamp }
func (t *Table) State(i uint32) uint32 { return atomic.LoadUint32(&t.slots[i].state) }
func (t *Table) Count(i uint32) uint32 { return t.slots[i].count }

// SetValue changes the value of an entry, up to MaxValue. Only the owner changes words of entries.
func (t *Table) SetValue(i uint32, value uint64) {
	w := &t.slots[i].word
	store64(w, atomic.LoadUint64(w)&^MaxValue|value)
}

// SetStamp and SetCount set what the owner keeps there. An XDP program may do the same at
// the same time: last come, last served.
func (t *Table) SetStamp(i, tick uint32) { t.slots[i].stamp = tick }
func (t *Table) SetCount(i, n uint32)    { t.slots[i].count = n }

// SetState sets the owner's state where programs set none, and SwapState where they may: if
// it still is was, and reports whether it was.
func (t *Table) SetState(i, state uint32) { store32(&t.slots[i].state, state) }
func (t *Table) SwapState(i, was, is uint32) bool {
	return atomic.CompareAndSwapUint32(&t.slots[i].state, was, is)
}
