package xsk

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// advice is what to do about the kernel's answers to opening a socket.
var advice = []struct {
	err  unix.Errno
	says string
}{
	{unix.EPERM, "it needs CAP_NET_RAW: run as root"},
	{unix.EAFNOSUPPORT, "this kernel has no AF_XDP sockets: it needs CONFIG_XDP_SOCKETS"},
	{unix.ENODEV, "there is no such interface in this network namespace: see ip link"},
	{unix.EBUSY, "another AF_XDP socket has the queue: end its program, which ss --xdp -p names where the kernel has XDP_SOCKETS_DIAG, or take another queue"},
	{unix.ENOBUFS, "the memory is more than may be locked: run as root, or raise ulimit -l"},
	{unix.ENOMEM, "the kernel has no memory for it: ask for smaller rings or fewer frames"},
	{unix.EOPNOTSUPP, "the driver cannot"},
	{unix.EINVAL, "the interface may not have that queue: see ethtool -l"},
}

func explain(err error) error {
	for _, a := range advice {
		if errors.Is(err, a.err) {
			return fmt.Errorf("%w (%s)", err, a.says)
		}
	}
	return err
}

// FD is the socket's file descriptor, to be put into an XSKMAP under the
// queue's number. It is valid until Close.
func (s *Socket) FD() int { return s.fd }

// Queue is where the socket is bound.
func (s *Socket) Queue() Queue { return s.queue }

// Mode is whether the driver reads and writes the memory itself. whyCopy is
// why not, if that was asked for.
func (s *Socket) Mode() (zeroCopy bool, whyCopy error) { return s.zeroCopy, s.whyCopy }

// Check asks whether the interface can still carry frames. It says ENETDOWN
// while it is down, and ENXIO when it was removed or the socket closed, which
// is final. Poll does not say either (net/xdp/xsk.c, xsk_check_common).
func (s *Socket) Check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("the socket on %v is closed: %w", s.queue, unix.ENXIO)
	}
	switch errno := s.wakeReceive(); errno {
	case unix.ENETDOWN:
		return fmt.Errorf("%v: the interface is down: %w", s.queue, errno)
	case unix.ENXIO:
		return fmt.Errorf("%v: the interface was removed: open a socket again when it is back: %w", s.queue, errno)
	}
	return nil
}

// Close closes the socket. When it returns, the queue may still be taken for a
// while (Options.BindWait). Frames that the kernel had not sent are counted as
// tx_down.
//
// In copy mode, chunks are free at once but for those that are on their way
// out, which a driver may still read from. With zero copy a driver may go on
// to read and write all that the socket had. Chunks that are not free at once
// are when a socket is opened on the same queue again, by which time the kernel
// has let go of them all.
func (s *Socket) Close() error {
	u := s.umem
	u.opening.Lock()
	defer u.opening.Unlock()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.reap()
	unsent := s.unsent()
	s.last, _ = option[unix.XDPStatistics](s.fd, unix.XDP_STATISTICS)
	s.closed = true
	// The mappings hold the socket: they go first. Then nothing is received
	// any more once it is closed (net/xdp/xsk.c, xsk_unbind_dev).
	s.unmap()
	err := unix.Close(s.fd)
	received, sending := members(s.rxHas), members(s.txHas)
	s.mu.Unlock()
	s.c.txDown.Add(uint64(len(unsent)))
	s.c.completed.Add(uint64(len(sending)))
	free, stranded := slices.Concat(received, unsent), sending
	if s.zeroCopy {
		free, stranded = nil, slices.Concat(free, stranded)
	}
	u.remove(s, free, stranded)
	return errors.Join(err, u.unmapUnused())
}

// unsent takes the chunks that the kernel has not read out of the transmit ring.
func (s *Socket) unsent() (list []uint32) {
	for i := -s.tx.used(); i < 0; i++ {
		// The kernel may have sent and given back some without telling.
		if c, ok := s.umem.number(s.tx.slot(i).Addr); ok && s.txHas[c] {
			s.txHas[c] = false
			list = append(list, c)
		}
	}
	return list
}

// members empties a set of chunks into a list.
func members(set []bool) (list []uint32) {
	for c, is := range set {
		if is {
			list = append(list, uint32(c))
		}
	}
	clear(set)
	return list
}

func (s *Socket) unmap() {
	s.rx.unmap()
	s.fill.unmap()
	s.tx.unmap()
	s.done.unmap()
}

// counters are a socket's. Each is added to at most once a batch, or when
// something went wrong.
type counters struct {
	rxFrames, strange             atomic.Uint64
	completed                     atomic.Uint64 // came back after having been sent, or dropped by the kernel
	txDropped                     atomic.Uint64
	txRingFull, txBuffers, txDown atomic.Uint64
	txMalformed, txNoChunk        atomic.Uint64
}

// Lost is how many frames were lost as Receive came too late, since the socket was opened: rx_dropped and
// rx_ring_full of Counters.
func (s *Socket) Lost() uint64 {
	k := s.statistics()
	return k.Rx_dropped + k.Rx_ring_full
}

// statistics are what the kernel has counted, or had when the socket was closed.
func (s *Socket) statistics() unix.XDPStatistics {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.last
	if !s.closed {
		k, _ = option[unix.XDPStatistics](s.fd, unix.XDP_STATISTICS)
	}
	return k
}

// Counters are what the socket has counted, by name, since it was opened. Each
// frame that was given to Transmit is, in the end, in exactly one of those
// whose names start with tx_, besides tx_invalid.
func (s *Socket) Counters() map[string]uint64 {
	k := s.statistics()
	dropped := s.c.txDropped.Load()
	return map[string]uint64{
		"rx_frames":    s.c.rxFrames.Load(),        // received
		"rx_dropped":   k.Rx_dropped,               // lost: the fill ring was empty, or the frame too long
		"rx_no_fill":   k.Rx_fill_ring_empty_descs, // the fill ring was found empty; in copy mode each is in rx_dropped too
		"rx_ring_full": k.Rx_ring_full,             // lost: Receive came too late
		"rx_invalid":   k.Rx_invalid_descs,
		"tx_frames":    s.c.completed.Load() - dropped, // taken by the driver
		"tx_dropped":   dropped,                        // lost: the driver dropped it (carrier, a full queue)
		"tx_ring_full": s.c.txRingFull.Load(),          // lost: the driver did not take them in time
		"tx_buffers":   s.c.txBuffers.Load(),           // lost: the kernel had no memory
		"tx_down":      s.c.txDown.Load(),              // lost: the interface is down or gone, or the socket closed
		"tx_malformed": s.c.txMalformed.Load(),         // lost: shorter than an Ethernet header, or longer than a chunk
		"tx_no_chunk":  s.c.txNoChunk.Load(),           // lost: to be copied, and no chunk was free
		"tx_invalid":   k.Tx_invalid_descs,
		"strange":      s.c.strange.Load(), // chunks that the kernel gave back and did not have; ignored
	}
}
