package xsk

import (
	"time"

	"golang.org/x/sys/unix"
)

// shortest is the length of an Ethernet header, without which drivers cannot
// do.
const shortest = 14

// retries is how often sending is tried again that makes no progress; interval
// is the time between, while there is no room for more. Together that bounds
// how long a Transmit is held up.
const (
	retries  = 10
	interval = 100 * time.Microsecond
)

// Transmit sends frames out of the socket's interface in their order, and clears
// the packets: each is sent, or dropped and counted, and no longer the
// caller's. It returns how many it did not drop itself.
//
// A packet whose Data is in its chunk, whichever socket of the same Umem
// received it, is sent from there. Any other is copied: into its chunk, or, if
// it has none, into a free one. Data is of 14 bytes to a chunk's size.
//
// In copy mode the driver has got the frames when it returns, unless that was
// congested; what is left in the ring goes with the next Transmit, Flush, or
// Wait. While the ring is full it waits a millisecond or two for room.
func (s *Socket) Transmit(packets []Packet) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.c.txDown.Add(uint64(len(packets)))
		s.umem.Release(packets)
		return 0
	}
	s.reap()
	taken := 0
	for len(packets) > 0 {
		room := s.tx.room()
		if room == 0 {
			if !s.awaitRoom() {
				s.drop(packets)
				break
			}
			continue
		}
		n := min(room, len(packets))
		placed := 0
		for i := range packets[:n] {
			if s.place(&packets[i], s.tx.slot(placed)) {
				placed++
			}
		}
		if placed < n {
			s.umem.Release(packets[:n]) // those that were not placed
		}
		packets = packets[n:]
		taken += placed
		s.tx.publish(placed)
		s.push()
	}
	return taken
}

// place makes a descriptor of a packet and takes its chunk. If it cannot, it
// counts why.
func (s *Socket) place(p *Packet, d *unix.XDPDesc) bool {
	u := s.umem
	if len(p.Data) < shortest || len(p.Data) > 1<<u.shift {
		s.c.txMalformed.Add(1)
		return false
	}
	if p.chunk == 0 {
		one := s.borrow()
		if len(one) == 0 {
			s.c.txNoChunk.Add(1)
			return false
		}
		p.chunk = one[0] + 1
	}
	c := p.chunk - 1
	chunk := u.chunk(c)
	at, inside := offset(chunk, p.Data)
	if !inside {
		at = 0
		copy(chunk, p.Data)
	}
	*d = unix.XDPDesc{Addr: uint64(c)<<u.shift + uint64(at), Len: uint32(len(p.Data))}
	s.txHas[c] = true
	*p = Packet{}
	return true
}

// borrow takes a free chunk, or none.
func (s *Socket) borrow() []uint32 {
	if one, missing := s.umem.pop(s.back[:0], 1); missing == 0 {
		return one
	}
	s.reap()
	return s.umem.take(s.back[:0], 1)
}

// awaitRoom waits for the driver to take frames out of a full ring.
func (s *Socket) awaitRoom() bool {
	for range retries {
		s.push()
		if s.tx.room() > 0 {
			return true
		}
		if s.off() {
			return false
		}
		time.Sleep(interval)
	}
	return false
}

// off is whether the last attempt to send found the interface down or gone.
func (s *Socket) off() bool { return s.txErr == unix.ENETDOWN || s.txErr == unix.ENXIO }

// drop drops frames for which there is no room, by the cause that there is none.
func (s *Socket) drop(packets []Packet) {
	cause := &s.c.txRingFull
	switch {
	case s.off():
		cause = &s.c.txDown
	case s.txErr == unix.ENOBUFS || s.txErr == unix.ENOMEM:
		cause = &s.c.txBuffers
	}
	cause.Add(uint64(len(packets)))
	s.umem.Release(packets)
}

// push has the kernel send what is in the ring (net/xdp/xsk.c, xsk_sendmsg).
func (s *Socket) push() {
	for idle := 0; idle < retries && s.tx.used() > 0 && s.tx.wants(); {
		before := s.tx.used()
		_, _, s.txErr = unix.Syscall6(unix.SYS_SENDTO, uintptr(s.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
		progress := s.reap() > 0 || s.tx.used() != before
		switch s.txErr {
		case unix.EBUSY:
			// In copy mode: the driver dropped one frame, which counts as done.
			// The kernel may have moved on without telling.
			if !s.zeroCopy {
				s.c.txDropped.Add(1)
				progress = true
			}
		case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM, unix.EINTR:
			// As many as go at once, or a full completion ring, send buffer or
			// device queue.
		default:
			return
		}
		if s.zeroCopy {
			return // the driver goes on by itself
		}
		if idle++; progress {
			idle = 0
		}
	}
}

// reap takes back what was sent, and returns how many.
func (s *Socket) reap() int {
	if s.closed {
		return 0
	}
	n := s.done.ready()
	if n == 0 {
		return 0
	}
	s.back = s.back[:0]
	for i := range n {
		c, ok := s.umem.number(*s.done.slot(i))
		if !ok || !s.txHas[c] {
			s.c.strange.Add(1)
			continue
		}
		s.txHas[c] = false
		s.back = append(s.back, c)
	}
	s.done.release(n)
	s.c.completed.Add(uint64(len(s.back)))
	s.umem.give(s.back)
	return n
}

// Flush goes on with sending what a Transmit had to leave in the ring, and
// takes back the chunks of what was sent. It reports whether the ring is empty.
func (s *Socket) Flush() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flush()
}

func (s *Socket) flush() bool {
	if s.closed {
		return true
	}
	s.reap()
	s.push()
	return s.tx.used() == 0
}
