package xdp

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/director"
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

// handled is where a director sends frames that it gets at once: the last byte of the server's MAC
// address, or 0.
func (w *pair) handled(d *director.Director, frames [][]byte) (to []byte) {
	list := make([]dataplane.Frame, len(frames))
	for i, f := range frames {
		list[i] = dataplane.Frame{Data: bytes.Clone(f), In: 1, Room: make([]byte, 0, 2048)}
	}
	d.Handle(w.still.now, list)
	for i := range list {
		at := byte(0)
		if list[i].Verdict == dataplane.Transmit && list[i].Hop != nil {
			at = list[i].Hop.Neighbor().Dst[5]
		}
		to = append(to, at)
	}
	return to
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
	var burst [][]byte
	for range 120 {
		port++
		burst = append(burst, shape{proto: layers.IPProtocolTCP, flags: "S", port: port, to: 80, from: [4]byte{11, 1, 2, byte(port)}}.frame(w.t))
	}
	if got, want := w.handled(w.fast, burst), w.handled(w.plain, burst); !slices.Equal(got, want) {
		w.fail("a burst in Go:\n%v, want\n%v", got, want)
	}
	w.compare()
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
