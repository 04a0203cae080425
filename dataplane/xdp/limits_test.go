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
	for _, scheduler := range []string{"rr", "wrr", "mh", "wlc"} {
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

// limited are two directors with a service of real servers of these upper thresholds.
func limited(t *testing.T, seed uint64, s ulvs.Service, upper ...uint32) *pair {
	w := newPair(t, seed)
	s.ServiceKey = ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(false), Port: 80}
	w.both("add "+s.Scheduler, func(c ulvs.Control) error { return c.AddService(s) })
	for i, u := range upper {
		w.both(fmt.Sprint("add ", i, " ", u), func(c ulvs.Control) error {
			return c.AddDestination(s.ServiceKey, ulvs.Destination{Addr: pairServer(false, i), Port: 80, Weight: 1, UpperThreshold: u})
		})
	}
	w.move(time.Second)
	return w
}

func limitedSYN(t *testing.T, client byte, port uint16) []byte {
	return shape{proto: layers.IPProtocolTCP, flags: "S", port: port, to: 80, from: [4]byte{11, 1, 1, client}}.frame(t)
}

// TestLimitsBatches has real servers reach their thresholds, and leave them, in the middle of
// batches that are Go's.
func TestLimitsBatches(t *testing.T) {
	for i, scheduler := range []string{"rr", "wrr", "wrr", "sh"} {
		t.Run(fmt.Sprint(i, " ", scheduler), func(t *testing.T) {
			s := ulvs.Service{Scheduler: scheduler}
			if i >= 2 {
				s.Persistence.Timeout = 30 * time.Second
			}
			w := limited(t, uint64(i), s, 2, 0, 4, 1)
			for n := range 80 {
				var frames [][]byte
				for range 1 + w.rng.IntN(12) {
					f := limitedSYN(t, byte(w.rng.IntN(6)), uint16(2000+w.rng.IntN(40)))
					frames = append(frames, withFlags(f, choose[uint8](w.rng, packet.SYN, packet.SYN, packet.ACK, packet.RST)))
				}
				if n%2 == 0 {
					for _, f := range frames {
						w.send(f)
					}
				} else if got, want := w.handled(w.fast, frames), w.handled(w.plain, frames); !slices.Equal(got, want) {
					w.fail("batch %d: %v, want %v", n, got, want)
				}
				if w.rng.IntN(12) == 0 {
					w.move(time.Duration(1+w.rng.IntN(60)) * time.Second)
				}
				w.compare()
			}
		})
	}
}

// Connections that end at the head of a batch end that their real server is overloaded, and what
// comes in the batch may be for it.
func TestLimitsExpiry(t *testing.T) {
	w := limited(t, 1, ulvs.Service{Scheduler: "rr"}, 2, 0)
	for i := range uint16(6) {
		w.send(limitedSYN(t, 1, 2000+i))
	}
	w.still.now += 70 * time.Second // and no Tick
	w.must(w.still.load())
	for i := range uint16(4) {
		f := [][]byte{limitedSYN(t, 1, 3000+i)}
		if got, want := w.handled(w.fast, f), w.handled(w.plain, f); !slices.Equal(got, want) {
			w.fail("%d: %v, want %v", i, got, want)
		}
	}
	w.compare()
}

// Clients' templates bring a real server to its threshold, and the daemon is killed before it has
// heard of their connections: the next one takes the server for overloaded.
func TestLimitsRestart(t *testing.T) {
	w := limited(t, 1, ulvs.Service{Scheduler: "rr", Persistence: ulvs.Persistence{Timeout: time.Hour}}, 3, 0)
	for i := range uint16(5) {
		w.send(limitedSYN(t, 1, 2000+i))
		w.send(limitedSYN(t, 2, 2000+i))
	}
	w.restart()
	for client := range byte(6) {
		w.send(limitedSYN(t, 10+client, 2000))
	}
	w.compare()
}

// TestLimitsSteady has a service stand at its threshold, where each connection that comes or goes
// changes who may be chosen: that is found once a tick, and not with each.
func TestLimitsSteady(t *testing.T) {
	upper := make([]uint32, pairServers)
	for i := range upper {
		upper[i] = 3
	}
	w := limited(t, 1, ulvs.Service{Scheduler: "wrr"}, upper...)
	for i := range uint16(400) {
		w.still.now += 6 * time.Second // a connection is there for 60 s
		f := [][]byte{limitedSYN(t, byte(i), 1024+i)}
		if got, want := w.handled(w.fast, f), w.handled(w.plain, f); !slices.Equal(got, want) {
			w.fail("%d: %v, want %v", i, got, want)
		}
		if i%20 == 0 {
			w.fast.Tick(w.still.now)
			w.plain.Tick(w.still.now)
		}
	}
	w.compare()
}
