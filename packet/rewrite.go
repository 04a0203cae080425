package packet

import "encoding/binary"

// DecrementTTL takes one off the TTL or hop limit, in frame and in p, and
// keeps the IPv4 checksum right, with the very result of ip_decrease_ttl
// (include/net/ip.h) and RFC 1624. It reports false and changes nothing when
// the packet may not go on: when it has at most 1 left, or is not IP.
func DecrementTTL(frame []byte, p *Packet) bool {
	if !p.IsIP() || p.TTL <= 1 || !p.fits(frame) {
		return false
	}
	p.TTL--
	if p.Is6 {
		frame[p.L3+7] = p.TTL
		return true
	}
	h := (*[20]byte)(frame[p.L3:])
	h[8] = p.TTL
	// The TTL is the upper half of its word, and the checksum is the sum's
	// complement: it grows by what the sum loses. A result of all ones is
	// stored as zero.
	sum := uint32(binary.BigEndian.Uint16(h[10:])) + 0x0100
	if sum >= 0xffff {
		sum++
	}
	binary.BigEndian.PutUint16(h[10:], uint16(sum))
	return true
}
