package dataplane

import (
	"encoding/binary"
	"net/netip"
)

// Locals are all of the host's own addresses at one moment. They are immutable: a
// change is a new Locals. The zero value is that of none.
type Locals struct {
	bits LocalFilter
	wide [2]bool // IPv4, IPv6: there are more than single addresses and loopback
}

// LocalFilter has bits for the addresses of IPv4, and then for those of IPv6.
type LocalFilter [2][LocalBits / 32]uint32

// A Fold of an address has one of its family's LocalBits bits, by a multiplication with
// LocalFactor (odd, near 2^32 divided by the golden ratio), of whose product the upper
// ones count. Of few addresses, few others have the bit of one.
const (
	LocalBits   = 1 << 14
	LocalShift  = 32 - 14
	LocalFactor = 0x9e3779b1
)

// NewLocals returns the addresses in some prefixes.
func NewLocals(prefixes []netip.Prefix) *Locals {
	l := new(Locals)
	for _, p := range prefixes {
		a := p.Addr()
		switch {
		case a.IsLoopback():
		case p.IsSingleIP():
			i := Fold(a) * LocalFactor >> LocalShift
			l.bits[familyOf(a.Is6())][i/32] |= 1 << (i % 32)
		default:
			l.wide[familyOf(a.Is6())] = true
		}
	}
	return l
}

// Fold returns an address as one word: its words as they lie in memory, xored.
func Fold(a netip.Addr) (sum uint32) {
	for b := a.AsSlice(); len(b) > 0; b = b[4:] {
		sum ^= binary.NativeEndian.Uint32(b)
	}
	return sum
}

// May reports whether an address of a family, by its Fold, may be among them; false
// says that it is not, unless it is a loopback address.
func (l *Locals) May(fold uint32, ipv6 bool) bool {
	i, family := fold*LocalFactor>>LocalShift, familyOf(ipv6)
	return l.wide[family] || l.bits[family][i/32]>>(i%32)&1 != 0
}

func familyOf(ipv6 bool) int {
	if ipv6 {
		return 1
	}
	return 0
}

// Filter returns what May goes by: the bits of all single addresses, and whether that
// suffices for a family.
func (l *Locals) Filter() (bits *LocalFilter, ipv4, ipv6 bool) {
	return &l.bits, !l.wide[0], !l.wide[1]
}
