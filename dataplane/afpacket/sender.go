package afpacket

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// sender sends frames out of one interface: through a ring, one system call a
// batch, and those that no slot holds one by one, in order with the others.
type sender struct {
	ifindex int
	c       *counters
	gone    atomic.Bool // the interface is, or the plane: sends no more

	mu      sync.Mutex // guards all below
	fd      int        // with the ring
	plainFD int        // for large frames
	mem     []byte
	head    int // the slot to be filled next
	filled  int // slots filled and not yet sent
	bytes   int // in those
	large   []byte
}

// headers is how many bytes of a frame the kernel copies; what follows is
// sent from the ring's own pages. Small frames are copied whole, and drivers
// and the receiving stack find the headers in one piece.
const headers = 256

// retries and interval bound how long an interface that takes no frames holds a
// batch up; together 5 ms.
const (
	retries  = 10
	interval = 500 * time.Microsecond
)

func newSender(ifindex int, c *counters) (*sender, error) {
	s := &sender{ifindex: ifindex, c: c, plainFD: -1}
	var err error
	if s.fd, err = openSend(ifindex); err != nil {
		return nil, fmt.Errorf("cannot open a socket to send on interface %d: %w", ifindex, err)
	}
	// A frame that the kernel refuses must not block those behind it.
	err = unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_LOSS, 1)
	if err == nil {
		s.mem, err = mapRing(s.fd, unix.PACKET_TX_RING, txSlots)
	}
	if err == nil {
		s.plainFD, err = openSend(ifindex)
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("cannot set up sending on interface %d: %w", ifindex, err)
	}
	s.large = make([]byte, vnetLen+largest)
	return s, nil
}

func (s *sender) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone.Store(true)
	s.c.txDown.Add(uint64(s.filled))
	s.filled = 0
	if s.mem != nil {
		_ = unix.Munmap(s.mem)
		s.mem = nil
	}
	_ = unix.Close(s.fd)
	if s.plainFD >= 0 {
		_ = unix.Close(s.plainFD)
	}
}

func (s *sender) slot(i int) []byte { return s.mem[i*slotSize : (i+1)*slotSize : (i+1)*slotSize] }

// put queues a frame without the strip bytes of tags behind its addresses. to
// holds the link addresses to write; nil leaves them. The caller holds mu and
// calls flush afterwards.
func (s *sender) put(data []byte, o dataplane.Offload, strip int, to *dataplane.Neighbor) {
	size := len(data) - strip
	if size < macLen || size > largest {
		s.c.txMalformed.Add(1)
		return
	}
	if s.gone.Load() {
		s.c.txDown.Add(1)
		return
	}
	if strip > 0 {
		shift(&o, -strip)
	}
	o.HdrLen = uint16(min(size, headers))
	if vnetLen+size > slotSize-slotSend {
		s.flush()
		s.sendLarge(data, o, strip, to)
		return
	}
	slot := s.slot(s.head)
	if loadStatus(slot) != unix.TP_STATUS_AVAILABLE {
		s.flush()
		if !s.awaitSlot(slot) {
			s.c.txRingFull.Add(1)
			return
		}
	}
	n := fill(slot[slotSend:], data, o, strip, to)
	native.PutUint32(slot[slotLen:], uint32(n))
	storeStatus(slot, unix.TP_STATUS_SEND_REQUEST)
	s.head = (s.head + 1) % txSlots
	s.filled++
	s.bytes += size
}

// fill writes the virtio_net_hdr and the frame, and returns their length.
func fill(b, data []byte, o dataplane.Offload, strip int, to *dataplane.Neighbor) int {
	writeVnet(b, o)
	n := vnetLen
	if strip > 0 {
		n += copy(b[n:], data[:12])
		data = data[12+strip:]
	}
	n += copy(b[n:], data)
	if to != nil {
		copy(b[vnetLen:], to.Dst[:])
		copy(b[vnetLen+6:], to.Src[:])
	}
	return n
}

// awaitSlot waits for the interface to give a slot back.
func (s *sender) awaitSlot(slot []byte) bool {
	for range retries {
		if loadStatus(slot) == unix.TP_STATUS_AVAILABLE {
			return true
		}
		time.Sleep(interval)
	}
	return loadStatus(slot) == unix.TP_STATUS_AVAILABLE
}

// flush sends what put queued. When it returns, no slot waits to be sent: it
// was, or is counted as lost.
func (s *sender) flush() {
	if s.filled == 0 {
		return
	}
	last := s.slot((s.head + txSlots - 1) % txSlots)
	var err error
	for range retries {
		var n int
		n, err = unix.SendmsgN(s.fd, nil, nil, nil, unix.MSG_DONTWAIT)
		s.bytes -= max(0, n)
		if loadStatus(last) != unix.TP_STATUS_SEND_REQUEST {
			s.account(nil)
			return
		}
		if err != nil && !busy(err) {
			break
		}
		time.Sleep(interval)
	}
	s.account(err)
}

// busy returns an error that passes: a full queue, full buffers.
func busy(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR) ||
		errors.Is(err, unix.ENOMEM)
}

// account counts what a flush did, and takes back the slots that the kernel
// did not send. Those are the last ones: it goes on in their order, from the
// first one of them, so that is where we go on too.
func (s *sender) account(err error) {
	unsent := 0
	for unsent < s.filled {
		at := (s.head + txSlots - 1) % txSlots
		slot := s.slot(at)
		if loadStatus(slot) != unix.TP_STATUS_SEND_REQUEST {
			break
		}
		s.bytes -= int(native.Uint32(slot[slotLen:])) - vnetLen
		storeStatus(slot, unix.TP_STATUS_AVAILABLE)
		s.head = at
		unsent++
	}
	sent := s.filled - unsent
	if s.bytes > 0 && sent > 0 {
		// The kernel skipped slots (PACKET_LOSS) and says only how many bytes
		// it sent, so that several look like one.
		s.c.txMalformed.Add(1)
		sent--
	}
	s.c.txFrames.Add(uint64(sent))
	s.filled, s.bytes = 0, 0
	if unsent > 0 {
		s.lose(err, uint64(unsent))
	}
}

func (s *sender) lose(err error, n uint64) {
	switch {
	case err == nil || busy(err):
		s.c.txRingFull.Add(n)
	case errors.Is(err, unix.EMSGSIZE):
		s.c.txTooBig.Add(n)
	case errors.Is(err, unix.EINVAL):
		s.c.txMalformed.Add(n)
	default:
		// ENETDOWN may pass. ENXIO and ENODEV do not: it was removed.
		s.gone.Store(!errors.Is(err, unix.ENETDOWN))
		s.c.txDown.Add(n)
	}
}

func (s *sender) sendLarge(data []byte, o dataplane.Offload, strip int, to *dataplane.Neighbor) {
	n := fill(s.large, data, o, strip, to)
	var err error
	for range retries {
		if _, err = unix.Write(s.plainFD, s.large[:n]); err == nil {
			s.c.txFrames.Add(1)
			return
		}
		if !busy(err) {
			break
		}
		time.Sleep(interval)
	}
	s.lose(err, 1)
}

// transmit puts a frame with the link addresses of to, or, if that is nil, as
// it is. The caller holds mu.
func (s *sender) transmit(f *dataplane.Frame, to *dataplane.Neighbor) {
	strip := 0
	if s.ifindex != f.In {
		// Tags say where a frame came in; the other interface has its own.
		strip, _ = tags(f.Data)
	}
	if to != nil && to.MTU > 0 && f.Offload.GSOType == 0 && len(f.Data)-strip > macLen+to.MTU {
		// The kernel does not check frames that it takes from a ring with
		// PACKET_VNET_HDR, and drivers drop them without a word.
		if kept, _ := tags(f.Data); len(f.Data)-kept > macLen+to.MTU {
			s.c.txTooBig.Add(1)
			return
		}
	}
	s.put(f.Data, f.Offload, strip, to)
}

// unlock gives s back, if there is one.
func (s *sender) unlock() {
	if s != nil {
		s.mu.Unlock()
	}
}
