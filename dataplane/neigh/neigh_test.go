package neigh

import (
	"fmt"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"golang.org/x/sys/unix"
)

const (
	mac1 = "02:00:00:00:00:02"
	mac2 = "02:00:00:00:00:99"
)

func TestResolves(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.in(l.server, func() { l.ip("addr add 10.9.5.5/32 dev s0") })
	l.in(l.director, func() {
		l.ip("route add 10.9.5.0/24 via 10.9.0.2 mtu 1300")
		l.ip("route add 10.9.6.6 via inet6 fd09::2")
		l.ip("route add blackhole 10.9.7.0/24")
	})
	r := l.start(Options{})
	for _, c := range []struct {
		addr string
		mtu  int
	}{{"10.9.0.2", 1500}, {"10.9.5.5", 1300}, {"10.9.6.6", 1500}, {"fd09::2", 1500}} {
		h := r.NextHop(addr(c.addr))
		resolve(t, h, reaches(mac1))
		n := h.Neighbor()
		if own, ok := r.LinkAddr(n.Ifindex); !ok || own != n.Src || n.MTU != c.mtu {
			t.Errorf("%s: %+v, want MTU %d and the link's own address %v as source", c.addr, *n, c.mtu, own)
		}
	}
	for _, c := range []struct {
		addr string
		want dataplane.HopState
	}{
		{"10.9.0.1", dataplane.HopLocal}, {"127.3.2.1", dataplane.HopLocal}, {"fd09::1", dataplane.HopLocal},
		{"10.9.7.1", dataplane.HopUnreachable}, {"192.0.2.1", dataplane.HopUnreachable}, {"2001:db8::1", dataplane.HopUnreachable},
	} {
		await(t, r.NextHop(addr(c.addr)), fmt.Sprintf("in state %d", c.want), is(c.want))
	}
}

func TestLocalAndSourceFollowAddresses(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.start(Options{})
	h := r.NextHop(addr("10.9.0.2"))
	ifindex := h.Neighbor().Ifindex
	if got := r.LinkName(ifindex); got != "d0" {
		t.Errorf("the link's name is %q", got)
	}
	if got := r.Source(ifindex, addr("1.2.3.4")); got != addr("10.9.0.1") {
		t.Errorf("source is %v", got)
	}
	if got := r.Source(ifindex, addr("2001:db8::1")); got != addr("fd09::1") {
		t.Errorf("IPv6 source is %v", got)
	}
	if r.Local(addr("10.9.0.77")) || !r.Local(addr("10.9.0.1")) || r.Local(addr("::ffff:10.9.0.1")) || !r.Local(addr("::1")) {
		t.Error("wrong about local addresses")
	}
	if !r.Broadcast(addr("10.9.0.255")) || r.Broadcast(addr("10.9.0.1")) || r.Broadcast(addr("10.9.1.255")) {
		t.Error("wrong about broadcast addresses")
	}
	l.in(l.director, func() { l.ip("addr add 10.9.0.77/32 dev lo") })
	eventually(t, func() bool { return r.Local(addr("10.9.0.77")) })
	l.in(l.director, func() { l.ip("addr del 10.9.0.77/32 dev lo") })
	eventually(t, func() bool { return !r.Local(addr("10.9.0.77")) })
}

func TestLocalDoesNotAllocate(t *testing.T) {
	l := newLab(t)
	r := l.start(Options{})
	local := addr("10.9.0.1")
	if n := testing.AllocsPerRun(100, func() { r.Local(local) }); n != 0 {
		t.Errorf("Local allocates %v times", n)
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(testPatience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not happen within %v", testPatience)
		}
	}
}

func TestReferences(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.start(Options{})
	a := r.NextHop(addr("10.9.0.2"))
	if b := r.NextHop(netip.AddrFrom16(addr("10.9.0.2").As16())); a != b {
		t.Fatal("one address, two hops")
	}
	r.Release(a)
	await(t, a, "reachable after one of two releases", reaches(mac1))
	r.Release(a)
	await(t, a, "given up", is(dataplane.HopUnreachable))
	if c := r.NextHop(addr("10.9.0.2")); c == a {
		t.Error("a released hop came back")
	} else {
		r.Release(a) // not ours any more; must not harm c
		resolve(t, c, reaches(mac1))
	}
}

// The server changes its address without a word: found by itself.
func TestSilentChange(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.start(Options{})
	hops := []*dataplane.NextHop{r.NextHop(addr("10.9.0.2")), r.NextHop(addr("fd09::2"))}
	for _, h := range hops {
		resolve(t, h, reaches(mac1))
	}
	l.in(l.server, func() { l.ip("link set s0 address " + mac2) })
	for _, h := range hops {
		// It may be resolving for a moment, but never given up.
		await(t, h, "at its new address", func(n *dataplane.Neighbor) bool {
			if n.State == dataplane.HopUnreachable {
				t.Fatalf("%v was given up", h.Addr())
			}
			return reaches(mac2)(n)
		})
	}
}

// The server announces its new address: followed at once, not by a probe.
func TestAnnouncedChange(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	// So rare that probes cannot be what finds it.
	r := l.start(Options{Verify: time.Hour})
	hops := []*dataplane.NextHop{r.NextHop(addr("10.9.0.2")), r.NextHop(addr("fd09::2"))}
	for _, h := range hops {
		resolve(t, h, reaches(mac1))
	}
	l.in(l.server, func() {
		l.sysctl("ipv4/conf/s0/arp_notify", "1")
		l.sysctl("ipv6/conf/s0/ndisc_notify", "1")
		l.ip("link set s0 address " + mac2)
	})
	for _, h := range hops {
		await(t, h, "at its new address", reaches(mac2))
	}
}

// A dead neighbour is given up, its frames counted as lost; a frame that comes
// later waits while it is asked again, and is sent when it answers.
func TestFailureAndReturn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hold  time.Duration
		again bool
	}{"after the hold-down": {2 * time.Second, true}, "in the hold-down": {time.Hour, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			failureAndReturn(t, c.hold, c.again)
		})
	}
}

func failureAndReturn(t *testing.T, hold time.Duration, again bool) {
	l := newLab(t)
	r := l.start(Options{HoldDown: hold})
	h := r.NextHop(addr("10.9.0.3"))
	sent := make(chan byte, 10)
	send := func(f *dataplane.Frame) { sent <- f.Data[0] }
	frame := func(b byte) *dataplane.Frame { return &dataplane.Frame{Data: []byte{b}, Hop: h} }
	if h.Neighbor().State != dataplane.HopResolving || !h.Park(frame(1), send) {
		t.Fatalf("at first: %+v", *h.Neighbor())
	}
	await(t, h, "given up", is(dataplane.HopUnreachable))
	if h.Lost() != 1 {
		t.Errorf("%d frames lost, want 1", h.Lost())
	}
	if again {
		await(t, h, "willing to try again", is(dataplane.HopResolving))
	}
	l.in(l.server, func() { l.ip("addr add 10.9.0.3/24 dev s0") })
	for b := byte(2); b <= 4; b++ {
		if !h.Park(frame(b), send) {
			sent <- b
		}
	}
	await(t, h, "reachable", reaches(mac1))
	for b := byte(2); b <= 4; b++ {
		if got := <-sent; got != b {
			t.Fatalf("frame %d came when %d was due", got, b)
		}
	}
}

func TestFollowsRoutesAndLinks(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.in(l.director, func() {
		l.ip("link add d9 type veth peer name p9")
		l.ip("link set p9 up")
		l.ip("link set d9 arp off up")
	})
	r := l.start(Options{})
	h := r.NextHop(addr("10.9.8.8"))
	await(t, h, "unreachable", is(dataplane.HopUnreachable))
	steps := []struct {
		do   string
		what string
		ok   func(*dataplane.Neighbor) bool
	}{
		{"route add 10.9.8.0/24 via 10.9.0.2", "reachable by the new route", reaches(mac1)},
		{"route change 10.9.8.0/24 via 10.9.0.2 mtu 1280", "of the new MTU", func(n *dataplane.Neighbor) bool { return n.MTU == 1280 }},
		{"route change 10.9.8.0/24 via 10.9.0.2", "of the link's MTU", func(n *dataplane.Neighbor) bool { return n.MTU == 1500 }},
		{"link set d0 mtu 1400", "of the link's new MTU", func(n *dataplane.Neighbor) bool { return n.MTU == 1400 }},
		{"link set d0 address 02:00:00:00:00:51", "from the new source", func(n *dataplane.Neighbor) bool {
			return n.State == dataplane.HopReachable && n.Src == dataplane.MAC{2, 0, 0, 0, 0, 0x51}
		}},
		{"neigh replace 10.9.0.2 lladdr 02:00:00:00:00:77 nud permanent dev d0", "at the static address", reaches("02:00:00:00:00:77")},
		{"addr add 10.9.8.8/32 dev lo", "local", is(dataplane.HopLocal)},
		{"addr del 10.9.8.8/32 dev lo", "at the static address", reaches("02:00:00:00:00:77")},
		{"neigh del 10.9.0.2 dev d0", "asked again", reaches(mac1)},
		{"route change 10.9.8.0/24 dev d9", "of a link without ARP", func(n *dataplane.Neighbor) bool {
			return n.State == dataplane.HopReachable && n.Ifindex != 0 && n.MTU == 1500
		}},
		{"route change 10.9.8.0/24 via 10.9.0.2", "back", reaches(mac1)},
		{"link set d0 down", "unreachable with its link", is(dataplane.HopUnreachable)},
	}
	for _, s := range steps {
		l.in(l.director, func() { l.ip(s.do) })
		await(t, h, s.what, s.ok)
	}
}

// From a change of routes or links until the new ones are read, what is sent where no route
// led waits, as there may be one by now; if there is none, it is given up then.
func TestUnsettled(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.in(l.director, func() { l.ip("link set d0 down") })
	r := l.open(Options{})
	defer r.Close()
	h := r.NextHop(addr("10.9.0.2"))
	state := func(when string, want dataplane.HopState) {
		t.Helper()
		if got := h.Neighbor().State; got != want {
			t.Errorf("%s the hop's state is %d, not %d", when, got, want)
		}
	}
	state("while the link is down", dataplane.HopUnreachable)
	r.take(batch{other: true})
	state("once something has changed", dataplane.HopResolving)
	if err := r.resync(false); err != nil {
		t.Fatal(err)
	}
	state("if there is no route", dataplane.HopUnreachable)
	l.in(l.director, func() { l.ip("link set d0 up") })
	r.take(batch{other: true})
	state("once the link is up", dataplane.HopResolving)
	lost := false
	h.OnLost(func(*dataplane.Frame) bool { lost = true; return false })
	h.Park(&dataplane.Frame{}, func(*dataplane.Frame) {})
	if err := r.resync(false); err != nil {
		t.Fatal(err)
	}
	if h.Neighbor().Ifindex == 0 || lost {
		t.Errorf("the link is up, and the hop is %+v; what waited was given up: %v", *h.Neighbor(), lost)
	}
}

// More notifications than the socket holds: the resolver reads all again.
func TestOverflow(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var r *Resolver
	l.in(l.director, func() {
		var err error
		if r, err = New(Options{}); err != nil {
			t.Error(err)
			return
		}
		// The smallest buffer that the kernel allows, and nobody reading yet.
		if err := r.events.control(func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1)
		}); err != nil {
			t.Error(err)
		}
		h := r.NextHop(addr("10.9.8.8"))
		batch := exec.Command("ip", "-batch", "-")
		batch.Stdin = routes(400)
		run(t, batch)
		l.ip("route add 10.9.8.8 via 10.9.0.2")
		runUntilEnd(t, r)
		await(t, h, "reachable by the last route", reaches(mac1))
	})
}

func TestRejectsOptions(t *testing.T) {
	t.Parallel()
	if _, err := New(Options{Verify: -1}); err == nil {
		t.Error("a negative interval was taken")
	}
}
