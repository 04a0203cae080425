// Package neigh finds next hops by rtnetlink: the route to an address, the
// neighbour that the route leads to, its link address, the MTU. It follows
// the kernel's notifications, and asks neighbours again by itself, because no
// packet of the kernel's own uses a real server's entry: the kernel alone
// would believe an old address for as long as nobody contradicts it.
//
// The kernel's table has room for so many neighbours (gc_thresh3), which strangers can
// fill. What is thrown out of it is used further, and asked for on the wire.
package neigh

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Options configure a Resolver. The zero value works.
type Options struct {
	// Verify is how often each neighbour in use is asked whether it is still
	// there under the same link address. A neighbour that changed its address
	// without a word is found within Verify plus three seconds: the kernel's
	// three unicast probes (net.ipv4.neigh.*.ucast_solicit), then a broadcast.
	// 0 means 3 seconds.
	Verify time.Duration
	// HoldDown is how long a neighbour that did not answer is reported as
	// unreachable. After it the next frame waits while the neighbour is asked
	// again. 0 means 1 second.
	HoldDown time.Duration
	// Egress, if not nil, is told by which interface a next hop is reached before it is:
	// what sends there can be made by then. It is called with locks held and must not call
	// the resolver.
	Egress func(ifindex int)
	// Logger is told of overflows and of what the kernel refuses; nil means
	// slog.Default().
	Logger *slog.Logger
}

// Resolver is a dataplane.Resolver that follows the kernel's tables, in the
// network namespace of the thread that called New. Make one with New; it is
// safe for concurrent use.
type Resolver struct {
	opt    Options
	log    *slog.Logger
	kernel *netlink.Handle
	one    map[int]*nl.SocketHandle // for requests that kernel has no method for
	// setNeighbor is kernel.NeighSet, which tests have refused.
	setNeighbor func(*netlink.Neigh) error
	events      *socket
	wire        *solicitor // nil without CAP_NET_RAW
	wants       chan *hop
	moved       chan struct{} // LocalsChanged
	snap        atomic.Pointer[snapshot]
	closed      sync.Once

	mu      sync.Mutex
	hops    map[netip.Addr]*hop
	entries map[key]*entry // neighbours that hops lead to
	budget  budget         // of our own questions
	// unsettled is true from a change of routes, links or addresses until they are looked at.
	unsettled bool
	// When it was last logged that a neighbour cannot be asked, that the kernel does not
	// ask, and that notifications were lost.
	complainedAt, fullAt, lostAt time.Time

	kept, asked atomic.Uint64
}

var (
	_ dataplane.Resolver = (*Resolver)(nil)
	_ dataplane.Noticing = (*Resolver)(nil)
)

// hop is one address that somebody asked for.
type hop struct {
	next  *dataplane.NextHop
	refs  int
	route route
	entry *entry // nil when the route leads to no neighbour
	// wanted is true while the hop waits in Resolver.wants, so that a flood
	// of parked frames is one request.
	wanted atomic.Bool
}

// New makes a resolver and reads the kernel's tables. It needs no privileges
// to read, CAP_NET_ADMIN to have neighbours asked, and CAP_NET_RAW to ask those that the
// kernel's table has no room for. Run must be called for
// changes to be followed; Close gives back the sockets of one that never ran.
func New(opt Options) (*Resolver, error) {
	if opt.Verify < 0 || opt.HoldDown < 0 {
		return nil, fmt.Errorf("negative interval (Verify %v, HoldDown %v): give 0 for the default", opt.Verify, opt.HoldDown)
	}
	if opt.Verify == 0 {
		opt.Verify = 3 * time.Second
	}
	if opt.HoldDown == 0 {
		opt.HoldDown = time.Second
	}
	r := &Resolver{
		opt:     opt,
		log:     opt.Logger,
		wants:   make(chan *hop, 1024),
		moved:   make(chan struct{}, 1),
		hops:    make(map[netip.Addr]*hop),
		entries: make(map[key]*entry),
	}
	if r.log == nil {
		r.log = slog.Default()
	}
	// Subscribe before reading, so that no change falls between the two.
	var err error
	if r.events, err = subscribe(); err != nil {
		return nil, fmt.Errorf("cannot subscribe to rtnetlink: %w", err)
	}
	r.kernel, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	if err == nil {
		r.setNeighbor = r.kernel.NeighSet
		r.one, err = query()
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("cannot open rtnetlink: %w", err)
	}
	r.wire, err = openSolicitor()
	if err != nil && !errors.Is(err, unix.EPERM) {
		r.Close()
		return nil, fmt.Errorf("cannot open sockets for ARP and neighbour discovery: %w", err)
	}
	if err := r.resync(false); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Close gives back the resolver's sockets. Run does it when it ends.
func (r *Resolver) Close() {
	r.closed.Do(func() {
		r.events.close()
		r.mu.Lock() // NextHop may be using them
		defer r.mu.Unlock()
		if r.kernel != nil {
			r.kernel.Close()
		}
		for _, h := range r.one {
			h.Close()
		}
		if r.wire != nil {
			r.wire.close()
		}
	})
}

// Counters are the resolver's own, by name: safe to call at any time.
func (r *Resolver) Counters() map[string]uint64 {
	return map[string]uint64{
		"next_hops_kept":  r.kept.Load(),  // thrown out of the kernel's table, and used further
		"next_hops_asked": r.asked.Load(), // ARP requests and neighbour solicitations of our own
	}
}

// NextHop implements dataplane.Resolver. It asks the kernel for the route,
// which takes some 20 microseconds, and starts asking the neighbour.
func (r *Resolver) NextHop(addr netip.Addr) *dataplane.NextHop {
	addr = addr.Unmap()
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.hops[addr]; h != nil {
		h.refs++
		return h.next
	}
	h := &hop{refs: 1}
	h.next = dataplane.NewNextHop(addr, func(*dataplane.NextHop) { r.want(h) })
	r.hops[addr] = h
	now := time.Now()
	r.reroute(h, now)
	// Nobody else knows this hop yet, so nothing can be parked in it.
	h.next.Set(r.neighbor(h, now))
	return h.next
}

// Release implements dataplane.Resolver. After the last release the hop is
// unreachable for good, and what is parked in it is given up.
func (r *Resolver) Release(n *dataplane.NextHop) {
	r.mu.Lock()
	h := r.hops[n.Addr()]
	if h == nil || h.next != n {
		r.mu.Unlock()
		return
	}
	h.refs--
	last := h.refs == 0
	if last {
		delete(r.hops, n.Addr())
		r.detach(h)
	}
	r.mu.Unlock()
	if last {
		n.Set(dataplane.Neighbor{State: dataplane.HopUnreachable})
	}
}

// want passes on that a frame waits for h. It is called for every parked
// frame, and must not wait for the kernel.
func (r *Resolver) want(h *hop) {
	if h.wanted.CompareAndSwap(false, true) {
		select {
		case r.wants <- h:
		default:
			h.wanted.Store(false) // the next frame tries again
			return
		}
	}
	// A neighbour that did not answer is asked again for this frame, which
	// waits for that, as the kernel's would (__neigh_event_send).
	if n := *h.next.Neighbor(); n.State == dataplane.HopUnreachable && n.Ifindex != 0 {
		n.State = dataplane.HopResolving
		h.next.Set(n)
	}
}

// Local implements dataplane.Resolver by the kernel's local routing tables,
// so it knows 127.0.0.0/8 and "ip route add local" too.
func (r *Resolver) Local(addr netip.Addr) bool { return r.snap.Load().local(addr) }

// Broadcast implements dataplane.Resolver, by the same tables.
func (r *Resolver) Broadcast(addr netip.Addr) bool {
	_, ok := r.snap.Load().broadcasts[addr]
	return ok
}

// LocalsChanged implements dataplane.Noticing. There may be a message though nothing changed.
func (r *Resolver) LocalsChanged() <-chan struct{} { return r.moved }

// Locals implements dataplane.Resolver.
func (r *Resolver) Locals() *dataplane.Locals { return r.snap.Load().locals }

// Source implements dataplane.Resolver: the interface's primary address, or,
// if it has none, the first one of another interface (inet_select_addr in
// net/ipv4/devinet.c does the same).
func (r *Resolver) Source(ifindex int, like netip.Addr) netip.Addr {
	return r.snap.Load().source(ifindex, like)
}

// LinkAddr implements dataplane.Resolver.
func (r *Resolver) LinkAddr(ifindex int) (dataplane.MAC, bool) {
	l, ok := r.snap.Load().links[ifindex]
	return l.mac, ok && l.ethernet
}

// LinkName implements dataplane.Resolver.
func (r *Resolver) LinkName(ifindex int) string { return r.snap.Load().links[ifindex].name }

// attach makes h use the neighbour k.
func (r *Resolver) attach(h *hop, k key) {
	e := r.entries[k]
	if e == nil {
		e = newEntry(k, r.inKernel(k), r.opt.Verify)
		r.entries[k] = e
	}
	h.entry = e
	e.hops = append(e.hops, h)
}

func (r *Resolver) detach(h *hop) {
	e := h.entry
	if e == nil {
		return
	}
	h.entry = nil
	for i, other := range e.hops {
		if other == h {
			e.hops = append(e.hops[:i], e.hops[i+1:]...)
			break
		}
	}
	if len(e.hops) == 0 {
		delete(r.entries, e.key)
	}
}

// neighbor returns what h should publish now.
func (r *Resolver) neighbor(h *hop, now time.Time) dataplane.Neighbor {
	link := r.snap.Load().links[h.route.ifindex]
	n := dataplane.Neighbor{Ifindex: h.route.ifindex, MTU: h.route.mtu, Src: link.mac}
	if n.MTU == 0 {
		n.MTU = link.mtu
	}
	switch {
	case h.route.local:
		n.State = dataplane.HopLocal
		n.Src = dataplane.MAC{}
	case h.entry == nil && r.unsettled:
		// There may be a route by now, as an interface's that has come up: what is sent
		// meanwhile waits, and is not answered.
		return dataplane.Neighbor{State: dataplane.HopResolving}
	case h.entry == nil:
		return dataplane.Neighbor{State: dataplane.HopUnreachable}
	case h.entry.valid():
		n.State, n.Dst = dataplane.HopReachable, h.entry.mac
	case now.Before(h.entry.deadUntil) && !h.wanted.Load():
		n.State = dataplane.HopUnreachable
	default:
		n.State = dataplane.HopResolving
	}
	return n
}
