package neigh

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// snapshot is what packets ask about, immutable once made, so that they ask
// without a lock.
type snapshot struct {
	// What is local: addresses, and ranges such as 127.0.0.0/8. IPv4 is by words, of
	// which maps find one in a fifth of the instructions: each new connection asks.
	addrs4    map[uint32]struct{}
	addrs6    map[[16]byte]struct{}
	prefixes4 []prefix4
	prefixes6 []netip.Prefix
	// broadcasts are the broadcast addresses of the host's networks.
	broadcasts map[netip.Addr]struct{}
	locals     *dataplane.Locals
	links      map[int]link
	first4     netip.Addr // of any interface, for those that have none
	first6     netip.Addr
}

type link struct {
	name           string
	mac            dataplane.MAC
	mtu            int
	ethernet       bool
	noARP          bool
	source4        netip.Addr
	source6        netip.Addr
	source6IsLocal bool // source6 is link-local: a global one is better
	linkLocal      netip.Addr
	prefixes4      []netip.Prefix // its addresses, with their networks
}

func newSnapshot() *snapshot {
	return &snapshot{addrs4: make(map[uint32]struct{}), addrs6: make(map[[16]byte]struct{}),
		broadcasts: make(map[netip.Addr]struct{}), locals: new(dataplane.Locals), links: make(map[int]link)}
}

// prefix4 is a range of IPv4 addresses.
type prefix4 struct{ addr, mask uint32 }

func (s *snapshot) local(a netip.Addr) bool {
	if a.Is4() {
		b := a.As4()
		addr := binary.BigEndian.Uint32(b[:])
		if _, ok := s.addrs4[addr]; ok {
			return true
		}
		for _, p := range s.prefixes4 {
			if addr&p.mask == p.addr {
				return true
			}
		}
		return false
	}
	if _, ok := s.addrs6[a.As16()]; ok {
		return true
	}
	for _, p := range s.prefixes6 {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// addLocal makes a range local, which may be one address.
func (s *snapshot) addLocal(p netip.Prefix) {
	p = p.Masked()
	switch a := p.Addr(); {
	case a.Is4():
		b := a.As4()
		addr := binary.BigEndian.Uint32(b[:])
		if p.IsSingleIP() {
			s.addrs4[addr] = struct{}{}
		} else {
			s.prefixes4 = append(s.prefixes4, prefix4{addr, ^(1<<(32-p.Bits()) - 1)})
		}
	case p.IsSingleIP():
		s.addrs6[a.As16()] = struct{}{}
	default:
		s.prefixes6 = append(s.prefixes6, p)
	}
}

func (s *snapshot) source(ifindex int, like netip.Addr) netip.Addr {
	l := s.links[ifindex]
	own, any := l.source6, s.first6
	if like.Unmap().Is4() {
		own, any = l.source4, s.first4
	}
	if own.IsValid() {
		return own
	}
	return any
}

// keepLocals goes on with the Locals of the snapshot before if the addresses are the same: who has
// those asks whether they are others.
func (s *snapshot) keepLocals(was *snapshot) {
	if was != nil && maps.Equal(s.addrs4, was.addrs4) && maps.Equal(s.addrs6, was.addrs6) &&
		slices.Equal(s.prefixes4, was.prefixes4) && slices.Equal(s.prefixes6, was.prefixes6) {
		s.locals = was.locals
	}
}

func readSnapshot(k *netlink.Handle) (*snapshot, error) {
	s := newSnapshot()
	links, err := k.LinkList()
	if err != nil && !interrupted(err) {
		return nil, fmt.Errorf("cannot list links: %w", err)
	}
	for _, found := range links {
		a := found.Attrs()
		l := link{
			name:  a.Name,
			mtu:   a.MTU,
			noARP: a.RawFlags&unix.IFF_NOARP != 0,
			// Not "loopback", although it has six bytes of zero.
			ethernet: a.EncapType == "ether" && len(a.HardwareAddr) == 6,
		}
		if l.ethernet {
			l.mac = dataplane.MAC(a.HardwareAddr)
		}
		s.links[a.Index] = l
	}
	if err := s.readSources(k); err != nil {
		return nil, err
	}
	return s, s.readLocal(k)
}

// readSources picks each interface's primary addresses. The kernel lists them
// in the order in which it prefers them.
func (s *snapshot) readSources(k *netlink.Handle) error {
	addrs, err := k.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !interrupted(err) {
		return fmt.Errorf("cannot list addresses: %w", err)
	}
	for _, a := range addrs {
		if a.IPNet == nil || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DEPRECATED|unix.IFA_F_DADFAILED) != 0 ||
			a.Scope == unix.RT_SCOPE_HOST {
			continue
		}
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		ip = ip.Unmap()
		l, known := s.links[a.LinkIndex]
		if !known {
			continue
		}
		switch {
		// IFA_F_SECONDARY means a temporary (privacy) address in IPv6.
		case a.Flags&unix.IFA_F_SECONDARY != 0:
		case ip.Is4():
			if p, ok := prefix(a.IPNet); ok {
				l.prefixes4 = append(l.prefixes4, p)
			}
			if !l.source4.IsValid() {
				l.source4 = ip
			}
			if !s.first4.IsValid() && a.Scope != unix.RT_SCOPE_LINK {
				s.first4 = ip
			}
		default:
			linkLocal := ip.IsLinkLocalUnicast()
			if linkLocal {
				l.linkLocal = ip
			}
			if !l.source6.IsValid() || (l.source6IsLocal && !linkLocal) {
				l.source6, l.source6IsLocal = ip, linkLocal
			}
			if !s.first6.IsValid() && !linkLocal {
				s.first6 = ip
			}
		}
		s.links[a.LinkIndex] = l
	}
	return nil
}

// readLocal reads the local tables, by which the kernel itself decides what
// is its own (inet_addr_type in net/ipv4/fib_frontend.c).
func (s *snapshot) readLocal(k *netlink.Handle) error {
	var all []netip.Prefix
	filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL}
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := k.RouteListFiltered(fam, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
		if err != nil && !interrupted(err) {
			return fmt.Errorf("cannot list local routes: %w", err)
		}
		for _, rt := range routes {
			if p, ok := prefix(rt.Dst); ok {
				s.addLocal(p)
				all = append(all, p.Masked())
			}
		}
	}
	s.locals = dataplane.NewLocals(all)
	filter.Type = unix.RTN_BROADCAST
	routes, err := k.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	if err != nil && !interrupted(err) {
		return fmt.Errorf("cannot list broadcast routes: %w", err)
	}
	for _, rt := range routes {
		if p, ok := prefix(rt.Dst); ok && p.IsSingleIP() {
			s.broadcasts[p.Addr()] = struct{}{}
		}
	}
	return nil
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	a = a.Unmap()
	return netip.PrefixFrom(a, ones), ok && bits == a.BitLen()
}
