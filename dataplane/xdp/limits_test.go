package xdp

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/packet"
)

// TestLimits has the program open connections to real servers with thresholds, by schedulers of
// each kind. It does so while a server is far from its upper threshold, and after it has come back
// from there.
func TestLimits(t *testing.T) {
	for _, scheduler := range []string{"rr", "wrr", "sh", "mh", "wlc", "ovf"} {
		t.Run(scheduler, func(t *testing.T) { limitedChoices(newPair(t, 1), scheduler) })
	}
}

func limitedChoices(w *pair, scheduler string) {
	k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(false), Port: 80}
	w.both("add "+scheduler, func(c ulvs.Control) error {
		return c.AddService(ulvs.Service{ServiceKey: k, Scheduler: scheduler})
	})
	for i := range 3 {
		w.both(fmt.Sprint("add ", i), func(c ulvs.Control) error {
			return c.AddDestination(k, ulvs.Destination{Addr: pairServer(false, i), Port: 80, Weight: int32(i + 1),
				UpperThreshold: uint32(20 + 10*i), LowerThreshold: uint32(5 * i)})
		})
	}
	w.move(time.Second)
	port := uint16(1024)
	syns := func(n int) (opened uint64) {
		before := w.openedNow()
		for range n {
			port++
			f := shape{proto: layers.IPProtocolTCP, flags: "S", port: port, to: 80, from: [4]byte{11, 1, 1, byte(port)}}.frame(w.t)
			w.send(f)
			if w.rng.IntN(3) == 0 {
				w.send(withFlags(f, choose[uint8](w.rng, packet.ACK, packet.RST)))
			}
		}
		w.compare()
		return w.openedNow() - before
	}
	if n := syns(12); n < 9 {
		w.t.Errorf("below the thresholds the program opened %d of 12", n)
	}
	if n := syns(200); n > 80 {
		w.t.Errorf("the program opened %d, though the thresholds add up to 90", n)
	}
	w.move(time.Hour)
	if n := syns(12); n < 9 {
		w.t.Errorf("below the thresholds again, the program opened %d of 12", n)
	}
	want := netip.AddrPortFrom(pairServer(false, 0), 80)
	w.both("no limit", func(c ulvs.Control) error {
		return c.EditDestination(k, ulvs.Destination{Addr: want.Addr(), Port: want.Port(), Weight: 1})
	})
	syns(100)
}
