package preselect

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

func newClaims(t *testing.T, buckets int) *Claims {
	t.Helper()
	c, err := NewClaims(make([]byte, ClaimsSize(buckets)), buckets)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Claims are found as in a map, whatever comes and goes.
func TestClaims(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	c, want := newClaims(t, 1<<6), map[Claim]Found{}
	full := 0
	for n := range 200_000 {
		a := netip.AddrFrom4([4]byte{192, 0, 2, byte(rng.IntN(8))})
		if rng.IntN(2) == 0 { // of which many differ in one half alone
			b := [16]byte{0: 0xfd, 5: byte(rng.IntN(4)), 11: byte(rng.IntN(4)), 15: byte(rng.IntN(4))}
			a = netip.AddrFrom16(b)
		}
		k := ServiceClaim(a, uint16(rng.IntN(3)), uint8(6+11*rng.IntN(2)))
		switch f := (Found{rng.Uint32N(1 << 10), rng.Uint32(), rng.Uint32()}); {
		case rng.IntN(3) == 0:
			c.Delete(k)
			delete(want, k)
		case c.Put(k, f):
			want[k] = f
		default:
			full++
			if _, had := want[k]; had {
				t.Fatalf("%d: a claim that there is could not be changed", n)
			}
			c.Reclaim()
		}
		got, ok := c.Lookup(k)
		if f, has := want[k]; ok != has || got != f {
			t.Fatalf("%d: %v is %v %v, want %v %v", n, k, got, ok, f, has)
		}
		if n%10_000 == 0 {
			for k, f := range want {
				if got, ok := c.Lookup(k); !ok || got != f {
					t.Fatalf("%d: %v is %v %v, want %v", n, k, got, ok, f)
				}
			}
		}
	}
	if full == 0 {
		t.Error("no bucket was ever full")
	}
}

// A place that a claim has left is nobody's before Reclaim: who has compared its key may be about
// to read what was found by it.
func TestClaimsLeft(t *testing.T) {
	c := newClaims(t, 1)
	key := func(i int) Claim { return ServiceClaim(netip.MustParseAddr("192.0.2.1"), uint16(i), 6) }
	for i := range ClaimsInBucket {
		if !c.Put(key(i), Found{Number: 1, Serial: 1}) {
			t.Fatalf("no room for claim %d", i)
		}
	}
	c.Delete(key(0))
	if c.Put(key(9), Found{Number: 2, Serial: 2}) {
		t.Error("a place was given away before Reclaim")
	}
	c.Reclaim()
	if !c.Put(key(9), Found{Number: 2, Serial: 2}) {
		t.Error("no room after Reclaim")
	}
}

// A table that is half full of what sites have takes everything: addresses in a row, and ports.
func TestClaimsFit(t *testing.T) {
	const buckets = 1 << 16
	for name, key := range map[string]func(i int) Claim{
		"addresses": func(i int) Claim {
			return ServiceClaim(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 80, 6)
		},
		"ports": func(i int) Claim {
			return ServiceClaim(netip.AddrFrom4([4]byte{192, 0, 2, byte(i >> 16)}), uint16(i), 6)
		},
		"both": func(i int) Claim {
			return ServiceClaim(netip.AddrFrom4([4]byte{10, byte(i >> 18), byte(i >> 10), byte(i >> 2)}), uint16(80+i%4), 6)
		},
		"IPv6": func(i int) Claim {
			return ServiceClaim(netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 5: byte(i >> 16), 6: byte(i >> 8), 7: byte(i), 15: 1}), 443, 6)
		},
		"IPv6 in a row": func(i int) Claim {
			return ServiceClaim(netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)}), 443, 17)
		},
	} {
		c, moved := newClaims(t, buckets), 0
		for i := range buckets * ClaimsInBucket / 2 {
			ok := c.Put(key(i), Found{Number: 1, Serial: 1})
			for !ok && c.Left() > 0 {
				c.Reclaim()
				ok = c.Put(key(i), Found{Number: 1, Serial: 1})
				moved++
			}
			if !ok {
				t.Errorf("%s: no room for claim %d of %d", name, i, buckets*ClaimsInBucket/2)
				break
			}
		}
		if t.Logf("%s: %d were moved", name, moved); moved > 200 {
			t.Errorf("%s: %d were moved, each after a grace period", name, moved)
		}
	}
}
