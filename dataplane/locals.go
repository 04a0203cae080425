package dataplane

import (
	"encoding/binary"
	"net/netip"
)

// Locals are all of the host's own addresses at one moment. They are immutable: a
// change is a new Locals. The zero value is that of none.
type Locals struct {
	bits [LocalBits / 32]uint32
	wide [2]bool // IPv4, IPv6: there are more than single addresses and loopback
}

// A Fold of an address has one of LocalBits bits, by a multiplication with LocalFactor
// (odd, near 2^32 divided by the golden ratio), of whose product the upper ones count.
// Of few addresses, few others have the bit of one.
const (
	LocalBits   = 1 << 12
	LocalShift  = 32 - 12
	LocalFactor = 0x9e3779b1
)

// NewLocals are the addresses in some prefixes.
func NewLocals(prefixes []netip.Prefix) *Locals {
	l := new(Locals)
	for _, p := range prefixes {
		a := p.Addr()
		switch {
		case a.IsLoopback():
		case p.IsSingleIP():
			i := Fold(a) * LocalFactor >> LocalShift
			l.bits[i/32] |= 1 << (i % 32)
		case a.Is4():
			l.wide[0] = true
		default:
			l.wide[1] = true
		}
	}
	return l
}

// Fold is an address as one word: its words as they lie in memory, xored.
func Fold(a netip.Addr) (sum uint32) {
	for b := a.AsSlice(); len(b) > 0; b = b[4:] {
		sum ^= binary.NativeEndian.Uint32(b)
	}
	return sum
}

// May reports whether an address of a family, by its Fold, may be among them; false
// says that it is not, unless it is a loopback address.
func (l *Locals) May(fold uint32, ipv6 bool) bool {
	i := fold * LocalFactor >> LocalShift
	if ipv6 && l.wide[1] || !ipv6 && l.wide[0] {
		return true
	}
	return l.bits[i/32]>>(i%32)&1 != 0
}

// Filter is what May goes by: the bits of all single addresses, and whether that
// suffices for a family.
func (l *Locals) Filter() (bits *[LocalBits / 32]uint32, ipv4, ipv6 bool) {
	return &l.bits, !l.wide[0], !l.wide[1]
}
