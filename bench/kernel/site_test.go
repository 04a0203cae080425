package kernel

import (
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"

	"github.com/ulvs/ulvs/bench/wire"
	"github.com/ulvs/ulvs/internal/lab"
)

// site is a contender with a load: the generator's interface, the sink, and the
// director's interface, which has addresses and knows the real servers.
type site struct {
	*testing.T
	load
	who            contender
	node, director wire.End
	sink           *wire.Sink
	senders        []*wire.Generator // of the load's steps
}

// newSite has a contender ready for a load, its connections opened.
func newSite(t *testing.T, l load, who contender) *site {
	t.Helper()
	s := &site{T: t, load: l, who: who}
	n, err := wire.NewNet()
	s.must(err)
	t.Cleanup(func() { s.must(n.Close()) })
	s.node, s.director, err = n.Loop()
	s.must(err)
	s.number(&s.node, generatorMAC)
	s.number(&s.director, directorMAC)
	for _, c := range [][2]string{
		{"net.ipv4.ip_forward", "1"},
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.dir0.rp_filter", "0"},
		// Packets leave as they came, which is not to be told to the clients.
		{"net.ipv4.conf.all.send_redirects", "0"},
		{"net.ipv4.conf.dir0.send_redirects", "0"},
	} {
		s.must(s.director.Space.Sysctl(c[0], c[1]))
	}
	if s.six {
		s.allow6()
	}
	s.settleOn(s.link(s.director.Name))
	s.catch()
	who.start(s)
	if who.opens {
		s.open()
	}
	for _, t := range l.steps() {
		s.senders = append(s.senders, s.generator(t))
	}
	return s
}

// The last byte of a link address is what sinks count by: real servers have their
// numbers, from 1 on, the director has 0, and the generator one that does not count.
var generatorMAC, directorMAC = lab.MAC(0x1ff), lab.MAC(0x100)

// number gives an interface its link address.
func (s *site) number(e *wire.End, mac net.HardwareAddr) {
	s.Helper()
	nl := e.Space.Netlink()
	link, err := nl.LinkByName(e.Name)
	s.must(err)
	s.must(nl.LinkSetHardwareAddr(link, mac))
	e.MAC = mac
}

// allow6 gives the director IPv6, of which it sends nothing by itself.
func (s *site) allow6() {
	s.Helper()
	for _, c := range [][2]string{
		{"net.ipv6.conf.dir0.addr_gen_mode", "1"}, // no link-local address
		{"net.ipv6.conf.dir0.router_solicitations", "0"},
		{"net.ipv6.conf.dir0.accept_dad", "0"},
		{"net.ipv6.conf.lo.disable_ipv6", "0"},
		{"net.ipv6.conf.dir0.disable_ipv6", "0"},
		{"net.ipv6.conf.all.forwarding", "1"},
	} {
		s.must(s.director.Space.Sysctl(c[0], c[1]))
	}
}

// link is one of the director's interfaces.
func (s *site) link(name string) netlink.Link {
	s.Helper()
	link, err := s.director.Space.Netlink().LinkByName(name)
	s.must(err)
	return link
}

// settleOn has the director be on an interface: its address, its neighbours and the
// clients' network, where answers would go, if there were any.
func (s *site) settleOn(link netlink.Link) {
	s.Helper()
	nl, index := s.director.Space.Netlink(), link.Attrs().Index
	s.must(nl.AddrAdd(link, &netlink.Addr{IPNet: ipNet(s.address())}))
	for i, a := range s.reals() {
		s.must(nl.NeighSet(&netlink.Neigh{
			LinkIndex: index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: lab.MAC(uint32(i + 1)),
		}))
	}
	s.must(nl.RouteAdd(&netlink.Route{LinkIndex: index, Dst: ipNet(s.clients()), Scope: netlink.SCOPE_LINK}))
}

// own puts the virtual address on the director.
func (s *site) own() {
	s.Helper()
	s.must(s.director.Space.Netlink().AddrAdd(s.link("lo"), &netlink.Addr{IPNet: ipNet(host(s.virtual().Addr()))}))
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// catch puts the sink in its place. Only what it is in front of, and where, differs
// from contender to contender: in the director's place for the wire, and otherwise at
// the generator's interface. What is sent to many does not count.
func (s *site) catch() {
	s.Helper()
	at := s.director
	if s.who.sends {
		at = s.node
	}
	sink, err := wire.NewSink(at, wire.SinkOptions{
		Rooms: manyServers + 1, Stack: s.who.by == skbs,
		Room: asm.Instructions{
			asm.LoadMem(asm.R1, wire.FrameReg, 0, asm.Byte),
			asm.And.Imm(asm.R1, 1),
			asm.JNE.Imm(asm.R1, 0, wire.Other),
			asm.LoadMem(asm.R0, wire.FrameReg, 5, asm.Byte),
		},
	})
	s.must(err)
	s.Cleanup(sink.Close)
	s.sink = sink
}
