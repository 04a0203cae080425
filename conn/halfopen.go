package conn

import (
	"slices"

	"github.com/ulvs/ulvs/internal/shtab"
)

// halfOpen are the connections whose client has not answered: which has not established what
// it opened or, where a protocol has no states, has sent one packet. A stranger can make
// them without number, from addresses that are not his, so that they are known in the order
// in which they came, and can make room for others. (The kernel's table has no bound. What
// it has against them is drop_entry: ip_vs_conn.c, ip_vs_random_dropentry.)
//
// It is a ring of arrivals, while they are listed. What was answered or has ended is left in
// it, until it is the oldest. Those that came before the listing began are found by sweeping
// the slots, and stand in front of all others, in the order of their slots. Eight bytes a
// connection are memory that is there only while it is needed.
type halfOpen struct {
	listed bool
	since  uint32 // tick at which the listing began
	swept  ID     // slots before it have been looked at since then
	ring   []arrival
	memory []byte // the ring's
	free   func()
	oldest int
	next   int // where the next one goes
	count  int // connections with flagHalfOpen
	// told returns how many of those programs have established, and accepted is how many Go has
	// accepted, or found: both since then.
	told     func() uint32
	accepted uint32
}

type arrival struct {
	id   ID
	tick uint32
}

// newHalfOpen has a place more than there can be connections, so that no full ring looks
// like an empty one.
func newHalfOpen(max int) (h halfOpen, err error) {
	if h.memory, h.free, err = shtab.Memory(shtab.RecordsSize[arrival](max + 1)); err != nil {
		return h, err
	}
	h.ring, err = shtab.RecordsOver[arrival](h.memory, max+1)
	return h, err
}

// HalfOpen returns how many connections are half-open. Of those of protocols without states
// it may count some that were answered.
func (t *states) HalfOpen() int {
	h := &t.halfOpen
	if h.told == nil {
		return h.count
	}
	return max(h.count-int(int32(h.told()-h.accepted)), 0)
}

// CountAnswers says where is read how many half-open connections programs have established so
// far. No program may establish one, and none may be Changed.
func (t *states) CountAnswers(answered func() uint32) {
	t.halfOpen.told, t.halfOpen.accepted = answered, answered()
}

// answered takes a connection that was in a state out of the number of those that are half-open.
func (h *halfOpen) answered(was uint32) {
	h.count--
	if was&flagEstablished != 0 {
		h.accepted++
	}
}

// ListHalfOpen has the half-open connections that come from now on be listed, and those that
// there are be swept, or forgets all that are listed. A table begins without, or if it was
// adopted with all that it has.
func (t *states) ListHalfOpen(on bool, now uint32) {
	h := &t.halfOpen
	switch {
	case !on && h.listed:
		h.oldest, h.next = 0, 0
		shtab.Discard(h.memory)
	case !h.listed:
		h.since, h.swept = now, 0
	}
	h.listed = on
}

// SweepHalfOpen looks in so many slots for those that came before the listing began.
func (t *states) SweepHalfOpen(slots int) {
	h := &t.halfOpen
	if !h.listed {
		return
	}
	for end := min(int(h.swept)+slots, t.Slots()); int(h.swept) < end; h.swept++ {
		id := h.swept
		switch {
		case !t.Live(id) || t.State(id)&flagHalfOpen == 0:
		case t.Answered(id):
			t.foundAnswered(id)
		case int32(t.Stamp(id)-h.since) <= 0 || t.Packets(id) > 1: // others were listed
			h.before(arrival{id, t.Stamp(id)})
		}
	}
}

// foundAnswered notes that a connection was answered, some time ago.
func (t *states) foundAnswered(id ID) {
	t.answer(id)
	if ct := t.Template(id); ct != 0 && t.answered != nil {
		t.answered(ct)
	}
}

// before puts an arrival in front of all others, if there is a place.
func (h *halfOpen) before(a arrival) {
	at := h.oldest
	if at--; at < 0 {
		at = len(h.ring) - 1
	}
	if at != h.next {
		h.ring[at], h.oldest = a, at
	}
}

// arrive notes a connection that came at tick now, and has flagHalfOpen.
func (h *halfOpen) arrive(id ID, now uint32) {
	h.count++
	if h.listed {
		h.list(arrival{id, now})
	}
}

// list puts an arrival behind the others. Where the ring is full, so many came after the
// oldest that it is not worth a place.
func (h *halfOpen) list(a arrival) {
	at := h.next
	h.ring[at] = a
	if at++; at == len(h.ring) {
		at = 0
	}
	if h.next = at; at == h.oldest {
		h.shift()
	}
}

// ended takes a connection that ends in a state out of the number of those that are half-open.
func (h *halfOpen) ended(state uint32) {
	if state&flagHalfOpen != 0 {
		h.answered(state)
	}
}

// shift takes the oldest arrival out of the ring.
func (h *halfOpen) shift() {
	if h.oldest++; h.oldest == len(h.ring) {
		h.oldest = 0
	}
}

// arrived reports whether a connection that came is still half-open. It may be
// another one, in the same slot, if the client of that has sent its SYN again.
func (t *states) arrived(a arrival) bool {
	return t.Live(a.id) && t.State(a.id)&flagHalfOpen != 0 && (t.Stamp(a.id) == a.tick || t.Packets(a.id) > 1)
}

// answer says that a connection is not half-open any more, or is not to make room.
func (t *states) answer(id ID) {
	for was := t.State(id); was&flagHalfOpen != 0; was = t.State(id) {
		if t.SwapState(id, was, was&^flagHalfOpen) {
			t.halfOpen.answered(was)
		}
	}
}

// Answered reports whether a connection's client has answered, so far as is known.
func (t *states) Answered(id ID) bool {
	if state := t.State(id); state&flagHalfOpen == 0 || state&flagEstablished != 0 {
		return true
	}
	switch t.Flow(id).Proto() {
	case protoTCP, protoSCTP:
		return false
	}
	return t.Packets(id) > 1
}

// sweepAtOnce is how many slots OldestHalfOpen sweeps.
const sweepAtOnce = 1024

// OldestHalfOpen returns the half-open connection that came first of those that are listed, if
// it has had no packet for so many ticks. It looks at some hundred arrivals and slots, beyond
// which it says none.
func (t *states) OldestHalfOpen(now, age uint32) (ID, bool) {
	h := &t.halfOpen
	t.ListHalfOpen(true, now)
	t.SweepHalfOpen(sweepAtOnce)
	for budget := 256; budget > 0 && h.oldest != h.next; budget-- {
		a := h.ring[h.oldest]
		if id := a.id; t.arrived(a) {
			if !t.Answered(id) {
				return id, t.Idle(id, now) >= age
			}
			t.foundAnswered(id)
		}
		h.shift()
	}
	return 0, false
}

// rearrive makes the ring of an adopted table anew, by the times of the last packets.
func rearrive(t *Table) {
	var list []ID
	for id := range ID(t.Slots()) {
		if t.Live(id) && t.State(id)&flagHalfOpen != 0 {
			list = append(list, id)
		}
	}
	slices.SortFunc(list, func(a, b ID) int { return int(int32(t.Stamp(a) - t.Stamp(b))) })
	t.ListHalfOpen(true, t.Now())
	t.halfOpen.swept = ID(t.Slots())
	for _, id := range list {
		t.halfOpen.arrive(id, t.Stamp(id))
	}
}
