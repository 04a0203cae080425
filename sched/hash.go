package sched

import (
	"encoding/binary"
	"math/bits"
)

// fold makes one number of an address, as all hashing schedulers do: an IPv4
// address in host order, the exclusive or of an IPv6 address's four words.
func fold(addr *[16]byte, ipv6 bool) uint32 {
	h := binary.BigEndian.Uint32(addr[:])
	if ipv6 {
		h ^= binary.BigEndian.Uint32(addr[4:]) ^ binary.BigEndian.Uint32(addr[8:]) ^ binary.BigEndian.Uint32(addr[12:])
	}
	return h
}

// multiplicative is the kernel's hash_32: the upper n bits of the product with
// 2^32 divided by the square of the golden ratio (include/linux/hash.h).
func multiplicative(v uint32, n uint) uint32 { return v * Golden >> (32 - n) }

// halfSip is the kernel's hsiphash of one 32-bit number. On 64-bit machines,
// which are meant here, that is SipHash-1-3 cut to 32 bits, with a key of two
// 64-bit words (lib/siphash.c; Aumasson and Bernstein, SipHash, 2012). It is
// not HalfSipHash, which 32-bit kernels have.
func halfSip(v uint32, k0, k1 uint64) uint32 {
	// "somepseudorandomlygeneratedbytes"
	s := sip{0x736f6d6570736575 ^ k0, 0x646f72616e646f6d ^ k1, 0x6c7967656e657261 ^ k0, 0x7465646279746573 ^ k1}
	last := 4<<56 | uint64(v) // the length in the top byte
	s.v3 ^= last
	s.round()
	s.v0 ^= last
	s.v2 ^= 0xff
	s.round()
	s.round()
	s.round()
	return uint32(s.v0 ^ s.v1 ^ s.v2 ^ s.v3)
}

type sip struct{ v0, v1, v2, v3 uint64 }

func (s *sip) round() {
	s.v0 += s.v1
	s.v1 = bits.RotateLeft64(s.v1, 13) ^ s.v0
	s.v0 = bits.RotateLeft64(s.v0, 32)
	s.v2 += s.v3
	s.v3 = bits.RotateLeft64(s.v3, 16) ^ s.v2
	s.v0 += s.v3
	s.v3 = bits.RotateLeft64(s.v3, 21) ^ s.v0
	s.v2 += s.v1
	s.v1 = bits.RotateLeft64(s.v1, 17) ^ s.v2
	s.v2 = bits.RotateLeft64(s.v2, 32)
}
