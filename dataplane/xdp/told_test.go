package xdp

import (
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
)

// TestTold has the program bring established connections into a state that ends sooner than the timer
// that Go has set, and nobody look at them: Go ends them in time, as it was told, and none besides.
func TestTold(t *testing.T) {
	w := newPair(t, 1)
	k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(false), Port: 80}
	w.both("add", func(c ulvs.Control) error { return c.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr"}) })
	w.both("add", func(c ulvs.Control) error {
		return c.AddDestination(k, ulvs.Destination{Addr: pairServer(false, 0), Port: 80, Weight: 1})
	})
	w.move(time.Second)
	const conns, close = 300, 100
	sent := 0
	all := func(flags string, some func(i int) bool) {
		for i := range conns {
			s := shape{proto: layers.IPProtocolTCP, flags: flags, port: uint16(1024 + i), to: 80, from: [4]byte{11, 1, 1, 1}}
			if some(i) && w.send(s.frame(t)) {
				sent++
			}
		}
	}
	always := func(int) bool { return true }
	all("S", always)
	w.move(time.Second)
	all("A", always)
	w.move(61 * time.Second) // the timer that a SYN has is over: Go has looked
	all("FA", func(i int) bool { return i%(conns/close) == 0 })
	if sent < (2*conns+close)*9/10 {
		t.Fatalf("the program sent %d of %d packets", sent, 2*conns+close)
	}
	left := func() uint64 {
		c, err := w.fast.Counters()
		w.must(err)
		return c["connections"]
	}
	w.move(119 * time.Second)
	if n := left(); n != conns {
		t.Errorf("round 1: %d connections are left, of %d", n, conns)
	}
	w.move(2 * time.Second)
	if n := left(); n != conns-close {
		t.Errorf("round 2: %d connections are left, want %d", n, conns-close)
	}
	w.compare()
}
