package packet

import (
	"encoding/binary"
	"net/netip"
)

// The Append functions append one whole Ethernet frame to dst and return the
// extended slice, or dst as it was when the packet must not be answered so:
// what they append can be told from the length. p is what Parse found in
// frame, and dst must not overlap frame. Nothing is allocated when dst has
// AnswerRoom bytes to spare, and for echo replies as many as the frame has.
//
// An answer goes back where the frame came from, with the frame's VLAN tags,
// and from the MAC that it was sent to. Since frames to a group address come
// to many, those are answered by no function but those that are given a MAC.

// AnswerRoom is enough for any answer but an echo reply, which is never longer
// than its request.
const AnswerRoom = etherHeader + 4*maxVLANs + errorSize6

// answerTTL is Linux' default for both families (IPDEFTTL).
const answerTTL = 64

// extend makes dst longer by n bytes, all zero, and returns them too.
func extend(dst []byte, n int) (all, added []byte) {
	size := len(dst)
	if cap(dst)-size >= n {
		all = dst[:size+n]
		clear(all[size:])
	} else {
		all = append(dst, make([]byte, n)...)
	}
	return all, all[size:]
}

// appendEthernet appends the link header of an answer, from the MAC that frame
// was sent to.
func appendEthernet(dst, frame []byte, p *Packet) []byte {
	dst = append(dst, frame[6:12]...)
	dst = append(dst, frame[0:6]...)
	return append(dst, frame[12:p.L3]...)
}

// isGroup reports a broadcast or multicast MAC.
func isGroup(mac []byte) bool { return mac[0]&1 != 0 }

// header is what the IP header of an answer needs to know.
type header struct {
	src     netip.Addr // not valid: the address that the packet was sent to
	dst     netip.Addr // not valid: the sender
	proto   uint8
	class   uint8 // TOS or traffic class
	hops    uint8
	df      bool   // IPv4
	id      uint16 // IPv4
	payload int    // bytes behind the IP header
}

// appendIP appends the link and IP headers of an answer to frame and room for
// its payload, which it returns too, all zero.
func appendIP(dst, frame []byte, p *Packet, a header) (all, payload []byte) {
	dst = appendEthernet(dst, frame, p)
	if p.Is6 {
		return appendIPv6(dst, frame, p, a)
	}
	return appendIPv4(dst, frame, p, a)
}

// appendIPv4: the layout is at parse4.
func appendIPv4(dst, frame []byte, p *Packet, a header) (all, payload []byte) {
	all, h := extend(dst, 20+a.payload)
	h[0], h[1] = 0x45, a.class
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)))
	binary.BigEndian.PutUint16(h[4:], a.id)
	if a.df {
		h[6] = 0x40
	}
	h[8], h[9] = a.hops, a.proto
	copy(h[12:16], frame[p.L3+16:])
	if a.src.IsValid() {
		src := a.src.As4()
		copy(h[12:16], src[:])
	}
	copy(h[16:20], frame[p.L3+12:])
	binary.BigEndian.PutUint16(h[10:], Checksum(h[:20]))
	return all, h[20:]
}

// appendIPv6: the layout is at parse6.
func appendIPv6(dst, frame []byte, p *Packet, a header) (all, payload []byte) {
	all, h := extend(dst, 40+a.payload)
	h[0], h[1] = 0x60|a.class>>4, a.class<<4
	binary.BigEndian.PutUint16(h[4:], uint16(a.payload))
	h[6], h[7] = a.proto, a.hops
	copy(h[8:24], frame[p.L3+24:])
	if a.src.IsValid() {
		src := a.src.As16()
		copy(h[8:24], src[:])
	}
	copy(h[24:40], frame[p.L3+8:])
	if a.dst.IsValid() {
		to := a.dst.As16()
		copy(h[24:40], to[:])
	}
	return all, h[40:]
}

// seal stores the checksum of an answer's transport header at place. whole
// ends with the IP header, of which the addresses count, and the payload.
func seal(whole, payload []byte, p *Packet, proto uint8, place int) {
	var acc accumulator
	switch {
	case p.Is6:
		acc.add(whole[len(whole)-len(payload)-32 : len(whole)-len(payload)])
	case proto != ProtoICMP:
		acc.add(whole[len(whole)-len(payload)-8 : len(whole)-len(payload)])
	}
	if proto != ProtoICMP {
		acc.addWire(uint32(proto))
		acc.addWire(uint32(len(payload)))
	}
	acc.add(payload)
	binary.BigEndian.PutUint16(payload[place:], acc.checksum())
}

// fits reports that the offsets of p, which Parse made, are safe in frame, so
// that a caller who mixes frames up gets no panic.
func (p *Packet) fits(frame []byte) bool { return p.End <= len(frame) }

// answerable reports an IP packet that came to this host alone, from a sender
// that can be one, so that an answer reaches just that one. The kernel drops
// the others before it would answer (ip_route_input_slow, ip6_rcv_core).
func (p *Packet) answerable(frame []byte) bool {
	if !p.IsIP() || !p.fits(frame) || isGroup(frame[0:6]) || isGroup(frame[6:12]) {
		return false
	}
	src, dst := p.Source(), p.Dest()
	if src.IsLoopback() || dst.IsLoopback() || src.IsMulticast() || dst.IsMulticast() {
		return false
	}
	if p.Is6 {
		return !src.IsUnspecified() && !dst.IsUnspecified()
	}
	limited := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return !src.IsUnspecified() && src != limited && !dst.IsUnspecified() && dst != limited
}
