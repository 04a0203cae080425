package neigh

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// startRefused is start where the kernel resolves nobody. That its table is full cannot be
// had here: it is one for all namespaces.
func (l *lab) startRefused(opt Options) *Resolver {
	l.t.Helper()
	r := l.open(opt)
	r.setNeighbor = func(*netlink.Neigh) error { return unix.ENOBUFS }
	runUntilEnd(l.t, r)
	return r
}

// both are a server's hops, by IPv4 and IPv6.
func both(r *Resolver) []*dataplane.NextHop {
	return []*dataplane.NextHop{r.NextHop(addr("10.9.0.2")), r.NextHop(addr("fd09::2"))}
}

// Neighbours that are thrown out of the kernel's table keep their address all the while.
func TestVanished(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.start(Options{})
	hops := both(r)
	for _, h := range hops {
		resolve(t, h, reaches(mac1))
	}
	for range 50 {
		for _, h := range hops {
			h := h
			l.in(l.director, func() {
				l.ip("neigh replace " + h.Addr().String() + " lladdr " + mac1 + " nud reachable dev d0")
				l.ip("neigh del " + h.Addr().String() + " dev d0")
			})
			if n := h.Neighbor(); !reaches(mac1)(n) {
				t.Fatalf("%v: %+v", h.Addr(), *n)
			}
		}
	}
	if r.Counters()["next_hops_kept"] == 0 {
		t.Error("nothing was thrown out")
	}
	// In the end the kernel has them again.
	for _, h := range hops {
		k := key{h.Neighbor().Ifindex, h.Addr()}
		eventually(t, func() bool { return r.inKernel(k).valid() })
		if n := h.Neighbor(); !reaches(mac1)(n) {
			t.Errorf("%v: %+v", h.Addr(), *n)
		}
	}
}

// Where the kernel resolves nobody, we do: at first, when they were thrown out, when they
// move with a word and without, and when they die and return.
func TestRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.startRefused(Options{Verify: 300 * time.Millisecond, HoldDown: 20 * time.Second})
	hops := both(r)
	all := func(what string, ok func(*dataplane.Neighbor) bool) {
		t.Helper()
		for _, h := range hops {
			await(t, h, what, ok)
		}
	}
	all("reachable", reaches(mac1))
	l.in(l.director, func() {
		for _, h := range hops {
			l.ip("neigh replace " + h.Addr().String() + " lladdr " + mac1 + " nud reachable dev d0")
			l.ip("neigh del " + h.Addr().String() + " dev d0")
		}
	})
	eventually(t, func() bool { return r.Counters()["next_hops_kept"] == 2 })
	all("still reachable", reaches(mac1))

	move := func(mac string, word bool) {
		l.in(l.server, func() {
			value := "0"
			if word {
				value = "1"
			}
			l.sysctl("ipv4/conf/s0/arp_notify", value)
			l.sysctl("ipv6/conf/s0/ndisc_notify", value)
			l.ip("link set s0 address " + mac)
		})
	}
	move(mac2, false)
	all("at the address that it did not announce", reaches(mac2))
	move(mac1, true)
	all("at the address that it announced", reaches(mac1))

	l.in(l.server, func() { l.ip("link set s0 down") })
	for _, h := range hops {
		await(t, h, "given up", is(dataplane.HopUnreachable))
	}
	l.in(l.server, func() {
		l.ip("link set s0 up")
		l.ip("-6 addr replace fd09::2/64 dev s0 nodad")
	})
	for _, h := range hops {
		// As frames do that come again and again.
		eventually(t, func() bool {
			h.Park(&dataplane.Frame{Data: []byte{1}, Hop: h}, func(*dataplane.Frame) {})
			return reaches(mac1)(h.Neighbor())
		})
	}
}

// An announcement is followed at once, not by a question.
func TestRefusedAnnounced(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r := l.startRefused(Options{Verify: time.Hour})
	hops := both(r)
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

// Who does not answer is asked as often as the kernel would, whatever number of frames
// wait for it, and nobody else is.
func TestRefusedDead(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	questions := l.questions()
	r := l.startRefused(Options{HoldDown: time.Hour, Verify: time.Hour})
	other := r.NextHop(addr("10.9.0.2"))
	await(t, other, "reachable, and the link up", reaches(mac1))
	questions()
	h := r.NextHop(addr("10.9.0.3"))
	for range 1000 {
		h.Park(&dataplane.Frame{Data: []byte{1}, Hop: h}, func(*dataplane.Frame) {})
	}
	await(t, h, "given up", is(dataplane.HopUnreachable))
	if h.Lost() != 1000 {
		t.Errorf("%d frames were given up", h.Lost())
	}
	want := slices.Repeat([]netip.Addr{addr("10.9.0.3")}, tries-everybody)
	if got := questions(); !slices.Equal(got, want) {
		t.Errorf("asked for %v", got)
	}
}

// questions notes whom the server is asked for by ARP.
func (l *lab) questions() func() (list []netip.Addr) {
	var fd int
	l.in(l.server, func() {
		var err error
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(bigEndian(unix.ETH_P_ARP))); err != nil {
			l.t.Error(err)
		}
	})
	l.t.Cleanup(func() { _ = unix.Close(fd) })
	return func() (list []netip.Addr) {
		buf := make([]byte, 100)
		for {
			n, err := unix.Read(fd, buf)
			if err != nil {
				return list
			}
			if n >= arpLen && binary.BigEndian.Uint16(buf[6:]) == arpRequest {
				list = append(list, netip.AddrFrom4([4]byte(buf[24:])))
			}
		}
	}
}

// All neighbours together are asked so many questions a second, and as many at once.
func TestBudget(t *testing.T) {
	var b budget
	now := time.Now()
	taken := 0
	for i := range 31 {
		for b.take(now.Add(time.Duration(i) * 100 * time.Millisecond)) {
			taken++
		}
	}
	// As many as there may be at once, and those of three seconds.
	if taken != 4*questions {
		t.Errorf("%d questions", taken)
	}
}

func TestAnswers(t *testing.T) {
	us, them := [4]byte{10, 9, 0, 1}, [4]byte{10, 9, 0, 2}
	mac := [6]byte{2, 0, 0, 0, 0, 2}
	arp := func(op byte, sender, target [4]byte) []byte {
		b := append([]byte{0, 1, 8, 0, 6, 4, 0, op}, mac[:]...)
		b = append(append(b, sender[:]...), 0, 0, 0, 0, 0, 0)
		return append(b, target[:]...)
	}
	k := key{7, netip.AddrFrom4(them)}
	for name, c := range map[string]struct {
		message []byte
		toUs    bool
		want    answer
	}{
		"reply":                  {arp(arpReply, them, us), true, answer{key: k, mac: mac, has: true, solicited: true}},
		"reply to all":           {arp(arpReply, them, them), false, answer{key: k, mac: mac, has: true, override: true}},
		"announcement":           {arp(arpRequest, them, them), false, answer{key: k, mac: mac, has: true, override: true}},
		"request":                {arp(arpRequest, them, us), true, answer{}},
		"another operation":      {arp(3, them, us), true, answer{}},
		"too short":              {arp(arpReply, them, us)[:27], true, answer{}},
		"not IPv4 over Ethernet": {append([]byte{0, 6}, arp(arpReply, them, us)[2:]...), true, answer{}},
	} {
		got, ok := parseARP(c.message, 7, c.toUs)
		if got != c.want || ok != (c.want != answer{}) {
			t.Errorf("%s: %+v %v, want %+v", name, got, ok, c.want)
		}
	}
	na := func(flags byte, options ...byte) []byte {
		b := append([]byte{advertisement, 0, 0, 0, flags, 0, 0, 0}, addr("fd09::2").AsSlice()...)
		return append(b, options...)
	}
	link := append([]byte{targetLink, 1}, mac[:]...)
	k.addr = addr("fd09::2")
	for name, c := range map[string]struct {
		message []byte
		hops    int
		want    answer
	}{
		"answer":                {na(0x60, link...), 255, answer{key: k, mac: mac, has: true, solicited: true, override: true}},
		"without an address":    {na(0x40), 255, answer{key: k, solicited: true}},
		"announcement":          {na(0x20, link...), 255, answer{key: k, mac: mac, has: true, override: true}},
		"behind another option": {na(0x40, append([]byte{5, 1, 0, 0, 0, 0, 0, 0}, link...)...), 255, answer{key: k, mac: mac, has: true, solicited: true}},
		"by way of a router":    {na(0x60, link...), 254, answer{}},
		"an option of no size":  {na(0x60, 2, 0, 0, 0, 0, 0, 0, 0), 255, answer{}},
		"an option too long":    {na(0x60, 2, 2, 0, 0, 0, 0, 0, 0), 255, answer{}},
		"too short":             {na(0x60)[:23], 255, answer{}},
	} {
		got, ok := parseAdvertisement(c.message, 7, c.hops)
		if got != c.want || ok != (c.want != answer{}) {
			t.Errorf("%s: %+v %v, want %+v", name, got, ok, c.want)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte{0, 1, 8, 0, 6, 4, 0, 2})
	f.Add(append([]byte{advertisement}, make([]byte, 40)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, ok := parseARP(b, 7, true); ok && (!a.key.addr.Is4() || !a.has) {
			t.Errorf("%+v", a)
		}
		if a, ok := parseAdvertisement(b, 7, hopLimit); ok && !a.key.addr.Is6() {
			t.Errorf("%+v", a)
		}
		arrived(b)
	})
}

// What is nobody's answer changes nothing: a neighbour that the kernel has, one that was
// not asked, a stranger, and a second answer within the first one's time.
func TestAccept(t *testing.T) {
	now := time.Now()
	k, other := key{7, addr("10.9.0.2")}, dataplane.MAC{9}
	valid := state{nud: unix.NUD_REACHABLE, mac: dataplane.MAC{1}, has: true}
	for name, c := range map[string]struct {
		entry entry
		a     answer
		want  bool
	}{
		"kernel's":          {entry{state: valid}, answer{override: true}, false},
		"not asked":         {entry{}, answer{solicited: true}, false},
		"asked":             {entry{askNext: now}, answer{solicited: true}, true},
		"own":               {entry{state: valid, own: true}, answer{solicited: true}, true},
		"own, just moved":   {entry{state: valid, own: true, movedAt: now}, answer{solicited: true}, false},
		"own, announced":    {entry{state: valid, own: true, movedAt: now}, answer{override: true}, true},
		"another neighbour": {entry{state: valid, own: true, key: key{8, k.addr}}, answer{override: true}, false},
	} {
		e := c.entry
		if e.key == (key{}) {
			e.key = k
		}
		r := &Resolver{entries: map[key]*entry{e.key: &e}}
		c.a.key, c.a.mac, c.a.has = k, other, true
		if got := r.accept(c.a, now); got != c.want || (e.mac == other) != c.want {
			t.Errorf("%s: %v, %v", name, got, e.mac)
		}
	}
}
