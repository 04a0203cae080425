package dataplanetest

import (
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/ulvs/ulvs/dataplane"
)

// Resolver is a dataplane.Resolver that knows what the test told it. Make one
// with NewResolver; it is safe for concurrent use.
type Resolver struct {
	// What the host has is asked for with each new connection, whose cost people
	// measure: no lock is taken.
	local  atomic.Pointer[map[netip.Addr]bool]
	locals atomic.Pointer[dataplane.Locals]
	links  atomic.Pointer[map[int]link]

	mu        sync.RWMutex
	neighbors map[netip.Addr]dataplane.Neighbor
	hops      map[netip.Addr]*hop
	wants     map[netip.Addr]int
	sources   map[int][]netip.Addr
	broadcast map[netip.Addr]bool
}

type hop struct {
	next *dataplane.NextHop
	refs int
}

type link struct {
	mac  dataplane.MAC
	name string
}

var _ dataplane.Resolver = (*Resolver)(nil)

// NewResolver makes a resolver to which every address is unreachable.
func NewResolver() *Resolver {
	r := &Resolver{
		neighbors: make(map[netip.Addr]dataplane.Neighbor),
		hops:      make(map[netip.Addr]*hop),
		wants:     make(map[netip.Addr]int),
		sources:   make(map[int][]netip.Addr),
		broadcast: make(map[netip.Addr]bool),
	}
	r.local.Store(new(map[netip.Addr]bool))
	r.locals.Store(new(dataplane.Locals))
	r.links.Store(new(map[int]link))
	return r
}

// with returns a map with another entry.
func with[K comparable, V any](m *map[K]V, k K, v V) *map[K]V {
	n := make(map[K]V, len(*m)+1)
	maps.Copy(n, *m)
	n[k] = v
	return &n
}

// Set says what addr resolves to, now and for hops that are asked for later.
func (r *Resolver) Set(addr netip.Addr, n dataplane.Neighbor) {
	addr = addr.Unmap()
	r.mu.Lock()
	r.neighbors[addr] = n
	h := r.hops[addr]
	r.mu.Unlock()
	if h != nil {
		h.next.Set(n) // sends parked frames, so without the lock
	}
}

// SetReachable is Set for a neighbour of MTU 1500 on interface ifindex.
func (r *Resolver) SetReachable(addr netip.Addr, ifindex int, dst dataplane.MAC) {
	src, _ := r.LinkAddr(ifindex)
	r.Set(addr, dataplane.Neighbor{State: dataplane.HopReachable, Ifindex: ifindex, MTU: 1500, Dst: dst, Src: src})
}

// SetLocal makes addr one of the host's own, or no longer.
func (r *Resolver) SetLocal(addr netip.Addr, yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	local := with(r.local.Load(), addr.Unmap(), yes)
	var all []netip.Prefix
	for a, is := range *local {
		if is {
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	r.local.Store(local)
	r.locals.Store(dataplane.NewLocals(all))
}

// SetLink says what interface ifindex is: its name, its link address, and its
// primary addresses, which Source picks from.
func (r *Resolver) SetLink(ifindex int, name string, mac dataplane.MAC, sources ...netip.Addr) {
	r.mu.Lock()
	r.links.Store(with(r.links.Load(), ifindex, link{mac, name}))
	r.sources[ifindex] = sources
	r.mu.Unlock()
}

// Wants returns how often frames asked for addr to be resolved.
func (r *Resolver) Wants(addr netip.Addr) int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.wants[addr.Unmap()]
}

// Refs returns how many NextHop calls for addr were not released yet.
func (r *Resolver) Refs(addr netip.Addr) int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if h := r.hops[addr.Unmap()]; h != nil {
		return h.refs
	}
	return 0
}

// NextHop implements dataplane.Resolver.
func (r *Resolver) NextHop(addr netip.Addr) *dataplane.NextHop {
	addr = addr.Unmap()
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.hops[addr]
	if h == nil {
		h = &hop{next: dataplane.NewNextHop(addr, r.want)}
		if n, ok := r.neighbors[addr]; ok {
			h.next.Set(n)
		} else if (*r.local.Load())[addr] {
			h.next.Set(dataplane.Neighbor{State: dataplane.HopLocal})
		}
		r.hops[addr] = h
	}
	h.refs++
	return h.next
}

func (r *Resolver) want(h *dataplane.NextHop) {
	r.mu.Lock()
	r.wants[h.Addr()]++
	r.mu.Unlock()
}

// Release implements dataplane.Resolver. It panics on one release too many:
// the code under test is wrong.
func (r *Resolver) Release(n *dataplane.NextHop) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.hops[n.Addr()]
	if h == nil || h.next != n {
		panic("dataplanetest: released more often than asked for: " + n.Addr().String())
	}
	if h.refs--; h.refs == 0 {
		delete(r.hops, n.Addr())
	}
}

// Local implements dataplane.Resolver.
func (r *Resolver) Local(addr netip.Addr) bool {
	return (*r.local.Load())[addr.Unmap()]
}

// Broadcast implements dataplane.Resolver.
func (r *Resolver) Broadcast(addr netip.Addr) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.broadcast[addr]
}

// SetBroadcast says that an address is a broadcast address of the host's networks.
func (r *Resolver) SetBroadcast(addr netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broadcast[addr] = true
}

// Locals implements dataplane.Resolver.
func (r *Resolver) Locals() *dataplane.Locals { return r.locals.Load() }

// Source implements dataplane.Resolver.
func (r *Resolver) Source(ifindex int, like netip.Addr) netip.Addr {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, a := range r.sources[ifindex] {
		if a.Is4() == like.Unmap().Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// LinkAddr implements dataplane.Resolver.
func (r *Resolver) LinkAddr(ifindex int) (dataplane.MAC, bool) {
	l, ok := (*r.links.Load())[ifindex]
	return l.mac, ok
}

// LinkName implements dataplane.Resolver.
func (r *Resolver) LinkName(ifindex int) string {
	return (*r.links.Load())[ifindex].name
}
