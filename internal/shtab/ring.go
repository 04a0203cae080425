package shtab

// ring is a queue of free slots, so that the one freed last is used last: a
// reader that is late has the longest time. It never holds more than it was
// made for.
type ring struct {
	slots []uint32
	head  int
	n     int
}

func newRing(n int) ring { return ring{slots: make([]uint32, n)} }

func (r *ring) len() int { return r.n }

func (r *ring) push(i uint32) {
	at := r.head + r.n
	if at >= len(r.slots) {
		at -= len(r.slots)
	}
	r.slots[at] = i
	r.n++
}

func (r *ring) pop() uint32 {
	i := r.slots[r.head]
	r.n--
	if r.head++; r.head == len(r.slots) {
		r.head = 0
	}
	return i
}
