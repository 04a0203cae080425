package kernel

import (
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/moby/ipvs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// startIPVS has the kernel's own IPVS forward.
func startIPVS(s *site) {
	s.attach(actionPass)
	s.own()
	if s.vlan {
		s.tag()
	}
	s.must(s.director.Space.Do(func() error {
		h, err := ipvs.New("")
		if err != nil {
			return err
		}
		defer h.Close()
		const persistent, onePacket = 1, 4 // IP_VS_SVC_F_PERSISTENT, IP_VS_SVC_F_ONEPACKET
		service := &ipvs.Service{AddressFamily: unix.AF_INET, Netmask: 0xffffffff, SchedName: s.schedulerName()}
		if s.six {
			service.AddressFamily, service.Netmask = unix.AF_INET6, 128
		}
		to := uint16(0)
		if s.rules > 0 {
			service.FWMark = mark
			err = s.mark()
		} else {
			to = s.virtual().Port()
			service.Protocol, service.Address, service.Port = uint16(s.protocol()), s.virtual().Addr().AsSlice(), to
		}
		if s.onePacket {
			service.Flags |= onePacket
		}
		if s.persistence > 0 {
			service.Flags |= persistent
			service.Timeout = s.persistence
		}
		if err != nil {
			return err
		}
		if err := h.NewService(service); err != nil {
			return err
		}
		upper, lower := s.thresholds()
		for _, a := range s.reals() {
			d := &ipvs.Destination{
				AddressFamily: service.AddressFamily, Address: a.AsSlice(), Port: to, Weight: int(s.weight()),
				ConnectionFlags: ipvs.ConnectionFlagDirectRoute, UpperThreshold: upper, LowerThreshold: lower,
			}
			if err := h.NewDestination(service, d); err != nil {
				return err
			}
		}
		return nil
	}))
}

// protocol is the service's, as IP numbers it.
func (l load) protocol() byte {
	if l.udp {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// tag has the director's addresses and neighbours be in a VLAN.
func (s *site) tag() {
	s.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "vlan10", s.director.Index
	nl := s.director.Space.Netlink()
	s.must(nl.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: vlan, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}))
	link, at := s.link(attrs.Name), s.link(s.director.Name)
	s.must(s.director.Space.Sysctl("net.ipv4.conf.vlan10.rp_filter", "0"))
	s.must(s.director.Space.Sysctl("net.ipv4.conf.vlan10.send_redirects", "0"))
	s.must(nl.LinkSetUp(link))
	// With its last address an interface loses its routes.
	s.must(nl.AddrDel(at, &netlink.Addr{IPNet: ipNet(s.address())}))
	s.settleOn(link)
}

// mark is the firewall mark of services.
const mark = 1

// markRule gives what comes from a network (IPv4) to a port its mark.
type markRule struct {
	from netip.Prefix
	port uint16
}

// markRules are the rules, of which the last is for the service's packets.
func (l load) markRules() (list []markRule) {
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	for i := range l.rules - 1 {
		r := markRule{all, uint16(2000 + i)}
		if l.byClient {
			r = markRule{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i), 0}), 24), l.virtual().Port()}
		}
		list = append(list, r)
	}
	last := markRule{all, l.virtual().Port()}
	if l.byClient {
		last.from = l.clients()
	}
	return append(list, last)
}

// mark has the kernel give packets firewall marks, by rules that look at destination,
// protocol and port.
func (s *site) mark() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "mangle"})
	chain := c.AddChain(&nftables.Chain{
		Table: table, Name: "PREROUTING", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle,
	})
	for _, r := range s.markRules() {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: r.marking(s.virtual().Addr(), s.protocol())})
	}
	return c.Flush()
}

// marking marks what the rule is for, of what is sent to an address (IPv4) and protocol.
func (r markRule) marking(to netip.Addr, protocol byte) (list []expr.Any) {
	if n := r.from.Bits(); n > 0 {
		list = []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: net.CIDRMask(n, 32), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: r.from.Addr().AsSlice()},
		}
	}
	return append(list,
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: to.AsSlice()},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(r.port)},
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	)
}
