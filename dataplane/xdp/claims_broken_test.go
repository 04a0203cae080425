package xdp

import (
	"net/netip"
	"testing"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/preselect"
)

// newClaimsOf makes claims in a table of so many buckets, which no kernel has to give.
func newClaimsOf(t *testing.T, buckets int) *claims {
	t.Helper()
	table, err := preselect.NewClaims(make([]byte, preselect.ClaimsSize(buckets)), buckets)
	if err != nil {
		t.Fatal(err)
	}
	c := &claims{array: new(array), table: table, most: maxClaims, opens: true, has: map[preselect.Claim]preselect.Found{}}
	c.rules.steps = make([]rule, program.Rules)
	c.rules.free = []extent{{0, program.Rules}}
	c.rules.lists = map[string]extent{}
	return c
}

// serviceOf is what a program finds of a port: its own claim, or that of every port.
func serviceOf(c *claims, addr netip.Addr, port uint16) (found preselect.Found, ok bool) {
	for _, p := range []uint16{port, 0} {
		if found, ok = c.table.Lookup(claimKey(dataplane.Claim{Addr: addr, Proto: 6, Port: p})); ok {
			return found, true
		}
	}
	return found, false
}

// A port whose own claim finds no room does not fall to a claim of every port that was there before
// and stays.
func TestClaimsFullBesideEveryPort(t *testing.T) {
	c := newClaimsOf(t, 1<<4) // 64 places: the buckets are full, long before maxClaims
	vip := netip.MustParseAddr("192.0.2.1")
	every := dataplane.Claim{Addr: vip, Proto: 6, Service: 1, Serial: 1}
	own := func(n int) (list []dataplane.Claim) {
		for i := range n {
			list = append(list, dataplane.Claim{Addr: vip, Proto: 6, Port: uint16(1000 + i), Service: uint32(2 + i), Serial: 1})
		}
		return list
	}
	for _, n := range []int{0, 10, 100, 101, 10, 0} {
		list := own(n)
		if err := c.set(dataplane.Claims{Services: append(list, every)}, nil); err != nil {
			t.Fatal(err)
		}
		wrong := 0
		for _, o := range list {
			found, ok := serviceOf(c, vip, o.Port)
			if ok && found.Number != o.Service && found.Number != dataplane.Undecided {
				wrong++
			}
		}
		if wrong > 0 {
			t.Errorf("%d of %d ports that have services of their own lead to that of every port", wrong, n)
		}
		if found, ok := serviceOf(c, vip, 80); n <= 10 && (!ok || found.Number != 1) {
			t.Errorf("with %d others the claim of every port leads to %+v (%v)", n, found, ok)
		}
	}
}
