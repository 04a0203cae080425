package xdp

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/xsk"
	"github.com/ulvs/ulvs/packet"
)

// SocketUse says on which interfaces AF_XDP sockets take what is Go's to decide.
type SocketUse int

const (
	// SocketsAuto is where a program is in the driver, and so is SocketsOn.
	SocketsAuto SocketUse = iota
	SocketsOn
	// SocketsOff is nowhere: the plane behind takes it all.
	SocketsOff
)

// maxQueues bounds how many queues an interface is tried to have.
const maxQueues = 256

// sockets are the AF_XDP sockets of a plane, an interface's queue each.
type sockets struct {
	umem *xsk.Umem
	gone []int             // interfaces since the last one was taken; Plane.mu guards both
	past map[string]uint64 // counters of sockets that are closed
}

// queue is a socket, and what it hands to Go.
type queue struct {
	p       *Plane
	s       *xsk.Socket
	poller  *xsk.Poller
	ifindex int
	ended   chan struct{} // closed when its frames are not taken any more; nil: they never were
	packets [socketBatch]xsk.Packet
	frames  [socketBatch]dataplane.Frame
	out     [socketBatch]xsk.Packet
}

// socketBatch is how many frames are decided at a time.
const socketBatch = 64

// chunk is the size of a frame's memory, of which a received frame can have all but
// the headroom (XDP_PACKET_HEADROOM), and socketMTU the largest MTU for which that is enough.
const (
	chunk     = 2048
	headroom  = 256
	socketMTU = chunk - headroom - 14
)

// openSockets binds sockets to the queues of an interface, in the calling thread's
// network namespace, and makes the map by which a program finds them. The error says why
// they are not used.
func (p *Plane) openSockets(at *attachment) error {
	switch {
	case at.private != 0:
		return errors.New("a private interface has what is the daemon's")
	case p.socketUse == SocketsOff:
		return errors.New("AF_XDP is off")
	case errors.Is(at.unfit, errBond):
		return errBond
	case at.mtu > socketMTU:
		return fmt.Errorf("its frames have room for an MTU of %d, not %d", socketMTU, at.mtu)
	}
	if p.sockets == nil {
		if err := p.makeSockets(); err != nil {
			return err
		}
	}
	var opened []*queue
	for id := range maxQueues {
		s, err := p.sockets.umem.Open(xsk.Queue{Ifindex: at.ifindex, ID: id}, p.socketOptions())
		if err != nil {
			if id > 0 {
				break // there are no more, or no memory for them: those are the slow plane's
			}
			return err
		}
		q := &queue{p: p, s: s, ifindex: at.ifindex}
		opened = append(opened, q)
		if q.poller, err = xsk.NewPoller(s); err != nil {
			closeQueues(opened)
			return err
		}
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "ulvs_sockets", Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4,
		MaxEntries: uint32(len(opened))})
	for i, q := range opened {
		if err == nil {
			err = m.Put(uint32(i), uint32(q.s.FD()))
		}
	}
	if err != nil {
		closeQueues(opened)
		return fmt.Errorf("cannot make a map of sockets: %w", Permitted(err))
	}
	at.queues, at.socketMap = opened, m
	return nil
}

func (p *Plane) socketOptions() xsk.Options {
	return xsk.Options{ZeroCopy: true, Receive: p.ring, Fill: p.ring, BusyPoll: p.busyPoll}
}

func (p *Plane) makeSockets() error {
	// How many queues there are is not known yet. There are chunks for four sockets,
	// or two an interface; more sockets share them, until their fill rings would take
	// them all.
	umem, err := xsk.NewUmem(xsk.MemoryOptions{Frames: max(4,
		2*len(p.interfaces)) * p.socketOptions().Frames(), FrameSize: chunk})
	if err != nil {
		return err
	}
	p.sockets = &sockets{umem: umem, past: map[string]uint64{}}
	return nil
}

// Queues returns how many queues have AF_XDP sockets now, each of which has a goroutine that waits
// for frames while the plane runs.
func (p *Plane) Queues() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range p.attached {
		n += len(at.queues)
	}
	return n
}

// carry begins to hand frames of an attachment's sockets to h, if there is one yet.
func (at *attachment) carry(h dataplane.Handler, failed chan<- error) {
	for _, q := range at.queues {
		if h == nil || q.ended != nil {
			continue
		}
		q.ended = make(chan struct{})
		go func() {
			defer close(q.ended)
			if err := q.run(h); err != nil {
				select {
				case failed <- err:
				default: // one is enough
				}
			}
		}()
	}
}

func (q *queue) run(h dataplane.Handler) error {
	for {
		more, err := q.poller.Wait(time.Second)
		if !more || err != nil {
			return err
		}
		// Under a load that does not end, Wait has to see the end all the same.
		for range 16 {
			n := q.s.Receive(q.packets[:])
			if n == 0 {
				break
			}
			for i := range n {
				data := q.packets[i].Data
				q.frames[i] = dataplane.Frame{Data: data, In: q.ifindex, Taken: true, Handed: true,
					Room: data[len(data):len(data):cap(data)]}
				unfinished(&q.frames[i])
			}
			h.Handle(dataplane.Monotonic(), q.frames[:n])
			q.carryOut(n)
			dataplane.Carried(h, q.frames[:n])
		}
	}
}

// unfinished sees whether the sender of a frame left its checksum to a card that
// there is not, as other namespaces of this host do: it then holds the pseudo
// header's sum (include/linux/skbuff.h, CHECKSUM_PARTIAL), which a socket is not
// told.
func unfinished(f *dataplane.Frame) {
	if !packet.MayBeUnfinished(f.Data) {
		return
	}
	var p packet.Packet
	p.Parse(f.Data)
	offset := 0
	switch p.Kind {
	case packet.TCP:
		offset = 16
	case packet.UDP:
		offset = 6
	default:
		return
	}
	if p.Fragment || packet.TransportIntact(f.Data, &p) {
		return
	}
	at := p.L4 + offset
	partial := ^packet.ChecksumWith(packet.PseudoSum(p.Source(), p.Dest(), p.Proto, p.End-p.L4), nil)
	if partial == uint16(f.Data[at])<<8|uint16(f.Data[at+1]) {
		f.Data = f.Data[:p.End] // the checksum covers nothing else
		f.Offload = dataplane.Offload{Flags: dataplane.NeedsChecksum, CsumStart: uint16(p.L4),
			CsumOffset: uint16(offset)}
	}
}

// carryOut does what the verdicts of the first n frames say. What goes out of this
// interface goes in one batch; the rest, which is rare, the slow plane sends.
func (q *queue) carryOut(n int) {
	out := q.out[:0]
	for i := range n {
		f := &q.frames[i]
		switch f.Verdict {
		case dataplane.Drop:
			continue
		case dataplane.Pass, dataplane.Host:
			// The host has not seen it: the program has taken it away.
			f.Verdict = dataplane.Host
			q.p.Plane.Send(f)
			continue
		}
		if f.Hop != nil {
			to := f.Hop.Neighbor()
			if to.State != dataplane.HopReachable || to.Ifindex != q.ifindex {
				q.p.Plane.Send(f)
				continue
			}
			copy(f.Data, to.Dst[:])
			copy(f.Data[6:], to.Src[:])
		}
		if f.Offload.Flags&dataplane.NeedsChecksum != 0 {
			packet.CompleteChecksum(f.Data, int(f.Offload.CsumStart), int(f.Offload.CsumOffset))
		}
		q.packets[i].Data = f.Data
		out = append(out, q.packets[i])
		q.packets[i] = xsk.Packet{}
	}
	q.p.sockets.umem.Release(q.packets[:n])
	q.s.Transmit(out)
}

// endQueues closes sockets when their frames are not with a handler any more.
func (p *Plane) endQueues(list []*queue) {
	for _, q := range list {
		q.poller.End()
		if q.ended != nil {
			<-q.ended
		}
	}
	closeQueues(list)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range list {
		q.addTo(p.sockets.past)
	}
}

// addTo adds a queue's counters to others.
func (q *queue) addTo(all map[string]uint64) {
	for name, n := range q.s.Counters() {
		all["af_xdp_"+name] += n
	}
}

// closeSockets gives back what sockets share. Those are closed.
func (p *Plane) closeSockets() {
	if p.sockets == nil {
		return
	}
	_ = p.sockets.umem.Close()
}

func closeQueues(list []*queue) {
	for _, q := range list {
		if q.poller != nil {
			_ = q.poller.Close()
		}
		_ = q.s.Close()
	}
}
