package packet

import (
	"net/netip"
)

// Announcement is a frame that tells everybody at which link address an IP address is: a gratuitous
// ARP request (RFC 5227, section 3), or an unsolicited neighbour advertisement (RFC 4861, section
// 7.2.6).
func Announcement(a netip.Addr, mac [6]byte) []byte {
	if a.Is4() {
		return arpRequest(mac, a, a)
	}
	return discovery(mac, allNodesMAC, a, allNodes, func(b []byte) {
		target := a.As16()
		b[0], b[4], b[24] = neighborAdvert, flagOverride, optionTargetMAC
		copy(b[8:], target[:])
	})
}

// Question is a frame that asks everybody who has an address: an ARP request, or a neighbour
// solicitation. from is the asking host's own address; without one, ARP asks without (RFC 5227,
// section 1.1), and for IPv6 there is no question.
func Question(a, from netip.Addr, mac [6]byte) (frame []byte, ok bool) {
	if a.Is4() {
		if !from.Is4() {
			from = netip.IPv4Unspecified()
		}
		return arpRequest(mac, from, a), true
	}
	if !from.Is6() {
		return nil, false
	}
	target := a.As16()
	node := solicitedNode.Addr().As16()
	copy(node[13:], target[13:])
	return discovery(mac, [6]byte{0x33, 0x33, 0xff, target[13], target[14], target[15]}, from, netip.AddrFrom16(node),
		func(b []byte) {
			b[0], b[24] = neighborSolicit, optionSourceMAC
			copy(b[8:], target[:])
		}), true
}

// arpRequest is a broadcast ARP request. The layout is at parseARP.
func arpRequest(mac [6]byte, sender, target netip.Addr) []byte {
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac[:]...)
	frame = append(frame, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	frame = append(append(frame, mac[:]...), sender.AsSlice()...)
	return append(append(frame, 0, 0, 0, 0, 0, 0), target.AsSlice()...)
}

// discovery is a frame of neighbour discovery with one option, the sender's link address.
func discovery(mac, to [6]byte, src, dst netip.Addr, fill func(message []byte)) []byte {
	frame := append(append(to[:len(to):len(to)], mac[:]...), 0x86, 0xdd)
	whole := &Packet{Is6: true}
	frame, b := appendIPv6(frame, make([]byte, 40), whole, header{src: src, dst: dst, proto: ProtoICMPv6,
		hops: neighborHopLimit, payload: solicitHeaderSize + 8})
	fill(b)
	b[25] = 1
	copy(b[26:], mac[:])
	seal(frame, b, whole, ProtoICMPv6, 2)
	return frame
}

// Claimed is the address of which a host says that it is at a link address: the sender of ARP, or
// the target of a neighbour advertisement that is valid by RFC 4861, section 7.1.2.
func (p *Packet) Claimed(frame []byte) (a netip.Addr, mac [6]byte, ok bool) {
	switch {
	case p.Kind == ARP:
		return p.ARPSender, p.ARPSenderMAC, !p.ARPSender.IsUnspecified() && !isGroup(p.ARPSenderMAC[:])
	case p.Kind != ICMP || !p.Is6 || p.ICMPType != neighborAdvert || p.ICMPCode != 0 || p.TTL != neighborHopLimit ||
		p.Fragment || !p.fits(frame):
		return a, mac, false
	}
	b := frame[p.L4:p.End]
	if len(b) < solicitHeaderSize || !TransportIntact(frame, p) {
		return a, mac, false
	}
	for o := b[solicitHeaderSize:]; len(o) >= 8; {
		n := int(o[1]) * 8
		if n == 0 || n > len(o) {
			return a, mac, false
		}
		if o[0] == optionTargetMAC && n == 8 {
			mac, ok = [6]byte(o[2:8]), true
		}
		o = o[n:]
	}
	return netip.AddrFrom16([16]byte(b[8:])), mac, ok && !isGroup(mac[:])
}
