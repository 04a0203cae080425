package packet

import "encoding/binary"

// AppendEchoReply appends the reply to an ICMP or ICMPv6 echo request, with the
// whole of its data, from the address that was asked (RFC 792; RFC 4443,
// section 4.2; icmp_echo and icmpv6_echo_reply). The type of service is the
// request's, and in IPv4 the identification too, for the reason given at
// appendError; IP options and extension headers are not copied.
//
// dst is returned as it was for anything else, for fragments, and for requests
// whose checksum is wrong, which the kernel drops.
func AppendEchoReply(dst, frame []byte, p *Packet) []byte {
	if p.Kind != ICMP || p.Fragment || !p.answerable(frame) {
		return dst
	}
	a := header{proto: p.Proto, hops: answerTTL, payload: p.End - p.L4}
	request, reply := uint8(8), uint8(0)
	if p.Is6 {
		request, reply = 128, 129
		a.class = frame[p.L3]<<4 | frame[p.L3+1]>>4
	} else {
		a.class = frame[p.L3+1]
		a.id = binary.BigEndian.Uint16(frame[p.L3+4:])
	}
	if p.ICMPType != request || !TransportIntact(frame, p) {
		return dst
	}
	dst, b := appendIP(dst, frame, p, a)
	copy(b, frame[p.L4:p.End])
	b[0], b[2], b[3] = reply, 0, 0
	seal(dst, b, p, a.proto, 2)
	return dst
}
