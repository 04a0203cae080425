package expiring

import "github.com/ulvs/ulvs/internal/shtab"

// entries are a shared table by IDs: what an entry holds, and what is known of the whole.
type entries[ID ~uint32] struct{ tab *shtab.Table }

// Len returns how many entries there are, Max how many there can be, and Slots how many slots
// there are for them.
func (t *entries[ID]) Len() int   { return t.tab.Len() }
func (t *entries[ID]) Max() int   { return t.tab.Max() }
func (t *entries[ID]) Slots() int { return t.tab.Slots() }

// Seed returns what the hash of a key is worked out with, and homes how many home slots there
// are.
func (t *entries[ID]) Seed() (factors [6]uint64, homes uint32) { return t.tab.Seed(), t.tab.Homes() }

// Hash returns the hash of a key, for Touch, Lookup and Insert.
func (t *entries[ID]) Hash(k *shtab.Key) uint64 { return t.tab.Hash(k) }

// Touch starts to load what Lookup will need. What it returns means nothing, and is only
// so that the load is not left out.
func (t *entries[ID]) Touch(hash uint64) uint32 { return t.tab.Touch(hash) }

// Lookup finds the entry of a key.
func (t *entries[ID]) Lookup(k *shtab.Key, hash uint64) (ID, bool) {
	i, ok := t.tab.Lookup(k, hash)
	return ID(i), ok
}

// Insert makes an entry, which Arm has to follow. The key must have none that Lookup
// finds. The error is shtab.ErrFull.
func (t *entries[ID]) Insert(k *shtab.Key, hash uint64, value uint64, stamp, state uint32) (ID, error) {
	i, err := t.tab.Insert(k, hash, value, stamp, state)
	return ID(i), err
}

// Hide keeps an entry, with all it counts for, and has Lookup not find it: its key may
// have another.
func (t *entries[ID]) Hide(id ID) { t.tab.Detach(uint32(id)) }

// Key and Value are what the entry was made with.
func (t *entries[ID]) Key(id ID) *shtab.Key { return t.tab.Key(uint32(id)) }
func (t *entries[ID]) Value(id ID) uint64   { return t.tab.Value(uint32(id)) }

// SetValue has another value in the place of that.
func (t *entries[ID]) SetValue(id ID, value uint64) { t.tab.SetValue(uint32(id), value) }

// Stamp returns the tick at which the entry was used last, and Idle how many ticks ago.
func (t *entries[ID]) Stamp(id ID) uint32            { return t.tab.Stamp(uint32(id)) }
func (t *entries[ID]) Idle(id ID, now uint32) uint32 { return now - t.Stamp(id) }
func (t *entries[ID]) SetStamp(id ID, tick uint32)   { t.tab.SetStamp(uint32(id), tick) }

// State returns the owner's word. SetState sets it where programs do not, and SwapState where
// they may: if it still is was, and reports whether it was.
func (t *entries[ID]) State(id ID) uint32           { return t.tab.State(uint32(id)) }
func (t *entries[ID]) SetState(id ID, state uint32) { t.tab.SetState(uint32(id), state) }
func (t *entries[ID]) SwapState(id ID, was, is uint32) bool {
	return t.tab.SwapState(uint32(id), was, is)
}

// Packets returns how many packets the entry has had, and Counted counts one that changes
// nothing else.
func (t *entries[ID]) Packets(id ID) uint32       { return t.tab.Count(uint32(id)) }
func (t *entries[ID]) SetPackets(id ID, n uint32) { t.tab.SetCount(uint32(id), n) }
func (t *entries[ID]) Counted(id ID)              { t.SetPackets(id, t.Packets(id)+1) }
