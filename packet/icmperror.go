package packet

import (
	"encoding/binary"
	"net/netip"
)

// Unreachable is what cannot be reached, as an ICMP error says it. The numbers
// are IPv4's codes; IPv6's are found from them.
type Unreachable uint8

const (
	// HostUnreachable is code 1, and address unreachable (3) in IPv6.
	HostUnreachable Unreachable = 1
	// ProtocolUnreachable is code 2; in IPv6 a parameter problem (4), unknown
	// next header (1).
	ProtocolUnreachable Unreachable = 2
	// PortUnreachable is code 3, and port unreachable (4) in IPv6.
	PortUnreachable Unreachable = 3
)

// The greatest ICMP error, from the IP header on: in IPv4 what every host must
// take (RFC 1122, section 3.2.2, and icmp_send), in IPv6 the least MTU (RFC
// 4443, section 2.4(c), and icmp6_send).
const (
	errorSize4 = 576
	errorSize6 = 1280
)

// AnswerableByError reports whether an ICMP error may be sent about this
// packet. Not about one that came to more than this host, that has no single
// sender, that is an ICMP error or of an unknown ICMP type itself; in IPv4 not
// about fragments but the first (RFC 1122, section 3.2.2; RFC 4443, section
// 2.4(e); __icmp_send in net/ipv4/icmp.c; icmp6_send in net/ipv6/icmp.c).
//
// In IPv6 later fragments may be answered, or paths with a small MTU would go
// unnoticed; but not those of ICMP, which might be an error's. The exceptions
// for multicast destinations are left out, as a director forwards none.
func (p *Packet) AnswerableByError(frame []byte) bool {
	if !p.answerable(frame) {
		return false
	}
	if p.FragOffset != 0 {
		return p.Is6 && p.Kind != ICMP
	}
	if p.Kind != ICMP {
		return true
	}
	if p.Is6 {
		return p.ICMPType >= 128
	}
	// Asking and answering: echo, timestamp, information, address mask. The
	// rest are errors, or count as such (net/ipv4/icmp.c, icmp_pointers).
	switch p.ICMPType {
	case 0, 8, 13, 14, 15, 16, 17, 18:
		return true
	}
	return false
}

// AppendUnreachable appends an ICMP destination unreachable about frame. src is
// its source, or the address that the packet was sent to when it is not valid.
// dst is returned as it was when the packet is not AnswerableByError, when src
// is of the other family, and for ProtocolUnreachable about an IPv6 packet with
// extension headers.
func AppendUnreachable(dst, frame []byte, p *Packet, src netip.Addr, what Unreachable) []byte {
	if !p.Is6 {
		return appendError(dst, frame, p, src, 3, uint8(what), 0)
	}
	switch what {
	case HostUnreachable:
		return appendError(dst, frame, p, src, 1, 3, 0)
	case PortUnreachable:
		return appendError(dst, frame, p, src, 1, 4, 0)
	case ProtocolUnreachable:
		// Where the packet has the number that nobody knows: in the IPv6
		// header, if no extension header is between.
		const ownHeader, nextHeader = 40, 6
		if p.L4-p.L3 == ownHeader {
			return appendError(dst, frame, p, src, 4, 1, nextHeader)
		}
	}
	return dst
}

// AppendTimeExceeded appends an ICMP time exceeded in transit about frame, as
// AppendUnreachable does.
func AppendTimeExceeded(dst, frame []byte, p *Packet, src netip.Addr) []byte {
	if p.Is6 {
		return appendError(dst, frame, p, src, 3, 0, 0)
	}
	return appendError(dst, frame, p, src, 11, 0, 0)
}

// AppendParameterProblem appends an ICMP parameter problem about the options of frame,
// which are a BadOption, as AppendUnreachable does.
func AppendParameterProblem(dst, frame []byte, p *Packet, src netip.Addr) []byte {
	if p.Refused != BadOption {
		return dst
	}
	if p.Is6 {
		return appendError(dst, frame, p, src, 4, p.Problem, uint32(p.Pointer))
	}
	return appendError(dst, frame, p, src, 12, p.Problem, uint32(p.Pointer)<<24)
}

// AppendFragNeeded appends about frame that a hop's MTU is too small for it:
// IPv4's fragmentation needed (RFC 1191), or IPv6's packet too big. mtu is in
// bytes from the IP header on, 0 to 65535 in IPv4. Otherwise it is as
// AppendUnreachable. That the packet is too big, and in IPv4 has DF set, is
// for the caller to see.
func AppendFragNeeded(dst, frame []byte, p *Packet, src netip.Addr, mtu int) []byte {
	if p.Is6 {
		return appendError(dst, frame, p, src, 2, 0, uint32(max(mtu, 0)))
	}
	return appendError(dst, frame, p, src, 3, 4, uint32(min(max(mtu, 0), 0xffff)))
}

// appendError appends
//
//	0 type 1, code 1, checksum 2, depends on the type 4
//	8 as much of the packet as fits
//
// An error has the packet's own identification in IPv4 and may be fragmented:
// Linux takes the next of a counter there, but the sender's is as unique
// between the two hosts, and needs no state. IP options are not copied back.
func appendError(dst, frame []byte, p *Packet, src netip.Addr, icmpType, code uint8, info uint32) []byte {
	src = src.Unmap()
	if !p.AnswerableByError(frame) || src.IsValid() && src.Is6() != p.Is6 {
		return dst
	}
	a := header{src: src, proto: ProtoICMP, hops: answerTTL}
	quote := frame[p.L3:p.End]
	if p.Is6 {
		a.proto = ProtoICMPv6
		quote = quote[:min(len(quote), errorSize6-40-8)]
	} else {
		quote = quote[:min(len(quote), errorSize4-20-8)]
		// The type of service is kept, with the precedence of internetwork
		// control (RFC 1812, section 4.3.2.5, and __icmp_send).
		a.class = quote[1]&0x1e | 0xc0
		a.id = binary.BigEndian.Uint16(quote[4:])
	}
	a.payload = 8 + len(quote)
	dst, b := appendIP(dst, frame, p, a)
	b[0], b[1] = icmpType, code
	binary.BigEndian.PutUint32(b[4:], info)
	copy(b[8:], quote)
	seal(dst, b, p, a.proto, 2)
	return dst
}
