package xdp

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/preselect"
	"github.com/ulvs/ulvs/packet"
)

// TestCompares has the program choose by connections and weights, of few real servers and of as
// many as it compares, and compares each packet with a director that has no program.
func TestCompares(t *testing.T) {
	t.Run("persistent", func(t *testing.T) {
		for _, name := range []string{"wlc", "nq"} {
			t.Run(name, func(t *testing.T) { compareForClients(newPair(t, 7), name) })
		}
	})
	for _, name := range []string{"lc", "wlc", "sed", "nq", "fo", "ovf"} {
		sizes := []int{1, 7, 2*pairServers + 1} // the last are more than the program compares
		if name == "wlc" || name == "ovf" {
			sizes = append(sizes, preselect.MostCompared, preselect.MostCompared+1)
		}
		for _, n := range sizes {
			t.Run(fmt.Sprint(name, " ", n), func(t *testing.T) { compareChoices(newPair(t, uint64(n)), name, n) })
		}
	}
}

// The program for processors that load words in any order chooses as the other one does.
func TestWeakOrder(t *testing.T) {
	for _, name := range []string{"rr", "mh", "wlc"} {
		t.Run(name, func(t *testing.T) {
			w := newPair(t, 1)
			w.still.weak = true
			compareChoices(w, name, 7)
		})
	}
}

// compareForClients has the program choose for new clients of a persistent service, and lead known
// ones to where they were.
func compareForClients(w *pair, scheduler string) {
	k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(false), Port: 80}
	w.both("add "+scheduler, func(c ulvs.Control) error {
		return c.AddService(ulvs.Service{ServiceKey: k, Scheduler: scheduler, Persistence: ulvs.Persistence{Timeout: time.Minute}})
	})
	for i := range pairServers {
		w.both(fmt.Sprint("add ", i), func(c ulvs.Control) error {
			return c.AddDestination(k, ulvs.Destination{Addr: pairServer(false, i), Port: 80, Weight: int32(1 + i%2)})
		})
	}
	w.move(time.Second)
	sent := 0
	const syns = 200
	for i := range syns {
		f := shape{proto: layers.IPProtocolTCP, flags: "S", port: uint16(1024 + i), to: 80, from: [4]byte{11, 1, 1, byte(w.rng.IntN(80))}}.frame(w.t)
		if w.send(f) {
			sent++
		}
		if w.rng.IntN(3) == 0 {
			w.send(withFlags(f, choose[uint8](w.rng, packet.ACK, packet.RST)))
		}
	}
	w.compare()
	if sent < syns*9/10 {
		w.t.Errorf("the program opened %d of %d connections", sent, syns)
	}
}

func compareChoices(w *pair, scheduler string, n int) {
	server := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 11, byte(i)}) }
	for i := range n {
		w.resolver.SetReachable(server(i), 1, dataplane.MAC{2, 0, 0, 0, 11, byte(i)})
	}
	if n == preselect.MostCompared {
		w.still.compared = n
	}
	w.must(w.still.load())
	if info, err := w.still.prog.Info(); err == nil {
		const most = 600_000 // of a million that the kernel allows
		if n, ok := info.VerifiedInstructions(); ok && n > most {
			w.t.Errorf("a program that compares %d was verified by %d instructions, at most %d", w.still.mostCompared(), n, most)
		} else {
			w.t.Logf("verified by %d instructions", n)
		}
	}
	for _, protocol := range []ulvs.Protocol{ulvs.TCP, ulvs.UDP} {
		k := ulvs.ServiceKey{Protocol: protocol, Addr: pairVIP(false), Port: 80}
		w.both("add "+scheduler, func(c ulvs.Control) error {
			return c.AddService(ulvs.Service{ServiceKey: k, Scheduler: scheduler})
		})
		for i := range n {
			weight := choose[int32](w.rng, 1, 1, 1, 2, 2, 3, 65535, math.MaxInt32)
			w.both(fmt.Sprint("add ", server(i), " ", weight), func(c ulvs.Control) error {
				return c.AddDestination(k, ulvs.Destination{Addr: server(i), Port: 80, Weight: weight})
			})
		}
	}
	w.move(time.Second)
	before := w.openedNow()
	var list [][]byte
	const syns = 200
	for i := range syns {
		protocol := choose(w.rng, layers.IPProtocolTCP, layers.IPProtocolTCP, layers.IPProtocolUDP)
		f := shape{proto: protocol, flags: "S", port: uint16(1024 + i), to: 80, from: [4]byte{11, 1, 1, byte(i)}}.frame(w.t)
		w.send(f)
		if protocol == layers.IPProtocolTCP {
			list = append(list, f)
			for range 2 {
				w.send(withFlags(list[w.rng.IntN(len(list))], choose[uint8](w.rng, packet.ACK, packet.ACK, packet.ACK|packet.FIN, packet.RST)))
			}
		}
		if i%40 == 39 {
			at, weight := server(w.rng.IntN(n)), choose[int32](w.rng, 1, 2, 3)
			k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(false), Port: 80}
			w.both(fmt.Sprint("edit ", at, " ", weight), func(c ulvs.Control) error {
				return c.EditDestination(k, ulvs.Destination{Addr: at, Port: 80, Weight: weight})
			})
		}
	}
	w.compare()
	switch opened := w.openedNow() - before; {
	case n > preselect.MostCompared && opened > 0:
		w.t.Errorf("the program opened %d connections of %d real servers", opened, n)
	case n <= w.still.mostCompared() && opened < syns/4: // some have no usable server, or one beyond the plane's room
		w.t.Errorf("the program opened %d of %d connections", opened, syns)
	}
}

// What has more real servers than the program compares is Go's, by the way that fits the packet:
// what a socket has no room for is passed.
func TestComparesTooLarge(t *testing.T) {
	w := newPair(t, 1)
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW, 0)
	w.must(err)
	defer unix.Close(fd)
	w.must(w.still.sockets.Put(uint32(0), uint32(fd)))
	k := ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: pairVIP(false), Port: 80}
	w.must(w.fast.AddService(ulvs.Service{ServiceKey: k, Scheduler: "wlc"}))
	for i := range w.still.mostCompared() + 1 {
		at := netip.AddrFrom4([4]byte{192, 168, 11, byte(i)})
		w.resolver.SetReachable(at, 1, dataplane.MAC{2, 0, 0, 0, 11, byte(i)})
		w.must(w.fast.AddDestination(k, ulvs.Destination{Addr: at, Port: 80, Weight: 1}))
	}
	w.fast.Tick(w.still.now)
	const redirect = 4 // XDP_REDIRECT
	for _, size := range []int{100, 1700, 1790, 1900} {
		f := shape{proto: layers.IPProtocolUDP, port: 2000, to: 80, size: size, from: [4]byte{11, 1, 1, 1}}.frame(t)
		action, _, err := runByHand(w.still.prog, f)
		w.must(err)
		want := uint32(redirect)
		if len(f) > program.SocketFrame {
			want = program.ActionPass
		}
		if action != want {
			t.Errorf("a frame of %d bytes: action %d, want %d", len(f), action, want)
		}
	}
}
