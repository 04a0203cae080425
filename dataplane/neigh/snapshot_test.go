package neigh

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// What is local is what one of the ranges contains.
func TestLocalRanges(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	address := func() netip.Addr {
		var b [16]byte
		b[0], b[1], b[15] = 0xfd, byte(rng.IntN(2)), byte(rng.IntN(8))
		if rng.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{127, byte(rng.IntN(2)), 0, byte(rng.IntN(8))})
		}
		return netip.AddrFrom16(b)
	}
	yes := 0
	for range 300 {
		s := newSnapshot()
		var ranges []netip.Prefix
		for range rng.IntN(5) {
			a := address()
			bits := a.BitLen()
			if rng.IntN(2) == 0 {
				bits = rng.IntN(bits)
			}
			p := netip.PrefixFrom(a, bits)
			ranges = append(ranges, p)
			s.addLocal(p)
		}
		for range 50 {
			a := address()
			want := slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
			if want {
				yes++
			}
			if got := s.local(a); got != want {
				t.Fatalf("%v in %v: %v", a, ranges, got)
			}
		}
	}
	if yes < 1000 {
		t.Errorf("only %d were local", yes)
	}
}
