// Package timerwheel expires entries of a table that somebody else owns.
//
// It is a hierarchical timing wheel (Varghese and Lauck, 1987) of three levels. Its
// links are indices that lie inside the owner's records, so that it allocates nothing,
// holds no pointer into the records, and works on memory that the garbage collector
// does not know.
//
// Records lie anywhere in memory, and what a timer costs are misses of the cache: one
// for each level that it comes down. So there are few levels, and at 250 ticks a second
// the lowest is for the next 524 seconds, which most timers are within. Its lists are
// used one after the other, so that those of the present are in the cache, however many
// there are. And a list is eight chains, which are gone through side by side: eight
// misses at a time, while the eight before are worked on, and not one after the other.
//
// Time is counted in ticks of the owner's choice, 32 bits wide; times further
// apart than 2^31 ticks may not meet in one wheel.
package timerwheel

import "math/bits"

// The levels: a list of the lowest is for one tick, one of the next for as many ticks
// as the level below has lists.
const (
	levels    = 3
	nearBits  = 17
	farBits   = 10
	outerBits = 32 - nearBits - farBits

	nearLists  = 1 << nearBits
	farLists   = 1 << farBits
	outerLists = 1 << outerBits
	lists      = nearLists + farLists + outerLists

	ways  = 8       // chains of a list
	first = 1 << 31 // prev holds first|chain for the first entry of a chain
)

// level is one of the levels: its lists begin at base, and each is for 1<<shift ticks.
type level struct{ base, mask, shift uint32 }

var wheels = [levels]level{
	{0, nearLists - 1, 0},
	{nearLists, farLists - 1, nearBits},
	{nearLists + farLists, outerLists - 1, nearBits + farBits},
}

// list returns the number of the list that a tick has at a level.
func (l *level) list(tick uint32) uint32 { return l.base + tick>>l.shift&l.mask }

// Link ties one record into the wheel. The zero value is a record without a
// timer. It belongs to the wheel: owners only keep it in their records.
type Link struct {
	next, prev uint32 // index+1 of a neighbour; prev may be first|chain; both 0: not linked
	due        uint32
}

// Wheel keeps one timer for each record. It is not safe for concurrent use.
// Make it with New.
type Wheel struct {
	links    records
	expire   func(i uint32)
	prefetch func(i uint32) uint32
	sum      uint32 // of what was touched: the compiler cannot leave it out
	now      uint32
	armed    int
	heads    [lists * ways]uint32      // of chains: index+1
	filled   [(lists + 63) / 64]uint64 // a bit a list: it may hold entries
	todo     [levels]uint32            // lists that the present tick has to empty
	doing    int                       // how many of todo
}

// New makes a wheel over the timers of records, at tick now. link says where
// in a record the timer lies. The wheel calls expire for each record whose time
// has come, with its timer unset; expire may set and unset any timer.
func New[R any](recs []R, link func(*R) *Link, now uint32, expire func(i uint32)) *Wheel {
	return &Wheel{links: newRecords(recs, link), expire: expire, now: now}
}

// SetPrefetch has f be called for records some time before they expire. If f reads what
// expire will need, that is loaded for several of them at the same time. What f
// returns means nothing.
func (w *Wheel) SetPrefetch(f func(i uint32) uint32) { w.prefetch = f }

// Now returns the tick up to which timers have expired.
func (w *Wheel) Now() uint32 { return w.now }

// Armed returns how many timers are set.
func (w *Wheel) Armed() int { return w.armed }

// Due is when record i's timer expires; false if it has none.
func (w *Wheel) Due(i uint32) (tick uint32, ok bool) {
	l := w.links.at(i)
	return l.due, l.prev != 0
}

// Set arms the timer of record i, or moves it. A time that is not after Now
// expires at the next tick.
func (w *Wheel) Set(i, due uint32) {
	l := w.links.at(i)
	if l.prev != 0 {
		w.unlink(l)
	}
	l.due = due
	w.link(i, l)
}

// Unset disarms the timer of record i, if it is set.
func (w *Wheel) Unset(i uint32) {
	if l := w.links.at(i); l.prev != 0 {
		w.unlink(l)
	}
}

// Advance moves on to tick now and expires what is due on the way, in the
// order of ticks. It looks at no more than budget entries; when it reports
// true, it is not there yet and wants to be called again.
func (w *Wheel) Advance(now uint32, budget int) (more bool) {
	for {
		begun := uint32(lists)
		for w.doing > 0 {
			n := w.todo[w.doing-1]
			list := w.heads[n*ways:][:ways]
			if n != begun {
				begun = n
				w.touch(list, n < nearLists)
			}
			behind, any := w.behind(list)
			if !any {
				w.doing--
				continue
			}
			w.touch(behind[:], n < nearLists)
			for chain := range list {
				if list[chain] == 0 {
					continue
				}
				if budget == 0 {
					return true
				}
				budget--
				i := list[chain] - 1
				l := w.links.at(i)
				w.unlink(l)
				if int32(l.due-w.now) <= 0 {
					w.expire(i)
				} else {
					w.link(i, l)
				}
			}
		}
		if int32(now-w.now) <= 0 {
			return false
		}
		w.step(now)
	}
}

// behind returns the records behind the first ones of a list's chains, and whether there
// are first ones. They are loaded while those are worked on.
func (w *Wheel) behind(list []uint32) (next [ways]uint32, any bool) {
	for chain, head := range list {
		if head != 0 {
			any = true
			next[chain] = w.links.at(head - 1).next
		}
	}
	return next, any
}

// touch starts to load records, and what they need if they expire, as those of the
// lowest level do.
func (w *Wheel) touch(recs []uint32, expire bool) {
	for _, i := range recs {
		if i != 0 {
			w.sum += w.links.at(i - 1).next
		}
	}
	if !expire || w.prefetch == nil {
		return
	}
	for _, i := range recs {
		if i != 0 {
			w.sum += w.prefetch(i - 1)
		}
	}
}

// step goes to the next tick that has something to do, or to limit.
func (w *Wheel) step(limit uint32) {
	if w.armed == 0 {
		w.now = limit
		return
	}
	t := w.now + 1
	// What remains of this round of the lowest level.
	if t&(nearLists-1) != 0 {
		t = w.next(t, limit)
	}
	if int32(t-limit) > 0 {
		w.now = limit
		return
	}
	w.now = t
	w.doing = 0
	w.take(wheels[0].list(t))
	// At the start of a round, the list of the level above that covers the
	// round is spread over the level below.
	for i := 1; i < levels && t&(1<<wheels[i].shift-1) == 0; i++ {
		w.take(wheels[i].list(t))
	}
}

// next returns the first tick from t on, in this round of the lowest level, whose list may
// hold entries; or, if none does, one that is the start of a round or after limit.
func (w *Wheel) next(t, limit uint32) uint32 {
	n := t & (nearLists - 1)
	rest := w.filled[n/64] >> (n % 64) << (n % 64)
	for rest == 0 {
		t = t&^63 + 64
		if n = t & (nearLists - 1); n == 0 || int32(t-limit) > 0 {
			return t
		}
		rest = w.filled[n/64]
	}
	return t&^63 + uint32(bits.TrailingZeros64(rest))
}

// take puts a list on the present tick's list of things to do.
func (w *Wheel) take(n uint32) {
	if w.filled[n/64]&(1<<(n%64)) == 0 {
		return
	}
	w.filled[n/64] &^= 1 << (n % 64)
	w.todo[w.doing] = n
	w.doing++
}

// link puts record i where its due time belongs.
func (w *Wheel) link(i uint32, l *Link) {
	due := l.due
	delta := due - w.now
	if int32(delta) <= 0 {
		due, delta = w.now+1, 1
	}
	n := due & (nearLists - 1)
	if delta >= nearLists {
		n = wheels[1].list(due)
		if delta >= 1<<(nearBits+farBits) {
			n = wheels[2].list(due)
		}
	}
	chain := n*ways + i%ways
	w.filled[n/64] |= 1 << (n % 64)
	head := w.heads[chain]
	l.next = head
	l.prev = first | chain
	if head != 0 {
		w.links.at(head - 1).prev = i + 1
	}
	w.heads[chain] = i + 1
	w.armed++
}

func (w *Wheel) unlink(l *Link) {
	if l.prev&first != 0 {
		w.heads[l.prev&^first] = l.next
	} else {
		w.links.at(l.prev - 1).next = l.next
	}
	if l.next != 0 {
		w.links.at(l.next - 1).prev = l.prev
	}
	l.next, l.prev = 0, 0
	w.armed--
}
