package xsk

import "golang.org/x/sys/unix"

// Receive takes up to len(packets) frames, in the order in which they came in,
// and returns how many. They are the caller's until Transmit or Release. It
// does not block (Poller does), and fills the fill ring up, so that it should
// be called even when nothing is expected, if only rarely.
//
// Frames longer than a chunk holds, or that come while the caller has too many
// others, are lost to the kernel and counted.
func (s *Socket) Receive(packets []Packet) int {
	if s.rx.mem == nil {
		return 0 // closed
	}
	u := s.umem
	ready := min(s.rx.ready(), len(packets))
	n := 0
	for i := range ready {
		d := s.rx.slot(i)
		c, ok := u.number(d.Addr)
		if !ok || !s.rxHas[c] {
			s.c.strange.Add(1)
			continue
		}
		s.rxHas[c] = false
		chunk := u.chunk(c)
		at := d.Addr & uint64(len(chunk)-1)
		packets[n] = Packet{Data: chunk[at : at+uint64(d.Len)], chunk: c + 1}
		n++
	}
	if ready > 0 {
		s.rx.release(ready)
		s.c.rxFrames.Add(uint64(n))
	} else if s.busy {
		s.wakeReceive()
	}
	s.topUp()
	return n
}

// topUp fills the fill ring.
func (s *Socket) topUp() {
	if room := s.fill.room(); room > 0 {
		s.list = s.umem.take(s.list[:0], room)
		for i, c := range s.list {
			s.rxHas[c] = true
			*s.fill.slot(i) = uint64(c) << s.umem.shift
		}
		s.fill.publish(len(s.list))
		s.short.Store(len(s.list) < room)
	}
	if s.fill.wants() {
		s.wakeReceive()
	}
}

// wakeReceive has the driver look at the fill ring, or poll busily
// (net/xdp/xsk.c, xsk_recvmsg).
func (s *Socket) wakeReceive() unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(s.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return errno
}
