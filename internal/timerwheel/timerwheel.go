// Package timerwheel expires entries of a table that somebody else owns.
//
// It is a hierarchical timing wheel (Varghese and Lauck, 1987) of four levels
// with 1024 lists each. Its links are indices that lie inside the owner's records,
// so that it allocates nothing, holds no pointer into the records, and works on
// memory that the garbage collector does not know.
//
// Records lie anywhere in memory, and what it costs are misses of the cache. So there
// are few levels, each of which a timer comes down is one more. And a list is eight
// chains, which are gone through side by side: eight misses at a time, and not one
// after the other.
//
// Time is counted in ticks of the owner's choice, 32 bits wide; times further
// apart than 2^31 ticks may not meet in one wheel.
package timerwheel

import "math/bits"

const (
	levels    = 4 // 1024^4 ticks are more than 32 bits hold
	levelBits = 10
	lists     = 1 << levelBits
	slotMask  = lists - 1

	ways  = 8       // chains of a list
	first = 1 << 31 // prev holds first|chain for the first entry of a chain
)

// Link ties one record into the wheel. The zero value is a record without a
// timer. It belongs to the wheel: owners only keep it in their records.
type Link struct {
	next, prev uint32 // index+1 of a neighbour; prev may be first|chain; both 0: not linked
	due        uint32
}

// Wheel keeps one timer for each record. It is not safe for concurrent use.
// Make it with New.
type Wheel struct {
	links  records
	expire func(i uint32)
	ahead  func(i uint32) uint32
	sum    uint32 // of what was touched: the compiler cannot leave it out
	now    uint32
	armed  int
	heads  [levels * lists * ways]uint32 // of chains: index+1
	filled [levels][lists / 64]uint64    // a bit a list: it may hold entries
	todo   [levels]uint16                // lists that the present tick has to empty
	doing  int                           // how many of todo
}

// New makes a wheel over the timers of records, at tick now. link says where
// in a record the timer lies. The wheel calls expire for each record whose time
// has come, with its timer unset; expire may set and unset any timer.
func New[R any](recs []R, link func(*R) *Link, now uint32, expire func(i uint32)) *Wheel {
	return &Wheel{links: newRecords(recs, link), expire: expire, now: now}
}

// Ahead has f be called for some records before the first of them expires. If f reads
// what expire will need, that is loaded for all of them at the same time. What f
// returns means nothing.
func (w *Wheel) Ahead(f func(i uint32) uint32) { w.ahead = f }

// Now is the tick up to which timers have expired.
func (w *Wheel) Now() uint32 { return w.now }

// Armed is how many timers are set.
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
		for w.doing > 0 {
			n := uint32(w.todo[w.doing-1])
			list := w.heads[n*ways:][:ways]
			if !w.touch(list, n < lists) {
				w.doing--
				continue
			}
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

// touch starts to load the first records of a list's chains, and what they need if
// they expire, as those of the lowest level do. It reports whether there are any.
func (w *Wheel) touch(list []uint32, expire bool) (any bool) {
	for _, head := range list {
		if head == 0 {
			continue
		}
		any = true
		w.sum += w.links.at(head - 1).next
	}
	if !expire || w.ahead == nil {
		return any
	}
	for _, head := range list {
		if head != 0 {
			w.sum += w.ahead(head - 1)
		}
	}
	return any
}

// step goes to the next tick that has something to do, or to limit.
func (w *Wheel) step(limit uint32) {
	if w.armed == 0 {
		w.now = limit
		return
	}
	t := w.now + 1
	// What remains of this round of the lowest level.
	if t&slotMask != 0 {
		t = t&^slotMask + w.next(t&slotMask)
	}
	if int32(t-limit) > 0 {
		w.now = limit
		return
	}
	w.now = t
	w.doing = 0
	w.take(0, t)
	// At the start of a round, the list of the level above that covers the
	// round is spread over the level below.
	for level := 1; level < levels && t&(1<<(level*levelBits)-1) == 0; level++ {
		w.take(level, t>>(level*levelBits))
	}
}

// next is the first list of the lowest level, from list n on, that may hold entries;
// the number of lists if none does.
func (w *Wheel) next(n uint32) uint32 {
	word := n / 64
	rest := w.filled[0][word] >> (n % 64) << (n % 64)
	for rest == 0 {
		if word++; word == lists/64 {
			return lists
		}
		rest = w.filled[0][word]
	}
	return word*64 + uint32(bits.TrailingZeros64(rest))
}

// take puts a level's list on the present tick's list of things to do.
func (w *Wheel) take(level int, round uint32) {
	n := round & slotMask
	if w.filled[level][n/64]&(1<<(n%64)) == 0 {
		return
	}
	w.filled[level][n/64] &^= 1 << (n % 64)
	w.todo[w.doing] = uint16(level*lists) + uint16(n)
	w.doing++
}

// link puts record i where its due time belongs.
func (w *Wheel) link(i uint32, l *Link) {
	due := l.due
	delta := due - w.now
	if int32(delta) <= 0 {
		due, delta = w.now+1, 1
	}
	level := (bits.Len32(delta) - 1) / levelBits
	n := due >> (level * levelBits) & slotMask
	chain := (uint32(level*lists)+n)*ways + i%ways
	w.filled[level][n/64] |= 1 << (n % 64)
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
