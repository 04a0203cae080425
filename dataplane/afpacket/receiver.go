package afpacket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

const (
	batchSize = 64
	// roomSize is more than a full frame with two tags.
	roomSize = 2048
	// largeBatch bounds the large frames of a batch, for which there are
	// buffers.
	largeBatch = 16
)

// receiver carries the frames of one interface. All but the socket belongs to
// the goroutine that runs it.
type receiver struct {
	p       *Plane
	name    string
	ifindex int
	tap     *sender // back to the host by the interface by which frames come, if that is another one; or nil
	bound   int     // the number of that by which they come
	sock    *receiveSocket
	lock    int // holds the interface for this plane
	frames  [batchSize]dataplane.Frame
	rooms   []byte // where the handler may write answers to them
	large   [largeBatch][]byte
	vec     [1 + mostPieces]unix.Iovec // where a frame is read to that is cut
	touched []*sender                  // to be flushed at the end of the batch
	sockErr error                      // what the socket said last about its interface
	down    bool                       // the interface was, when we last heard

	ctx    context.Context // of its run
	cancel context.CancelFunc
	ended  chan struct{} // closed when its run is over; nil: it does not run

	mu     sync.Mutex // guards the socket against Counters
	closed bool
}

func newReceiver(p *Plane, l dataplane.Link) (_ *receiver, err error) {
	if !l.Ethernet && !l.Loopback {
		return nil, fmt.Errorf("interface %s is not Ethernet: give one that is", l.Name)
	}
	r := &receiver{p: p, name: l.Name, ifindex: l.Index, bound: l.Index, touched: make([]*sender, 0, 16),
		rooms: make([]byte, batchSize*roomSize)}
	// First, as a tap may be there already, and be another daemon's.
	if r.lock, err = reserve(l.Name, l.Index); err != nil {
		return nil, err
	}
	if err = r.openTap(l); err == nil {
		r.sock, err = openReceive(&net.Interface{Index: r.bound, Name: l.Name}, l.Index, p.opt.MAC)
	}
	if err != nil {
		r.closeTap()
		_ = unix.Close(r.lock)
		return nil, err
	}
	for i := range r.large {
		r.large[i] = make([]byte, tagLen+vnetLen+largest)
	}
	return r, nil
}

func (r *receiver) run(ctx context.Context, h dataplane.Handler) error {
	for ctx.Err() == nil {
		if r.step(h) > 0 && r.sockErr == nil {
			r.down = false
			continue
		}
		if err := r.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// wait returns when there is a frame, or nil and soon when there may be one
// or the plane is to end, or an error when the interface is gone.
func (r *receiver) wait(ctx context.Context) error {
	if r.down {
		// The socket does not say when the interface comes up again, nor when
		// it is removed while down.
		pause(ctx, 20*time.Millisecond)
		return r.look()
	}
	failed := r.sockErr == nil && r.sock.wait()
	if failed {
		code, err := unix.GetsockoptInt(r.sock.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			r.sockErr = unix.Errno(code)
		}
	}
	if r.sockErr != nil {
		r.sockErr, r.down = nil, true
		return r.look()
	}
	if failed {
		pause(ctx, 10*time.Millisecond) // not over and over again
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// errGone says that an interface was removed, or moved to another network namespace.
var errGone = errors.New("the interface is gone")

// look finds out whether the interface is still there. One that is not has taken
// the socket's binding along (net/packet/af_packet.c, packet_notifier).
func (r *receiver) look() error {
	sa, err := unix.Getsockname(r.sock.fd)
	if err != nil {
		return fmt.Errorf("the socket on %s failed: %w", r.name, err)
	}
	if ll, ok := sa.(*unix.SockaddrLinklayer); ok && ll.Ifindex != r.bound {
		return errGone
	}
	return nil
}

// step takes what is in the rings, at most a batch, has the handler decide and
// carries it out. It returns how many slots that freed.
func (r *receiver) step(h dataplane.Handler) int {
	n, large := 0, 0
	r.sock.begin()
	for slots := 0; slots < batchSize && n < batchSize; slots++ {
		from, slot, status := r.sock.next()
		if from == nil {
			break
		}
		if status&unix.TP_STATUS_COPY != 0 {
			frames, ok := r.takeLarge(n, large, slot, status)
			if !ok {
				break // the next batch's
			}
			n, large = n+frames, large+frames
		} else if r.take(&r.frames[n], slot, status) {
			r.frames[n].Room = r.room(n)
			n++
		}
		from.taken++
	}
	if n > 0 {
		r.count(r.frames[:n])
		h.Handle(r.p.clock.now(), r.frames[:n])
		r.carryOut(r.frames[:n])
		dataplane.Carried(h, r.frames[:n])
	}
	return r.sock.ring.giveBack() + r.sock.syns.giveBack()
}

// take makes a frame of a slot; false if it is not ours.
func (r *receiver) take(f *dataplane.Frame, slot []byte, status uint32) bool {
	length, snap := int(native.Uint32(slot[slotLen:])), int(native.Uint32(slot[slotSnaplen:]))
	at := int(native.Uint16(slot[slotMAC:]))
	if snap < length {
		r.p.c.rxTruncated.Add(1)
		return false
	}
	return r.frame(f, slot, status, slot, at, at+length)
}

// room is the i-th frame's memory for an answer.
func (r *receiver) room(i int) []byte { return r.rooms[i*roomSize : i*roomSize : (i+1)*roomSize] }

// takeLarge makes frames, from n on and with buffers from large on, of a frame that is in
// the socket's queue, where it is the first one: the kernel appends to both under one lock
// (tpacket_rcv). ok is false where there is no room for them in this batch.
func (r *receiver) takeLarge(n, large int, slot []byte, status uint32) (frames int, ok bool) {
	if frames, big, ok := r.takeBig(n, large, slot, status); big {
		return frames, ok
	}
	if large == largeBatch {
		return 0, false
	}
	length, buf := int(native.Uint32(slot[slotLen:])), r.large[large]
	if !r.readCopy(func() (int, error) { return unix.Read(r.sock.fd, buf[tagLen:]) }, length) {
		return 0, true
	}
	at := tagLen + vnetLen
	if !r.frame(&r.frames[n], slot, status, buf, at, at+length) {
		return 0, true
	}
	r.frames[n].Room = r.room(n)
	return 1, true
}

// readCopy reads a frame of length bytes from the socket's queue.
func (r *receiver) readCopy(read func() (int, error), length int) bool {
	n, err := read()
	if err != nil {
		// A read reports first what happened to the interface.
		r.sockErr = err
		n, err = read()
	}
	if err != nil || n != vnetLen+length {
		r.p.c.rxTruncated.Add(1)
		return false
	}
	return true
}

// frame describes the frame at buf[at:end], with its virtio_net_hdr in front.
func (r *receiver) frame(f *dataplane.Frame, slot []byte, status uint32, buf []byte, at, end int) bool {
	if end-at < macLen || at < vnetLen || end > len(buf) {
		r.p.c.rxTruncated.Add(1)
		return false
	}
	switch kind := slot[slotPktType]; kind {
	case unix.PACKET_HOST, unix.PACKET_OTHERHOST: // the filter let in only ours
	case unix.PACKET_BROADCAST, unix.PACKET_MULTICAST:
		if !question(buf[at:end], kind == unix.PACKET_BROADCAST) {
			r.p.c.rxNotOurs.Add(1)
			return false
		}
	default:
		r.p.c.rxNotOurs.Add(1)
		return false
	}
	*f = dataplane.Frame{Offload: readVnet(buf[at-vnetLen:]), In: r.ifindex, Handed: r.tap != nil}
	if status&unix.TP_STATUS_VLAN_VALID != 0 {
		tpid := native.Uint16(slot[slotTPID:])
		if status&unix.TP_STATUS_VLAN_TPID_VALID == 0 {
			tpid = etherTypeVLAN
		}
		at = putTag(buf, at, tpid, native.Uint16(slot[slotTCI:]), &f.Offload)
	}
	f.Data = buf[at:end:end]
	return true
}

// carryOut does what the verdicts say.
func (r *receiver) carryOut(frames []dataplane.Frame) {
	var passed, dropped uint64
	var s *sender // locked
	for i := range frames {
		f := &frames[i]
		if r.tap != nil && (f.Verdict == dataplane.Pass || f.Verdict == dataplane.Host && !r.p.opt.Withhold) {
			s.unlock()
			s = nil
			if r.giveBack(f); f.Verdict == dataplane.Pass {
				passed++
			}
			continue
		}
		switch f.Verdict {
		case dataplane.Pass:
			passed++
			continue
		case dataplane.Drop:
			dropped++
			continue
		}
		ifindex := f.In
		var to *dataplane.Neighbor
		if f.Verdict == dataplane.Host {
			ifindex, to = r.p.loopback, &r.p.host
		} else if f.Hop != nil {
			if to = f.Hop.Neighbor(); to.State != dataplane.HopReachable {
				// Parking takes the hop's lock, under which parked frames
				// are sent: no sender may be held.
				s.unlock()
				s = nil
				if to = r.park(f); to == nil {
					continue
				}
			}
			ifindex = to.Ifindex
		}
		if s == nil || s.ifindex != ifindex {
			s.unlock()
			if s = r.p.sender(ifindex); s == nil {
				r.p.c.txNoSender.Add(1)
				continue
			}
			s.mu.Lock()
			r.touch(s)
		}
		s.transmit(f, to)
	}
	s.unlock()
	for _, s := range r.touched {
		s.mu.Lock()
		s.flush()
		s.mu.Unlock()
	}
	clear(r.touched)
	r.touched = r.touched[:0]
	if passed > 0 {
		r.p.c.passed.Add(passed)
	}
	if dropped > 0 {
		r.p.c.dropped.Add(dropped)
	}
}

func (r *receiver) touch(s *sender) {
	for _, t := range r.touched {
		if t == s {
			return
		}
	}
	r.touched = append(r.touched, s)
}

// park leaves f with its hop. It returns the neighbour when the hop was
// resolved meanwhile.
func (r *receiver) park(f *dataplane.Frame) *dataplane.Neighbor {
	if f.Hop.Neighbor().State != dataplane.HopLocal && f.Hop.Park(f, r.p.sendParked) {
		r.p.c.parked.Add(1)
		return nil
	}
	if n := f.Hop.Neighbor(); n.State == dataplane.HopReachable {
		return n
	}
	r.p.c.txNoHop.Add(1)
	return nil
}

// countLosses adds what the kernel could not put into the rings.
func (r *receiver) countLosses() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.p.c.rxRingLost.Add(r.sock.ring.lost())
	r.p.c.rxSYNLost.Add(r.sock.syns.lost())
}

func (r *receiver) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		r.sock.close()
		r.closeTap()
		_ = unix.Close(r.lock)
	}
}
