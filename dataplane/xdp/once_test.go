package xdp

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
)

// TestOnePacket has the program schedule each packet of a service of one-packet scheduling, by
// schedulers of each kind, IPv6 and thresholds included. None has a connection, all are counted.
func TestOnePacket(t *testing.T) {
	for _, scheduler := range []string{"rr", "sh", "wlc", "nq"} {
		t.Run(scheduler, func(t *testing.T) { onceEach(newPair(t, 1), scheduler) })
	}
}

func onceEach(w *pair, scheduler string) {
	for _, six := range []bool{false, true} {
		k := ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: pairVIP(six), Port: 53}
		w.both("add "+scheduler, func(c ulvs.Control) error {
			return c.AddService(ulvs.Service{ServiceKey: k, Scheduler: scheduler, OnePacket: true})
		})
		for i := range 3 {
			w.both(fmt.Sprint("add ", i), func(c ulvs.Control) error {
				return c.AddDestination(k, ulvs.Destination{Addr: pairServer(six, i), Port: 53, Weight: int32(i + 1),
					UpperThreshold: uint32(i % 2 * 100)})
			})
		}
	}
	w.move(time.Second)
	sent, all := 0, 0
	for i := range 200 {
		s := shape{proto: layers.IPProtocolUDP, port: uint16(1024 + i/4), to: 53, from: [4]byte{11, 1, 1, byte(i / 4)}}
		s.six = i%3 == 0
		all++
		if w.send(s.frame(w.t)) {
			sent++
		}
		if i%50 == 0 {
			w.compare()
		}
	}
	w.move(3 * time.Second) // the estimator's next round
	w.compare()
	if sent < all*9/10 {
		w.t.Errorf("the program sent %d of %d packets", sent, all)
	}
	if c, _ := w.fast.Counters(); c["connections"] != 0 {
		w.t.Errorf("there are %d connections", c["connections"])
	}
	if list, _ := w.fast.Services(); list[0].Stats.Conns+list[1].Stats.Conns != uint64(all) {
		w.t.Errorf("%d and %d connections were counted, of %d", list[0].Stats.Conns, list[1].Stats.Conns, all)
	}
	w.restart()
	w.compare()
}

// A packet that is a connection by itself brings a real server to a threshold of 1 and away from it
// at once: nobody else is chosen for that, and the program goes on.
func TestOnePacketAtThreshold(t *testing.T) {
	w := newPair(t, 1)
	k := ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: pairVIP(false), Port: 53}
	w.both("add", func(c ulvs.Control) error {
		return c.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr", OnePacket: true})
	})
	for i := range pairServers {
		w.both("add", func(c ulvs.Control) error {
			return c.AddDestination(k, ulvs.Destination{Addr: pairServer(false, i), Port: 53, Weight: 1, UpperThreshold: []uint32{0, 0, 0, 1}[i]})
		})
	}
	w.move(time.Second)
	sent := 0
	for i := range 400 {
		if w.send(shape{proto: layers.IPProtocolUDP, port: uint16(1024 + i), to: 53, from: [4]byte{11, 1, 1, 1}}.frame(t)) {
			sent++
		}
		if i%100 == 0 {
			w.move(50 * time.Millisecond)
		}
	}
	w.move(3 * time.Second)
	w.compare()
	if sent < 250 {
		t.Errorf("the program sent %d of 400: 3 of 4 real servers have no threshold", sent)
	}
}
