package shtab

import "sync/atomic"

// Valid reports whether slot i holds an entry, detached or not.
func (t *Table) Valid(i uint32) bool {
	w := atomic.LoadUint64(&t.slots[i].word)
	return w != 0 && w != limbo
}

// First reports whether a look-up of the key of slot i finds it, and not another slot; and if it does, that no slot
// behind it has the key, and none of these bits in its state. Two that insert a key at the same time may each have a
// slot: the one that has the better place is found once it is published, and that may be later.
//
// A slot beside it that has the key has its tag; without one, a home slot is found.
func (t *Table) First(i, bits uint32) bool {
	s := &t.slots[i]
	if w := atomic.LoadUint64(&s.word); i < t.home && int64(w) < 0 {
		beside := &t.slots[i^1]
		if (w^atomic.LoadUint64(&beside.word))>>ValueBits != 0 &&
			atomic.LoadUint32(&s.next)|atomic.LoadUint32(&beside.next) == 0 {
			return true
		}
	}
	h := t.Hash(&s.key)
	tag, home := tagOf(h), t.homeOf(h)
	if at, ok := t.Lookup(&s.key, h); !ok || at != i {
		return false
	}
	other := func(i uint32) bool { return t.slots[i].holds(&s.key, tag) && t.State(i)&bits == 0 }
	at := i
	if i < t.home {
		if at = home; i == home && other(i^1) {
			return false
		}
	}
	for next := atomic.LoadUint32(&t.slots[at].next); next != 0; next = atomic.LoadUint32(&t.slots[next-1].next) {
		if other(next - 1) {
			return false
		}
	}
	return true
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
