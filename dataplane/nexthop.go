package dataplane

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// MAC is an Ethernet address.
type MAC [6]byte

// HopState says how far a next hop is resolved.
type HopState uint8

const (
	// HopUnreachable: no route leads there, or the neighbour did not answer.
	// The kernel answers such packets with host unreachable.
	HopUnreachable HopState = iota
	// HopResolving: route known, link address not yet. Packets are parked.
	HopResolving
	// HopReachable: Neighbor's link addresses may be used.
	HopReachable
	// HopLocal: the address is the director's own (IPVS's LOCALNODE); its
	// packets are passed to the host's stack.
	HopLocal
)

// Neighbor is what an address resolves to at one moment. It is immutable:
// a change is a new Neighbor.
type Neighbor struct {
	State   HopState
	Ifindex int // interface that leads there; 0 when no route does
	MTU     int // of the route or else of the link, in bytes of layer 3; 0 unknown
	Dst     MAC // the neighbour's address; valid when State is HopReachable
	Src     MAC // the interface's own address
}

// ParkLimit is how many frames a NextHop keeps while it is being resolved, and
// ParkBytes how many bytes they have together. The kernel keeps 212,992 bytes a
// neighbour (neigh/default/unres_qlen_bytes), which is about that many full-sized
// frames, and few of those that the kernel has merged.
const (
	ParkLimit = 101
	ParkBytes = 212_992
)

// NextHop is the live next hop of one real server. Resolvers make and update
// it, handlers read it for MTU and state, planes for link addresses. It is
// safe for concurrent use.
type NextHop struct {
	addr netip.Addr
	cur  atomic.Pointer[Neighbor]

	mu     sync.Mutex
	parked []parked
	bytes  int            // in parked
	wanted func(*NextHop) // asks the resolver to probe; may be nil
	failed func(*Frame) bool
	lost   atomic.Uint64
}

type parked struct {
	frame Frame
	send  func(*Frame)
}

var unreachable = &Neighbor{State: HopUnreachable}

// NewNextHop makes an unreachable next hop for addr. want, if not nil, is
// called without locks held each time a frame is parked while the hop is
// being resolved, so that its resolver can probe.
func NewNextHop(addr netip.Addr, want func(*NextHop)) *NextHop {
	h := &NextHop{addr: addr, wanted: want}
	h.cur.Store(unreachable)
	return h
}

// Addr returns the address that this hop leads to.
func (h *NextHop) Addr() netip.Addr { return h.addr }

// Neighbor returns the hop's present state; never nil.
func (h *NextHop) Neighbor() *Neighbor { return h.cur.Load() }

// Lost returns how many parked frames were given up since the hop was made:
// because too many waited, or because resolution failed.
func (h *NextHop) Lost() uint64 { return h.lost.Load() }

// Set publishes a new state. Parked frames are sent when it is reachable, in
// the order in which they came, and given up (counted in Lost) when it is
// unreachable.
func (h *NextHop) Set(n Neighbor) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n.State == HopResolving {
		h.cur.Store(&n)
		return
	}
	queue := h.parked
	h.parked, h.bytes = nil, 0
	if n.State == HopReachable {
		// Frames that come meanwhile still see the old state and wait in Park
		// for the lock, so they do not overtake those that waited. That is
		// why the waiting ones are given a hop of their own, resolved already.
		resolved := &NextHop{addr: h.addr}
		resolved.cur.Store(&n)
		for i := range queue {
			queue[i].frame.Hop = resolved
			queue[i].send(&queue[i].frame)
			queue[i].frame.Leave()
		}
	}
	h.cur.Store(&n)
	if n.State != HopReachable {
		for i := range queue {
			h.lose(&queue[i])
		}
	}
}

// lose gives a frame up. The caller holds mu.
func (h *NextHop) lose(p *parked) {
	h.lost.Add(1)
	if h.failed != nil && h.failed(&p.frame) {
		p.send(&p.frame)
	}
	p.frame.Leave()
}

// OnLost has f look at each frame that is given up because the hop cannot be
// resolved; f may make an answer of it, to be sent back, and reports whether it
// did. It is called with the hop's lock held, and must not call its methods.
func (h *NextHop) OnLost(f func(*Frame) bool) {
	h.mu.Lock()
	h.failed = f
	h.mu.Unlock()
}

// Park keeps a copy of f until the hop is resolved, and then gives the copy to
// send, from the resolver's goroutine. It reports false, and keeps nothing,
// when the hop has been resolved meanwhile, so that the caller sends f itself.
// Beyond ParkLimit and ParkBytes the oldest frames are given up, as the kernel does
// (net/core/neighbour.c, __neigh_event_send).
func (h *NextHop) Park(f *Frame, send func(*Frame)) bool {
	h.mu.Lock()
	if h.cur.Load().State == HopUnreachable {
		// The resolver may know a new way by now, or try again.
		h.mu.Unlock()
		h.want()
		h.mu.Lock()
	}
	switch h.cur.Load().State {
	case HopReachable, HopLocal:
		h.mu.Unlock()
		return false
	case HopUnreachable:
		h.lose(copied(f, send))
		h.mu.Unlock()
		return true
	}
	for n := len(h.parked); n > 0 && (n >= ParkLimit || h.bytes+len(f.Data) > ParkBytes); n-- {
		h.bytes -= len(h.parked[0].frame.Data)
		h.parked[0].frame.Leave()
		h.parked = slices.Delete(h.parked, 0, 1)
		h.lost.Add(1)
	}
	h.parked = append(h.parked, *copied(f, send))
	h.bytes += len(f.Data)
	h.mu.Unlock()
	h.want()
	return true
}

// copied copies f into memory of its own. It is the copy that leaves.
func copied(f *Frame, send func(*Frame)) *parked {
	c := *f
	f.Left = nil
	c.Data, c.Room = append([]byte(nil), f.Data...), nil
	return &parked{frame: c, send: send}
}

func (h *NextHop) want() {
	if h.wanted != nil {
		h.wanted(h)
	}
}

// Noticing is a Resolver that says at once that the host's own addresses have changed.
type Noticing interface {
	// LocalsChanged has a message when Locals may have changed since the last one was
	// taken. It is for one reader.
	LocalsChanged() <-chan struct{}
}

// Resolver finds next hops and keeps them current.
type Resolver interface {
	// NextHop returns the live next hop of addr, and starts resolving it. The
	// same address gives the same NextHop until it was released as often as
	// it was asked for. It does not wait.
	NextHop(addr netip.Addr) *NextHop
	// Release gives back one NextHop call.
	Release(h *NextHop)
	// Local reports whether addr is one of the host's own addresses now. It
	// is cheap enough to be asked for a packet, and allocates nothing.
	Local(addr netip.Addr) bool
	// Broadcast reports whether addr is a broadcast address of the host's networks now.
	Broadcast(addr netip.Addr) bool
	// Locals is all of what Local says yes to; not nil.
	Locals() *Locals
	// Source is the address that the host would use to send an ICMP error
	// from interface ifindex to a neighbour there, of the same family as
	// like; the zero Addr when it has none.
	Source(ifindex int, like netip.Addr) netip.Addr
	// LinkAddr is the MAC address of interface ifindex; false if unknown.
	LinkAddr(ifindex int) (MAC, bool)
	// LinkName is the name of interface ifindex; "" if unknown. It allocates
	// nothing.
	LinkName(ifindex int) string
}
