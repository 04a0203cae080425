package xdp

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/sched"
)

// pair are two directors that are told and sent the same. Of one, the program opens
// what connections it can; the other decides all by itself.
type pair struct {
	t                          *testing.T
	rng                        *rand.Rand
	still                      *still
	slow                       *dataplanetest.Plane
	resolver                   *dataplanetest.Resolver
	fast                       *director.Director
	plain                      *director.Director
	log                        []string
	restarts                   bool
	marks                      bool     // there are services by mark, and rules
	sent                       [][]byte // frames that were sent
	openedByMark, openedTagged int
	openedSCTP, openedSloppy   int
	states                     uint64
	connections                int // how many there may be
	logger                     *slog.Logger
}

const pairServers = 4

func pairServer(six bool, i int) netip.Addr {
	if six {
		return netip.MustParseAddr(fmt.Sprintf("fd00:10::%d", 200+i))
	}
	return netip.MustParseAddr(fmt.Sprintf("192.168.10.%d", 200+i))
}

func pairVIP(six bool) netip.Addr {
	if six {
		return netip.MustParseAddr("fd00:10::101")
	}
	return netip.MustParseAddr("192.168.10.101")
}

func newPair(t *testing.T, seed uint64) *pair { return newPairOf(t, seed, 255) }

// newPairOf is a pair whose program knows so many real servers.
func newPairOf(t *testing.T, seed uint64, servers int) *pair {
	w := newSide(t, seed, servers)
	w.start()
	var err error
	w.plain, err = director.New(w.options(unlimited()))
	w.must(err)
	t.Cleanup(w.plain.Close)
	return w
}

// newSide is a pair to be: the plane of the one whose program opens connections, without directors.
func newSide(t *testing.T, seed uint64, servers int) *pair {
	p, err := New(Options{Interfaces: []string{"lo"}, Slow: unlimited(), Servers: servers})
	if errors.Is(err, ErrNotPermitted) {
		t.Skip(err)
	}
	w := &pair{t: t, rng: rand.New(rand.NewPCG(seed, 2)), still: &still{Plane: p, now: time.Hour},
		slow: dataplanetest.New(), resolver: dataplanetest.NewResolver(), connections: 1 << 15}
	w.must(err)
	gone(t, p)
	p.egress.out = map[int]bool{1: true}
	w.must(p.claims.open(true))
	w.still.sockets, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	w.must(err)
	t.Cleanup(func() { _ = w.still.sockets.Close() })
	w.still.clock, err = newArray("ulvs_clock", 8)
	w.must(err)
	t.Cleanup(w.still.clock.close)
	w.resolver.SetLink(1, "eth0", own)
	for _, six := range []bool{false, true} {
		for i := range pairServers {
			w.resolver.SetReachable(pairServer(six, i), 1, dataplane.MAC{2, 0, 0, 0, 10, byte(200 + i)})
		}
	}
	w.resolver.SetLocal(netip.MustParseAddr("10.0.0.3"), true)
	return w
}

func (w *pair) options(p dataplane.Plane) director.Options {
	return director.Options{Plane: p, Resolver: w.resolver, Connections: w.connections, RSTs: -1, Logger: w.logger,
		Clock: func() time.Duration { return w.still.now }}
}

// start starts a director on the program's plane, which goes on with what the one
// before has left.
func (w *pair) start() {
	var err error
	w.fast, err = director.New(w.options(w.still))
	w.must(err)
}

func (w *pair) must(err error) {
	if err != nil {
		w.t.Helper()
		w.t.Fatalf("%v\n%s", err, strings.Join(w.log, "\n"))
	}
}

// both does the same with both directors.
func (w *pair) both(what string, f func(ulvs.Control) error) {
	w.log = append(w.log, what)
	a, b := f(w.fast), f(w.plain)
	if (a == nil) != (b == nil) {
		w.fail("%s: %v, want %v", what, a, b)
	}
}

func (w *pair) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\nafter:\n%s", fmt.Sprintf(format, args...), strings.Join(w.log, "\n"))
}

func choose[E any](r *rand.Rand, list ...E) E { return list[r.IntN(len(list))] }

func (w *pair) key() ulvs.ServiceKey {
	six := w.rng.IntN(3) == 0
	if w.marks && w.rng.IntN(2) == 0 {
		return ulvs.ServiceKey{Mark: choose[uint32](w.rng, 10, 11), IPv6: six}
	}
	return ulvs.ServiceKey{Protocol: choose(w.rng, ulvs.TCP, ulvs.TCP, ulvs.TCP, ulvs.UDP, ulvs.SCTP), Addr: pairVIP(six), Port: choose[uint16](w.rng, 80, 80, 81, 0, 21, 21, 4000)}
}

// command gives both a random command.
func (w *pair) command() {
	r, k := w.rng, w.key()
	if w.marks && r.IntN(5) == 0 {
		w.rule()
		return
	}
	six := k.Is6()
	d := ulvs.Destination{Addr: pairServer(six, r.IntN(pairServers)), Port: k.Port, Weight: int32(r.IntN(4))}
	if r.IntN(4) == 0 {
		d.UpperThreshold = uint32(1 + r.IntN(12))
		d.LowerThreshold = uint32(r.IntN(int(d.UpperThreshold)))
	}
	if r.IntN(30) == 0 {
		d.Forward = ulvs.Masquerade
	}
	s := ulvs.Service{ServiceKey: k, Scheduler: choose(r, "rr", "rr", "wrr", "wrr", "wlc", "wlc", "lc", "sed", "nq", "fo", "ovf", "sh", "dh", "mh")}
	s.SchedFlags = sched.Flags(r.IntN(4)) * sched.Flag1 // of sh and mh: fallback, port
	if k.Port == 0 && k.Mark == 0 || r.IntN(2) == 0 {
		s.Persistence.Timeout = time.Duration(1+r.IntN(300)) * time.Second
		if r.IntN(2) == 0 {
			s.Persistence.Netmask = netip.MustParseAddr("255.255.255.0")
			if six {
				s.Persistence.Netmask = netip.MustParseAddr("ffff:ffff:ffff:ffff::")
			}
		}
	}
	s.OnePacket = (k.Protocol == ulvs.UDP || k.Mark != 0) && r.IntN(8) == 0
	switch r.IntN(10) {
	case 0, 1:
		w.both(fmt.Sprintf("add %+v", s), func(c ulvs.Control) error { return c.AddService(s) })
	case 2:
		w.both(fmt.Sprintf("edit %+v", s), func(c ulvs.Control) error { return c.EditService(s) })
	case 3:
		if r.IntN(8) == 0 {
			w.both(fmt.Sprintf("delete %+v", k), func(c ulvs.Control) error { return c.DeleteService(k) })
		}
	case 4, 5, 6:
		w.both(fmt.Sprintf("add %v %+v", k, d), func(c ulvs.Control) error { return c.AddDestination(k, d) })
	case 7:
		w.both(fmt.Sprintf("edit %v %+v", k, d), func(c ulvs.Control) error { return c.EditDestination(k, d) })
	case 8:
		at := netip.AddrPortFrom(d.Addr, d.Port)
		w.both(fmt.Sprintf("delete %v %v", k, at), func(c ulvs.Control) error { return c.DeleteDestination(k, at) })
	case 9:
		if r.IntN(4) == 0 {
			t := ulvs.Timeouts{TCP: choose[time.Duration](r, 10, 90, 900) * time.Second, TCPFin: choose[time.Duration](r, 5, 120) * time.Second, UDP: 300 * time.Second}
			w.both(fmt.Sprintf("set %+v", t), func(c ulvs.Control) error { return c.SetTimeouts(t) })
			return
		}
		name := choose(r, "expire_quiescent_template", "expire_nodest_conn", "conn_reuse_mode", "sloppy_tcp", "sloppy_sctp", "secure_tcp", "drop_packet")
		n := r.IntN(8) / 7
		if strings.HasPrefix(name, "sloppy") {
			n = r.IntN(2)
		}
		if name == "secure_tcp" || name == "drop_packet" {
			n *= 3
		}
		if name == "drop_packet" && w.restarts {
			return // it counts anew with each daemon
		}
		w.both(fmt.Sprint(name, "=", n), func(c ulvs.Control) error { return c.SetSysctl(name, n) })
	}
}

// fate is what a director does with a frame.
func (w *pair) fate(d *director.Director, frame []byte) string {
	plane := dataplane.Frame{Data: bytes.Clone(frame), In: 1, Room: make([]byte, 0, 2048), Handed: d == w.fast && counted(frame)}
	list := []dataplane.Frame{plane}
	d.Handle(w.still.now, list)
	dataplane.Carried(d, list)
	f := &list[0]
	if f.Verdict == dataplane.Transmit && f.Hop != nil {
		n := f.Hop.Neighbor()
		copy(f.Data, n.Dst[:])
		copy(f.Data[6:], n.Src[:])
	}
	return fmt.Sprintf("verdict %d: %x", f.Verdict, f.Data)
}

// send sends both the same frame, and reports whether the program sent it on. The clock does not
// stand still in between for a program that opens connections.
func (w *pair) send(frame []byte) (sent bool) {
	var p = gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	w.log = append(w.log, fmt.Sprint(p.NetworkLayer().NetworkFlow(), p.TransportLayer().TransportFlow()))
	want := w.fate(w.plain, frame)
	action, out, err := runByHand(w.still.prog, frame)
	w.must(err)
	got := ""
	if action == program.ActionTX {
		got = fmt.Sprintf("verdict %d: %x", dataplane.Transmit, out)
	} else {
		got = w.fate(w.fast, frame)
	}
	if got != want {
		a, _ := w.fast.Counters()
		b, _ := w.plain.Counters()
		w.fail("%v\naction %d, %.100s\nwant      %.100s\n%v\n%v", p, action, got, want, a, b)
	}
	return action == program.ActionTX
}

// listing is all that an operator sees.
func (w *pair) listing(d *director.Director) string {
	var b strings.Builder
	var lines []string
	w.must(d.Conns(func(c ulvs.ConnStatus) bool {
		lines = append(lines, fmt.Sprintf("%+v", c))
		return true
	}))
	slices.Sort(lines)
	list, err := d.Services()
	w.must(err)
	slices.SortFunc(list, func(a, b ulvs.ServiceStatus) int {
		return cmp.Compare(fmt.Sprint(a.ServiceKey), fmt.Sprint(b.ServiceKey))
	})
	for _, s := range list {
		s.Opened = ulvs.Opened{} // what differs
		fmt.Fprintf(&b, "%+v\n", s)
	}
	return b.String() + strings.Join(lines, "\n")
}

func (w *pair) compare() {
	if got, want := w.listing(w.fast), w.listing(w.plain); got != want {
		w.fail("%s\nwant\n%s", got, want)
	}
	d, err := w.fast.Counters()
	w.must(err)
	p, err := w.plain.Counters()
	w.must(err)
	if d["connections"] != p["connections"] || d["templates"] != p["templates"] {
		w.fail("%d connections and %d templates, want %d and %d", d["connections"], d["templates"], p["connections"], p["templates"])
	}
}

// openedNow is how many connections the program opened since the last restart.
func (w *pair) openedNow() uint64 {
	c, err := w.fast.Counters()
	w.must(err)
	return c["opened_by_plane"]
}

// statesNow is how many states of connections the program changed since then.
func (w *pair) statesNow() uint64 {
	c, err := w.fast.Counters()
	w.must(err)
	return c["states_by_plane"]
}

// byMark is how many connections services by mark have.
func (w *pair) byMark() (n uint64) {
	list, err := w.fast.Services()
	w.must(err)
	for _, s := range list {
		if s.Mark != 0 {
			for _, d := range s.Destinations {
				n += uint64(d.ActiveConns + d.InactConns)
			}
		}
	}
	return n
}

// move moves the clock.
func (w *pair) move(d time.Duration) {
	w.log = append(w.log, fmt.Sprint("+", d))
	for d > 0 {
		step := min(d, 500*time.Millisecond)
		w.still.now += step
		d -= step
		w.fast.Tick(w.still.now)
		w.plain.Tick(w.still.now)
	}
	w.still.moveClock()
}

// restart has another director go on, as after kill -9.
func (w *pair) restart() {
	w.log = append(w.log, "restart")
	w.start()
	if !w.fast.Adopted() {
		w.fail("nothing was adopted")
	}
}

var pairSeeds = flag.Int("pairs", 6, "how many random courses TestOpens takes")

// TestOpens has a program open connections, and compares each packet, and all that is
// listed, with a director that has no such program.
func TestOpens(t *testing.T) {
	opened, states, byMark, tagged, sctp, sloppy := uint64(0), uint64(0), 0, 0, 0, 0
	for seed := range *pairSeeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newPair(t, uint64(seed))
			w.marks = (seed+seed/2)%2 == 1
			opened += pairCourse(w, seed%2 == 0)
			states, byMark, tagged = states+w.states, byMark+w.openedByMark, tagged+w.openedTagged
			sctp, sloppy = sctp+w.openedSCTP, sloppy+w.openedSloppy
		})
	}
	t.Logf("the program opened %d connections, %d of them by mark, %d in a VLAN, %d of SCTP and %d as sloppy_tcp or sloppy_sctp wants it, and brought them into %d states",
		opened, byMark, tagged, sctp, sloppy, states)
	if few := *pairSeeds; opened < 30*uint64(few) || states < 8*uint64(few) || min(byMark, tagged, sctp, sloppy) < few {
		t.Error("that was not much")
	}
}

// pairCourse is a random course of events.
func pairCourse(w *pair, restarts bool) (opened uint64) {
	w.restarts = restarts
	for range 80 {
		w.command()
	}
	for range 1000 {
		switch n := w.rng.IntN(140); {
		case n < 8:
			w.command()
		case n < 132:
			before, states, marked, frame := w.openedNow(), w.statesNow(), w.byMark(), w.frame()
			w.send(frame)
			w.states += w.statesNow() - states
			n := w.openedNow() - before
			if opened += n; n > 0 && w.byMark() > marked {
				w.openedByMark++
			}
			if n > 0 && frame[12] == 0x81 {
				w.openedTagged++
			}
			if n > 0 {
				w.counted(frame)
			}
		case n < 136:
			w.compare()
		case n < 138:
			w.move(time.Duration(1+w.rng.IntN(90)) * time.Second)
		case w.restarts:
			for range 4 { // which the daemon may not have seen when it is killed
				w.send(w.frame())
			}
			w.restart()
		}
	}
	w.compare()
	return opened
}
