package packet

import (
	"net/netip"
)

// AppendARPReply appends the reply to an ARP request for an IPv4 address: that
// the address asked for is at mac (RFC 826; arp_process in net/ipv4/arp.c).
// The frame goes to the sender's hardware address, from mac.
//
// dst is returned as it was for anything else than a request, and for one that
// asks nothing: a sender's announcement of its own address, or an address that
// no host can have. Probes from 0.0.0.0 (RFC 5227) are answered. Whether the
// address is ours is for the caller to see.
func AppendARPReply(dst, frame []byte, p *Packet, mac [6]byte) []byte {
	if p.Kind != ARP || p.ARPOp != 1 || !p.fits(frame) ||
		p.ARPSender == p.ARPTarget || isGroup(p.ARPSenderMAC[:]) ||
		p.ARPTarget.IsMulticast() || p.ARPTarget.IsLoopback() || p.ARPTarget.IsUnspecified() {
		return dst
	}
	dst = append(dst, p.ARPSenderMAC[:]...)
	dst = append(dst, mac[:]...)
	dst = append(dst, frame[12:p.L3]...)
	// The layout is at parseARP.
	dst = append(dst, 0, 1, 8, 0, 6, 4, 0, 2)
	dst = append(dst, mac[:]...)
	dst = append(dst, frame[p.L3+24:p.L3+28]...)
	dst = append(dst, p.ARPSenderMAC[:]...)
	return append(dst, frame[p.L3+14:p.L3+18]...)
}

const (
	neighborSolicit   = 135
	neighborAdvert    = 136
	optionSourceMAC   = 1
	optionTargetMAC   = 2
	flagSolicited     = 0x40
	flagOverride      = 0x20
	neighborHopLimit  = 255 // proves that no router forwarded it
	solicitHeaderSize = 24
)

// solicitedNode is the prefix of solicited-node multicast addresses, ff02::1:ff00:0/104.
var solicitedNode = netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff}), 104)

// allNodes is ff02::1, and allNodesMAC what it is on Ethernet (RFC 2464,
// section 7).
var (
	allNodes    = netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 15: 1})
	allNodesMAC = [6]byte{0x33, 0x33, 0, 0, 0, 1}
)

// NDTarget is the address that a neighbour solicitation asks for, and whether
// frame is one, valid by RFC 4861, section 7.1.1 (ndisc_recv_ns in
// net/ipv6/ndisc.c).
//
//	 0 type 135, code 0, checksum 2, reserved 4
//	 8 target 16
//	24 options: type 1, length 1 in 8 bytes with these two
func (p *Packet) NDTarget(frame []byte) (netip.Addr, bool) {
	if p.Kind != ICMP || !p.Is6 || p.ICMPType != neighborSolicit || p.ICMPCode != 0 ||
		p.TTL != neighborHopLimit || p.Fragment || !p.fits(frame) {
		return netip.Addr{}, false
	}
	b := frame[p.L4:p.End]
	if len(b) < solicitHeaderSize || !TransportIntact(frame, p) {
		return netip.Addr{}, false
	}
	// A sender without an address looks for one that is free (RFC 4862): it
	// asks the solicited-node address, and gives no MAC.
	probe := p.Source().IsUnspecified()
	if probe && !solicitedNode.Contains(p.Dest()) {
		return netip.Addr{}, false
	}
	for o := b[solicitHeaderSize:]; len(o) > 0; {
		if len(o) < 8 || o[1] == 0 || int(o[1])*8 > len(o) || probe && o[0] == optionSourceMAC {
			return netip.Addr{}, false
		}
		o = o[int(o[1])*8:]
	}
	target := netip.AddrFrom16([16]byte(b[8:]))
	if target.IsMulticast() {
		return netip.Addr{}, false
	}
	return target, true
}

// AppendNeighborAdvert appends the answer to a neighbour solicitation: that
// target is at mac, which is also where it is sent from (RFC 4861, section
// 7.2.4; ndisc_send_na). A solicitation without a source address is answered
// to all nodes. dst is returned as it was for anything else than a valid
// solicitation, see NDTarget, and when target is not an IPv6 address.
func AppendNeighborAdvert(dst, frame []byte, p *Packet, target netip.Addr, mac [6]byte) []byte {
	if _, ok := p.NDTarget(frame); !ok || !target.Is6() || p.Source().IsMulticast() || isGroup(frame[6:12]) {
		return dst
	}
	a := header{src: target, proto: ProtoICMPv6, hops: neighborHopLimit, payload: solicitHeaderSize + 8}
	to := [6]byte(frame[6:12])
	flags := uint8(flagSolicited | flagOverride)
	if p.Source().IsUnspecified() {
		a.dst, to, flags = allNodes, allNodesMAC, flagOverride
	}
	dst = append(dst, to[:]...)
	dst = append(dst, mac[:]...)
	dst = append(dst, frame[12:p.L3]...)
	dst, b := appendIPv6(dst, frame, p, a)
	b[0] = neighborAdvert
	b[4] = flags
	asked := target.As16()
	copy(b[8:24], asked[:])
	b[24], b[25] = optionTargetMAC, 1
	copy(b[26:32], mac[:])
	seal(dst, b, p, ProtoICMPv6, 2)
	return dst
}
