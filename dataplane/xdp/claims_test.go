package xdp

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/preselect"
)

func keyOf(c dataplane.Claim) preselect.Claim { return preselect.ServiceClaim(c.Addr, c.Port, c.Proto) }

// A claim that changes does so although others find no room, and none of every port is put then.
func TestClaimsFull(t *testing.T) {
	newPair(t, 1) // or the test is skipped
	c := new(claims)
	if err := c.open(true); err != nil {
		t.Fatal(err)
	}
	defer c.close()
	list := func(services int, number uint32) (l dataplane.Claims) {
		for i := range services {
			l.Services = append(l.Services, dataplane.Claim{
				Addr: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), Proto: 6, Port: uint16(1 + i>>16), Service: 3,
			})
		}
		for i := range 200 {
			l.Marked = append(l.Marked, dataplane.Claim{
				Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i / 2)}), Proto: 6, Port: uint16(i % 2 * 80), Service: number, Serial: 1,
			})
		}
		return l
	}
	for i, l := range []dataplane.Claims{list(0, 7), list(maxClaims+500, 7), list(maxClaims+500, 8), list(10, 9)} {
		if err := c.set(l, nil); err != nil {
			t.Fatal(err)
		}
		want := uint32(7 + max(i-1, 0))
		for _, m := range l.Marked {
			found, ok := c.table.Lookup(keyOf(m))
			switch {
			case m.Port == 0 && len(l.Services) > maxClaims:
				if ok && found.Number != dataplane.Undecided {
					t.Fatalf("list %d: %v of every port leads to %d", i, m.Addr, found.Number)
				}
			case ok && found.Number != want || !ok && i != 1 && i != 2:
				t.Fatalf("list %d: %v leads to %d (%v), want %d", i, m, found.Number, ok, want)
			}
		}
	}
}

// A port that is no service's before and after each command is none's in between.
func TestClaimsWindow(t *testing.T) {
	w := newPair(t, 1)
	k := ulvs.ServiceKey{Mark: 10}
	w.must(w.fast.AddService(ulvs.Service{ServiceKey: k, Scheduler: "sh"}))
	w.must(w.fast.AddDestination(k, ulvs.Destination{Addr: pairServer(false, 0), Weight: 1}))
	vip := pairVIP(false).String()
	all := "*mangle\n-A PREROUTING -d " + vip + " -j MARK --set-mark 10\n"
	lists := []string{
		all + "-A PREROUTING -d " + vip + " -p tcp --dport 22 -j MARK --set-mark 0\nCOMMIT\n",
		"*mangle\nCOMMIT\n",
		all + "-A PREROUTING -d " + vip + " -p tcp --dport 20:120 -j MARK --set-mark 0\nCOMMIT\n",
	}
	syn := shape{proto: layers.IPProtocolTCP, flags: "S", port: 999}
	w.fate(w.fast, syn.frame(t)) // a hop is known
	syn.to = 22
	frame := syn.frame(t)
	var stop atomic.Bool
	var wg sync.WaitGroup
	var sent, taken atomic.Int64
	wg.Add(1)
	go func() {
		defer wg.Done()
		for i := 0; !stop.Load(); i++ {
			from(frame, netip.AddrFrom4([4]byte{10, byte(2 + i>>16), byte(i >> 8), byte(i)}))
			action, _, err := runByHand(w.still.prog, frame)
			if err != nil {
				t.Error(err)
				return
			}
			if sent.Add(1); action == program.ActionTX {
				taken.Add(1)
			}
		}
	}()
	for n := 0; n < 200 || sent.Load() < 2000; n++ {
		w.must(w.fast.MarkRestore(false, lists[n%len(lists)]))
	}
	stop.Store(true)
	wg.Wait()
	if taken.Load() > 0 {
		t.Errorf("of %d SYNs to port 22, %d were sent to a real server", sent.Load(), taken.Load())
	}
}

// Lists of rules are followed only where what they lead to is there: services by mark without room for
// their claims would be missed.
func TestClaimsFullOfLists(t *testing.T) {
	newPair(t, 1) // or the test is skipped
	c := new(claims)
	if err := c.open(true); err != nil {
		t.Fatal(err)
	}
	defer c.close()
	step := dataplane.MarkStep{Span: 1<<32 - 1, Yes: dataplane.DoneStep, No: dataplane.DoneStep, Xor: 10}
	one := dataplane.Claim{Addr: netip.MustParseAddr("192.0.2.1"), Proto: 6, Port: 80, Service: dataplane.Elsewhere}
	one.List = &dataplane.MarkList{Steps: []dataplane.MarkStep{step}}
	list := func(services, marks int) (l dataplane.Claims) {
		for i := range services {
			l.Services = append(l.Services, dataplane.Claim{
				Addr: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Proto: 6, Port: 80, Service: 3,
			})
		}
		for i := range marks {
			l.ByMark = append(l.ByMark, dataplane.MarkClaim{Mark: uint32(10 + i), IPv6: true, Service: 4, Serial: 1})
		}
		l.Marked = []dataplane.Claim{one}
		return l
	}
	for i, tt := range []struct {
		services, marks int
		followed        bool
	}{{10, 1, true}, {maxClaims - 536, 530, true}, {maxClaims - 536, 540, false}, {10, 540, true}} {
		if err := c.set(list(tt.services, tt.marks), nil); err != nil {
			t.Fatal(err)
		}
		found, ok := c.table.Lookup(keyOf(one))
		if !ok || isList(found.Number) != tt.followed {
			t.Errorf("list %d: %+v (%v), followed %v; %d claims of %d", i, found, ok, tt.followed, c.table.Len(), maxClaims)
		}
		for _, m := range c.list.ByMark {
			at, ok := c.table.Lookup(preselect.MarkClaim(m.Mark, m.IPv6))
			if !ok && tt.followed || ok && at.Number != m.Service {
				t.Fatalf("list %d: mark %d leads to %+v (%v)", i, m.Mark, at, ok)
			}
		}
	}
}

// newClaimsOf makes claims in a table of so many buckets, which no kernel has to give.
func newClaimsOf(t *testing.T, buckets int) *claims {
	t.Helper()
	table, err := preselect.NewClaims(make([]byte, preselect.ClaimsSize(buckets)), buckets)
	if err != nil {
		t.Fatal(err)
	}
	c := &claims{array: new(array), table: table, most: maxClaims, opens: true}
	c.rules.steps = make([]rule, program.Rules)
	c.rules.free = []extent{{0, program.Rules}}
	c.rules.lists = map[string]extent{}
	return c
}

// serviceOf is what a program finds of a port: its own claim, or that of every port.
func serviceOf(c *claims, addr netip.Addr, port uint16) (found preselect.Found, ok bool) {
	for _, p := range []uint16{port, 0} {
		if found, ok = c.table.Lookup(preselect.ServiceClaim(addr, p, 6)); ok {
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
		if lacks := c.lacking() != 0; lacks != (n >= 100) {
			t.Errorf("with %d others there is room for all: %v", n, !lacks)
		}
		if wrong > 0 {
			t.Errorf("%d of %d ports that have services of their own lead to that of every port", wrong, n)
		}
		if found, ok := serviceOf(c, vip, 80); n <= 10 && (!ok || found.Number != 1) {
			t.Errorf("with %d others the claim of every port leads to %+v (%v)", n, found, ok)
		}
	}
}
