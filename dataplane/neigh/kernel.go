package neigh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// route is what a lookup said. The zero value leads nowhere.
type route struct {
	local   bool
	ifindex int
	via     netip.Addr // the neighbour: the gateway, or the address itself
	mtu     int        // the route's own MTU; 0: the link's
}

// lookup asks for the route to addr, as a packet sent by this host would.
// Any error means that there is none: the kernel says so in several ways
// (ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL for a blackhole).
func (r *Resolver) lookup(addr netip.Addr) route {
	var opt netlink.RouteGetOptions
	if zone := addr.Zone(); zone != "" {
		opt.Oif = zone
		addr = addr.WithZone("")
	}
	found, err := r.kernel.RouteGetWithOptions(net.IP(addr.AsSlice()), &opt)
	if err != nil || len(found) == 0 {
		return route{}
	}
	f := found[0]
	switch f.Type {
	case unix.RTN_LOCAL:
		return route{local: true, ifindex: f.LinkIndex, mtu: f.MTU}
	case unix.RTN_UNICAST:
	default:
		return route{}
	}
	out := route{ifindex: f.LinkIndex, via: addr, mtu: f.MTU}
	gateway := f.Gw
	if via, ok := f.Via.(*netlink.Via); ok { // IPv4 by way of an IPv6 gateway
		gateway = via.Addr
	}
	if gw, ok := netip.AddrFromSlice(gateway); ok && !gw.IsUnspecified() {
		out.via = gw.Unmap()
	}
	return out
}

// reroute looks h's route up again and attaches it to its neighbour.
func (r *Resolver) reroute(h *hop, now time.Time) {
	rt := r.lookup(h.next.Addr())
	same := rt == h.route && (h.entry != nil || rt.local)
	h.route = rt
	if same {
		return
	}
	r.detach(h)
	if rt.local || rt.ifindex == 0 {
		return
	}
	if !r.snap.Load().links[rt.ifindex].ethernet {
		h.route = route{} // a tunnel or the like: no plane sends there
		return
	}
	if r.opt.Egress != nil {
		r.opt.Egress(rt.ifindex)
	}
	r.attach(h, key{ifindex: rt.ifindex, addr: rt.via})
	if e := h.entry; !e.valid() && !e.asking() {
		r.resolve(e, now)
	}
}

// resync reads links, addresses and, if all is true, neighbours anew, and
// looks every hop's route up again.
func (r *Resolver) resync(all bool) error {
	s, err := readSnapshot(r.kernel)
	if err != nil {
		return err
	}
	var table map[key]state
	if all {
		if table, err = readNeighbours(r.kernel); err != nil {
			return err
		}
	}
	now := time.Now()
	r.mu.Lock()
	s.keepLocals(r.snap.Load())
	r.snap.Store(s)
	select {
	case r.moved <- struct{}{}:
	default: // nobody has taken the last one
	}
	r.unsettled = false
	if all {
		for k, e := range r.entries {
			s, there := table[k]
			r.learn(e, s, !there, now)
		}
	}
	for _, h := range r.hops {
		r.reroute(h, now)
	}
	changes := r.changes(now)
	r.mu.Unlock()
	publish(changes)
	return nil
}

// query opens a socket for requests that netlink.Handle has no method for, in the
// calling thread's network namespace.
func query() (map[int]*nl.SocketHandle, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}, nil
}

// inKernel is the kernel's word about one neighbour; the zero value if it has none, or does
// not say (it does from Linux 5.0 on), so that it is asked for.
func (r *Resolver) inKernel(k key) state {
	q := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	q.Sockets = r.one
	q.AddData(&netlink.Ndmsg{Family: uint8(family(k.addr)), Index: uint32(k.ifindex)})
	q.AddData(nl.NewRtAttr(netlink.NDA_DST, k.addr.AsSlice()))
	messages, err := q.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	if err != nil || len(messages) == 0 {
		return state{}
	}
	_, s, _ := decodeMessage(messages[0])
	return s
}

// interrupted reports a dump during which the table changed: what it says
// may be incomplete, and the notifications of the change make it whole.
func interrupted(err error) bool { return errors.Is(err, netlink.ErrDumpInterrupted) }

func readNeighbours(k *netlink.Handle) (map[key]state, error) {
	table := make(map[key]state)
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := k.NeighList(0, fam)
		if err != nil && !interrupted(err) {
			return nil, fmt.Errorf("cannot list neighbours: %w", err)
		}
		for i := range list {
			if key, s, ok := decode(&list[i]); ok {
				table[key] = s
			}
		}
	}
	return table, nil
}

// decodeMessage is decode of what a message says.
func decodeMessage(b []byte) (key, state, bool) {
	n, err := netlink.NeighDeserialize(b)
	if err != nil {
		return key{}, state{}, false
	}
	return decode(n)
}

// decode translates the library's form of a neighbour. False: not an IP
// neighbour (a bridge's forwarding entry, a proxy).
func decode(n *netlink.Neigh) (key, state, bool) {
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok || n.Flags&netlink.NTF_PROXY != 0 ||
		(n.Family != netlink.FAMILY_V4 && n.Family != netlink.FAMILY_V6) {
		return key{}, state{}, false
	}
	s := state{nud: n.State}
	if len(n.HardwareAddr) == len(dataplane.MAC{}) {
		s.mac, s.has = dataplane.MAC(n.HardwareAddr), true
	}
	return key{ifindex: n.LinkIndex, addr: addr.Unmap()}, s, true
}
