// Package shtab is the table that Go and an XDP program share: fixed-size
// entries found by a hash of their key, in one block of memory that is handed
// to it. It keeps connections, and connection templates.
//
// # Structure
//
// Each key hashes to one home slot. If that is free, the key lies there;
// otherwise in the slot beside it (the other one of its pair, which lies in the
// same 128 bytes, and which processors fetch with it), if that is free; otherwise
// in an overflow slot, chained from the home slot. Nothing ever moves, a chain
// holds only keys of its own home, and no tombstones are needed.
//
// There are as many home slots as entries. With keys coming and going, a pair is
// a system of two servers without a queue, and what it cannot take (Erlang's B
// formula) overflows: 0.4 of the entries of a full table, 0.2 of a half full one.
// (0.44 for a while, if a table that was filled at once loses its entries in the
// order in which they came.) That is 1.46 slots an entry in all.
//
// The hash is keyed: whoever does not know the seed cannot fill a chain. A key of
// two words, of which others choose the lower halves, is hashed by multiply-shift
// with odd factors (Dietzfelbinger et al., "A reliable randomized algorithm for the
// closest-pair problem", 1997). That loses what is in the upper bits of several
// words, so that those of a longer key first become one by NH (Black et al., "UMAC:
// fast and secure message authentication", 1999). What comes out is folded and
// squared, so that regular keys spread as random ones do.
//
// # Publication
//
// One goroutine at a time writes (the owner's lock); XDP reads at any time. (The
// claims and swaps leave room for programs that insert entries too: Rings. The state is the
// owner's, who says how programs change it.)
//
//   - Insert claims a home slot by its word, writes key, stamp and state, then
//     the word, and links an overflow slot into its chain last. A reader that finds the slot earlier sees word
//     0 and goes on, or compares a key that is not yet its own: a miss, and the
//     packet takes the slow path, which takes the owner's lock.
//   - Remove takes the tag out of the word first, then unlinks. The next index of
//     a removed overflow slot stays as it is, so that a reader that stands on it
//     walks on to the end of its chain.
//   - A reader loads the word once and then compares the key. A slot that is
//     used anew meanwhile has another key, unless the same key came back: then
//     word and key belong together again only if the reader loaded the new
//     word. So a removed slot may be given to another key only when no reader
//     can still hold its old word: after a grace period (Release).
//   - A program's loads are plain, and arm64 may carry them out in any order: one
//     might take the old key, and then the next owner's word. So Remove clears the
//     key, and after the grace period a reader finds no key there, or the new one.
//
// Go's loads and stores of the word and of next are atomic, so that a reader on
// another CPU sees them in this order, on arm64 too. (On amd64 ordinary stores are
// enough, store_amd64.go.)
package shtab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"

	crand "crypto/rand"
)

// Key is what entries are found by: five words, of which an IPv4 connection
// uses two. Its meaning is the owner's.
type Key [5]uint64

// Seed is what Hash works with: two odd factors, and what is added to the halves of
// words 2, 3, 4 and 0 of a key that has more than two words.
type Seed [6]uint64

// An owner's value has ValueBits bits; MaxValue is the greatest one that all
// bits can say, and is itself reserved.
const (
	ValueBits = 48
	MaxValue  = 1<<ValueBits - 1

	limbo = MaxValue // the word of a removed slot that is not released: no tag
)

// ErrFull says that the table holds as many entries as it may, or that
// their overflow does not fit.
var ErrFull = errors.New("the table is full")

// Table is a shared table. Make it with New or Adopt. It is not safe for concurrent
// use by Go; see Publication for XDP beside it.
type Table struct {
	h     *header
	slots []slot
	home  uint32
	max   uint32
	used  uint32
	seed  Seed

	concurrent bool // programs insert entries too
	free       fifo // overflow slots
}

// homes returns how many home slots a table for max entries has: pairs.
func homes(max int) int { return (max + 1) &^ 1 }

// Slots returns how many slots a table for max entries has: homes, and the overflow
// that a full table needs (0.44 of the entries), with room for chance.
func Slots(max int) int { return homes(max) + max*11/25 + max/64 + 64 }

// Size returns how much memory a table for max entries needs, in bytes.
func Size(max int) int { return HeaderSize + Slots(max)*SlotSize }

// MaxEntries is the most entries that a table can have.
const MaxEntries = 1 << 30

// New lays an empty table for max entries over block, which must have Size
// bytes, start on a cache line, and be zero. hz is how many ticks a second
// stamps count; it is kept in the header for whoever adopts the memory.
func New(block []byte, max int, hz uint32) (*Table, error) {
	if max < 1 || max > MaxEntries {
		return nil, fmt.Errorf("a table of %d entries: give 1 to %d", max, MaxEntries)
	}
	n := uint32(Slots(max))
	h, slots, err := layOver(block, n)
	if err != nil {
		return nil, err
	}
	t := &Table{h: h, slots: slots, home: uint32(homes(max)), max: uint32(max)}
	var raw [len(t.seed) * 8]byte
	if _, err := crand.Read(raw[:]); err != nil {
		return nil, fmt.Errorf("cannot read a random seed: %w", err)
	}
	for i := range t.seed {
		t.seed[i] = binary.NativeEndian.Uint64(raw[i*8:])
	}
	t.seed[0] |= 1
	t.seed[1] |= 1
	*h = header{magic: magic, slot: SlotSize, max: t.max, home: t.home, slots: n, hz: hz, seed: t.seed}
	t.free = newFifo(int(n - t.home))
	for i := t.home; i < n; i++ {
		t.free.push(i)
	}
	return t, nil
}

// ErrLayout says that memory does not hold a table as this one is laid out.
var ErrLayout = errors.New("the memory holds no table of this layout and size")

// Adopt goes on with the table in block from a process that has ended, at whatever
// point that was, while readers go on. removed are the slots of entries that were
// being inserted or removed: they are to be released once no reader can have them.
// The error wraps ErrLayout.
func Adopt(block []byte, max int, hz uint32) (t *Table, removed []uint32, err error) {
	if max < 1 || max > MaxEntries {
		return nil, nil, fmt.Errorf("a table of %d entries: give 1 to %d", max, MaxEntries)
	}
	n := uint32(Slots(max))
	h, slots, err := layOver(block, n)
	if err != nil {
		return nil, nil, err
	}
	t = &Table{h: h, slots: slots, home: uint32(homes(max)), max: uint32(max), seed: h.seed}
	if *h != (header{magic: magic, slot: SlotSize, max: t.max, home: t.home, slots: n, hz: hz, seed: h.seed}) {
		return nil, nil, fmt.Errorf("%w: it has slots of %d bytes for %d entries, at %d ticks a second; this is %d, %d, %d", ErrLayout, h.slot, h.max, h.hz, SlotSize, max, hz)
	}
	t.free = newFifo(int(n - t.home))
	chained := t.walk()
	for i := range n {
		s := &t.slots[i]
		switch w := atomic.LoadUint64(&s.word); {
		case w == 0:
			if i >= t.home {
				t.free.push(i)
			}
		case w == limbo:
			s.key = Key{}
			removed = append(removed, i)
		case i >= t.home && !chained[i-t.home]:
			store64(&s.word, limbo)
			s.key = Key{}
			removed = append(removed, i)
		default:
			t.used++
		}
	}
	return t, removed, nil
}

// walk goes through all chains. It takes removed slots out of them, and reports
// which overflow slots are in one.
func (t *Table) walk() (chained []bool) {
	chained = make([]bool, len(t.slots)-int(t.home))
	for i := range t.home {
		at := &t.slots[i].next
		for next := *at; next > t.home && int(next) <= len(t.slots) && !chained[next-1-t.home]; next = *at {
			s := &t.slots[next-1]
			if w := atomic.LoadUint64(&s.word); w == 0 || w == limbo {
				store32(at, s.next)
				continue
			}
			chained[next-1-t.home] = true
			at = &s.next
		}
	}
	return chained
}

// Len returns how many entries there are, Max how many there may be, Slots how many slots.
func (t *Table) Len() int   { return int(t.used) }
func (t *Table) Max() int   { return int(t.max) }
func (t *Table) Slots() int { return len(t.slots) }

// Seed and Homes are what a key's slot is worked out with: the seed of Hash, and the
// number of slots that keys hash to.
func (t *Table) Seed() Seed    { return t.seed }
func (t *Table) Homes() uint32 { return t.home }

// Hash returns the hash of a key, for Lookup, Touch and Insert.
func (t *Table) Hash(k *Key) uint64 {
	s := &t.seed
	x := k[0]
	if k[2]|k[3]|k[4] != 0 {
		x = halves(k[0], s[5]) + halves(k[2], s[2]) + halves(k[3], s[3]) + halves(k[4], s[4])
	}
	h := s[0]*x + s[1]*k[1]
	// The sums of consecutive keys (clients, ports) are an arithmetic sequence, and
	// so is that times any factor, which some seeds would lay onto few homes. Its
	// squares are spread like random numbers.
	h ^= h >> HashShift
	return h * h
}

// halves returns the product of a word's halves, to each of which one of the seed's is
// added.
func halves(w, seed uint64) uint64 {
	return uint64(uint32(w)+uint32(seed)) * uint64(uint32(w>>32)+uint32(seed>>32))
}

// HashShift is by how much Hash folds before it squares.
const HashShift = 29

// homeOf takes the hash's best bits, the upper ones.
func (t *Table) homeOf(h uint64) uint32 {
	i, _ := bits.Mul64(h&^0xffff_ffff, uint64(t.home))
	return uint32(i)
}

// Home returns the slot in which the look-up of a key starts, and where a new entry of it
// most probably lies.
func (t *Table) Home(h uint64) uint32 { return t.homeOf(h) }

// tagOf has the highest bit set, so that a valid word is one that is negative if it is
// taken for a signed number.
func tagOf(h uint64) uint64 { return (h>>16 | 1<<15) & 0xffff }

// Touch loads the line in which the look-up of a key starts. Touching all
// keys of a batch before the first Lookup lets the misses run side by side.
// The result only keeps the compiler from leaving the load out.
func (t *Table) Touch(h uint64) uint32 {
	return t.slots[t.homeOf(h)].next
}

// TouchNew is Touch for a key that is probably new, of which both slots of the pair
// have to be looked at.
func (t *Table) TouchNew(h uint64) uint32 {
	i := t.homeOf(h)
	return t.slots[i].next + t.slots[i^1].next
}

// Lookup finds the slot of a key. h is the key's hash.
func (t *Table) Lookup(k *Key, h uint64) (i uint32, ok bool) {
	i = t.homeOf(h)
	tag := tagOf(h)
	if t.slots[i].holds(k, tag) {
		return i, true
	}
	if t.slots[i^1].holds(k, tag) {
		return i ^ 1, true
	}
	for {
		next := atomic.LoadUint32(&t.slots[i].next)
		if next == 0 {
			return 0, false
		}
		i = next - 1
		if t.slots[i].holds(k, tag) {
			return i, true
		}
	}
}

// holds reports whether the slot has a key.
func (s *slot) holds(k *Key, tag uint64) bool {
	a := &s.key // to compare arrays is a call
	return atomic.LoadUint64(&s.word)>>ValueBits == tag && a[0] == k[0] && a[1] == k[1] &&
		a[2]^k[2]|a[3]^k[3]|a[4]^k[4] == 0
}

// Insert puts in an entry and returns its slot. The key must not be there.
// value is 1 to MaxValue-1. The error is ErrFull.
func (t *Table) Insert(k *Key, h uint64, value uint64, stamp, state uint32) (uint32, error) {
	if t.used >= t.max {
		return 0, ErrFull
	}
	i := t.homeOf(h)
	hs := &t.slots[i]
	inChain := false
	if !t.claim(hs) {
		i ^= 1
		if inChain = !t.claim(&t.slots[i]); inChain {
			if t.free.empty() {
				return 0, ErrFull
			}
			i = t.free.pop()
		}
	}
	s := &t.slots[i]
	s.key = *k
	s.stamp = stamp
	s.state = state
	s.count = 0
	store64(&s.word, tagOf(h)<<ValueBits|value)
	for inChain {
		next := atomic.LoadUint32(&hs.next)
		store32(&s.next, next)
		inChain = !atomic.CompareAndSwapUint32(&hs.next, next, i+1)
	}
	t.used++
	return i, nil
}

// claim takes a free slot, which a program might want too (Rings).
func (t *Table) claim(s *slot) bool {
	if atomic.LoadUint64(&s.word) != 0 {
		return false
	}
	return !t.concurrent || atomic.CompareAndSwapUint64(&s.word, 0, limbo)
}

// Detach keeps the entry in slot i, with its key and all, and hides it from
// Lookup. The same key may then be inserted again.
func (t *Table) Detach(i uint32) {
	s := &t.slots[i]
	store64(&s.word, s.word&MaxValue)
}

// Remove ends the entry in slot i. The slot itself is not used again before
// Release(i), which the owner calls when no reader beside it can still have the
// entry's word: at once where there is none.
func (t *Table) Remove(i uint32) {
	s := &t.slots[i]
	store64(&s.word, limbo)
	t.used--
	if i >= t.home {
		t.unlink(i, &t.slots[t.homeOf(t.Hash(&s.key))])
	}
	s.key = Key{}
}

// unlink takes overflow slot i out of a home slot's chain, if it is there. At the
// head of that, a program may put one at the same time (Rings).
func (t *Table) unlink(i uint32, home *slot) {
	s := &t.slots[i]
	first := atomic.LoadUint32(&home.next)
	for first == i+1 {
		if atomic.CompareAndSwapUint32(&home.next, first, s.next) {
			return
		}
		first = atomic.LoadUint32(&home.next)
	}
	for at := first; at != 0; {
		before := &t.slots[at-1]
		if at = before.next; at == i+1 {
			store32(&before.next, s.next)
			return
		}
	}
}

// Release gives back the slot of a removed entry.
func (t *Table) Release(i uint32) {
	store64(&t.slots[i].word, 0)
	if i >= t.home {
		t.free.push(i)
	}
}
