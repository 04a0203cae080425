package xdp

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/preselect"
	"github.com/ulvs/ulvs/packet"
)

// TestCompares has the program choose by connections and weights, of few real servers and of as
// many as it compares, and compares each packet with a director that has no program.
func TestCompares(t *testing.T) {
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

func compareChoices(w *pair, scheduler string, n int) {
	server := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 11, byte(i)}) }
	for i := range n {
		w.resolver.SetReachable(server(i), 1, dataplane.MAC{2, 0, 0, 0, 11, byte(i)})
	}
	if n == preselect.MostCompared {
		w.still.compared = n
	}
	w.must(w.still.load())
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
