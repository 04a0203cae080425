package packet

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
	"net/netip"
)

// accumulator is a ones' complement sum of 16-bit words (RFC 1071), kept in 64
// bits with the carries added at the end, and in the byte order of the
// machine: the sum of swapped words is the swapped sum.
type accumulator struct{ sum uint64 }

func (a *accumulator) add64(v uint64) {
	sum, carry := bits.Add64(a.sum, v, 0)
	a.sum = sum + carry
}

// addWire adds a number that is not lying in memory, in network order.
func (a *accumulator) addWire(v uint32) {
	a.add64(uint64(wire16(uint16(v))))
	a.add64(uint64(wire16(uint16(v >> 16))))
}

// add adds bytes, as if a zero followed an odd number of them. All but the
// last call must be with an even number.
func (a *accumulator) add(b []byte) {
	sum := a.sum
	var c uint64
	for len(b) >= 32 {
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b), 0)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[8:]), c)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[16:]), c)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b[24:]), c)
		sum += c
		b = b[32:]
	}
	for len(b) >= 8 {
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(b), 0)
		sum += c
		b = b[8:]
	}
	if len(b) > 0 {
		var rest [8]byte
		copy(rest[:], b)
		sum, c = bits.Add64(sum, binary.NativeEndian.Uint64(rest[:]), 0)
		sum += c
	}
	a.sum = sum
}

// fold is the sum in 16 bits, in the machine's byte order.
func (a *accumulator) fold() uint16 {
	s := a.sum
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff // at most 0x1fffe and a carry from above
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}

// checksum is what goes into a header, as a number in host order.
func (a *accumulator) checksum() uint16 { return ^wire16(a.fold()) }

// Checksum is the Internet checksum of b (RFC 1071), to be stored in big
// endian order.
func Checksum(b []byte) uint16 { return ChecksumWith(0, b) }

// ChecksumWith is Checksum of b after words whose sum is initial, as PseudoSum
// gives it. An odd number of bytes may only come last.
func ChecksumWith(initial uint32, b []byte) uint16 {
	var acc accumulator
	acc.addWire(initial)
	acc.add(b)
	return acc.checksum()
}

// PseudoSum is the sum, not complemented, of the pseudo header that TCP, UDP
// and ICMPv6 checksums start with (RFC 9293, section 3.1; RFC 8200, section
// 8.1). length is that of the transport header and data in bytes. Both
// addresses must be of one family.
func PseudoSum(src, dst netip.Addr, proto uint8, length int) uint32 {
	f := NewFlow(proto, netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0))
	acc := f.pseudo(length)
	return uint32(wire16(acc.fold()))
}

// pseudo is the sum of the pseudo header of a packet of this flow.
func (f *Flow) pseudo(length int) accumulator {
	var acc accumulator
	acc.add64(f[0])
	acc.add64(f[2])
	acc.add64(f[3])
	acc.add64(f[4])
	acc.addWire(uint32(f.Proto()))
	acc.addWire(uint32(length))
	return acc
}

// covered is the part of the datagram that its transport checksum covers, with
// the sum that precedes it and the place of the checksum; place is negative
// for protocols whose checksum is another one, or too short ones. UDP's own
// length counts where it is possible, as in net/ipv4/udp.c (__udp4_lib_rcv).
func (p *Packet) covered(frame []byte) (b []byte, acc accumulator, place int) {
	if !p.fits(frame) || p.Fragment {
		return nil, acc, -1
	}
	b = frame[p.L4:p.End]
	switch p.Kind {
	case TCP:
		place = 16
	case UDP:
		place = 6
		if n := int(binary.BigEndian.Uint16(b[4:])); n >= 8 && n <= len(b) {
			b = b[:n]
		}
	case ICMP:
		place = 2
		if !p.Is6 {
			return b, acc, place
		}
	default:
		return nil, acc, -1
	}
	return b, p.Flow.pseudo(len(b)), place
}

// TransportChecksum computes the TCP, UDP or ICMP checksum that the datagram
// in frame should have, to be stored in big endian order; 0xffff where UDP's
// would be 0. It is 0 for fragments and other protocols.
func TransportChecksum(frame []byte, p *Packet) uint16 {
	b, acc, place := p.covered(frame)
	if place < 0 {
		return 0
	}
	acc.add(b[:place])
	acc.add(b[place+2:])
	sum := acc.checksum()
	if sum == 0 && p.Kind == UDP {
		return 0xffff
	}
	return sum
}

// TransportIntact reports whether the TCP, UDP or ICMP checksum is right, or
// absent in UDP over IPv4. It is true where there is nothing to check:
// fragments and other protocols.
func TransportIntact(frame []byte, p *Packet) bool {
	b, acc, place := p.covered(frame)
	if place < 0 {
		return true
	}
	if p.Kind == UDP && b[6] == 0 && b[7] == 0 {
		return !p.Is6
	}
	acc.add(b)
	return acc.fold() == 0xffff
}

// MayBeUnfinished reports whether a frame may be one whose checksum was left to the
// network card: it is false if the frame has no VLAN tag, its IP header no options or
// extensions, and its TCP or UDP checksum is not the pseudo header's sum, which it is
// then (include/linux/skbuff.h, CHECKSUM_PARTIAL). That takes a fraction of what
// TransportIntact does.
func MayBeUnfinished(frame []byte) bool {
	const l3 = 14
	var sum uint64
	var proto byte
	l4 := 0
	switch {
	case len(frame) >= l3+20+8 && frame[12] == 8 && frame[13] == 0 && frame[l3] == 0x45:
		l4, proto = l3+20, frame[l3+9]
		sum = uint64(binary.BigEndian.Uint32(frame[l3+12:])) + uint64(binary.BigEndian.Uint32(frame[l3+16:]))
		sum += uint64(binary.BigEndian.Uint16(frame[l3+2:])) - 20
	case len(frame) >= l3+40+8 && frame[12] == 0x86 && frame[13] == 0xdd:
		l4, proto = l3+40, frame[l3+6]
		sum = uint64(binary.BigEndian.Uint16(frame[l3+4:]))
		for at := l3 + 8; at < l4; at += 4 {
			sum += uint64(binary.BigEndian.Uint32(frame[at:]))
		}
	default:
		return true
	}
	field := l4 + 16
	switch proto {
	case 6:
	case 17:
		field = l4 + 6
	default:
		return true
	}
	if len(frame) < field+2 {
		return true
	}
	for sum += uint64(proto); sum > 0xffff; {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum) == binary.BigEndian.Uint16(frame[field:])
}

// CompleteChecksum fills in a checksum that was left to the network card: the
// field at start+offset holds the sum of the pseudo header, and the checksum
// covers frame from start to its end (cut padding that is not zero off before).
// Like skb_checksum_help (net/core/dev.c) it stores 0xffff for 0, which UDP
// needs and TCP does not mind. It reports false, and changes nothing, when
// the field is outside the frame. SCTP needs CompleteSCTP.
func CompleteChecksum(frame []byte, start, offset int) bool {
	if start < 0 || offset < 0 || start > len(frame) || offset > len(frame)-start-2 {
		return false
	}
	sum := Checksum(frame[start:])
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(frame[start+offset:], sum)
	return true
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CompleteSCTP stores the CRC-32c of an SCTP packet (RFC 9260, appendix A), of
// which segment is the whole from its header on, without padding. Linux leaves
// it to the card too, on veth for one, and then asks for it at offset 8. It
// reports false when segment is too short.
func CompleteSCTP(segment []byte) bool {
	if len(segment) < 12 {
		return false
	}
	clear(segment[8:12])
	// The CRC is stored least significant byte first.
	binary.LittleEndian.PutUint32(segment[8:], crc32.Checksum(segment, castagnoli))
	return true
}
