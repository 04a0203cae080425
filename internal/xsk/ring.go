package xsk

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ring is one of a socket's four rings (net/xdp/xsk_queue.h): of uint64 that
// are chunks' addresses, or of unix.XDPDesc. One side writes slots and then
// producer, the other reads them and then writes consumer; sync/atomic's
// stores release and its loads acquire, as the kernel's do.
//
// Indexes run freely and wrap; a slot is an index modulo the ring's size.
type ring[E any] struct {
	mem                       []byte
	producer, consumer, flags *atomic.Uint32
	slots                     []E
	head                      uint32 // ours: the next slot to write, or to read
}

// slot is the i-th one from the head on.
func (r *ring[E]) slot(i int) *E {
	return &r.slots[(r.head+uint32(i))&uint32(len(r.slots)-1)]
}

// used is how many slots of a ring that we fill the kernel has not read.
func (r *ring[E]) used() int { return int(r.head - r.consumer.Load()) }

// room is how many slots of a ring that we fill are free.
func (r *ring[E]) room() int { return len(r.slots) - r.used() }

// publish gives the first n slots from the head on to the kernel.
func (r *ring[E]) publish(n int) {
	r.head += uint32(n)
	r.producer.Store(r.head)
}

// ready is how many slots of a ring that the kernel fills we have not read.
func (r *ring[E]) ready() int { return int(r.producer.Load() - r.head) }

// release gives the first n slots from the head on back to the kernel.
func (r *ring[E]) release(n int) {
	r.head += uint32(n)
	r.consumer.Store(r.head)
}

// wants says whether the kernel waits for a system call before it looks at a
// ring that we fill (XDP_USE_NEED_WAKEUP).
func (r *ring[E]) wants() bool { return r.flags.Load()&unix.XDP_RING_NEED_WAKEUP != 0 }

func (r *ring[E]) unmap() {
	if r.mem != nil {
		_ = unix.Munmap(r.mem)
	}
	*r = ring[E]{}
}
