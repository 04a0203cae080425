package xdp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/preselect"
	"github.com/ulvs/ulvs/internal/shtab"
)

// When half of the choices are used up of a scheduler that does not come back to where it stood for long, one packet of many goes to Go, so
// that it decides on more; but none does where there is no daemon to get it.
func TestWakes(t *testing.T) {
	for name, away := range map[string]time.Duration{"a daemon": 0, "none": 2 * program.HeartbeatTimeout * time.Second} {
		t.Run(name, func(t *testing.T) {
			run := openingUDP(t, "wrr", 1<<16-1, away)
			const half, all = preselect.Picks / 2, preselect.Picks - 1
			for i := range uint32(half - 1) {
				if !run(i) {
					t.Fatalf("packet %d was passed", i)
				}
			}
			opened, tried := half-1, 0
			for ; opened < all && tried < all; tried++ {
				if run(uint32(half + tried)) {
					opened++
				}
			}
			switch asked := tried - (opened - (half - 1)); {
			case away == 0 && asked < tried/128:
				t.Errorf("of the last %d packets %d were passed", tried, asked)
			case away != 0 && asked > 0:
				t.Errorf("of the last %d packets %d were passed, with nobody there", tried, asked)
			}
			if run(1 << 14) {
				t.Error("a connection was opened without a choice")
			}
		})
	}
}

// openingUDP returns what has a program see the i-th packet of new connections to two servers, of
// weight 1 and another, which no daemon has been told of for a time.
func openingUDP(t *testing.T, scheduler string, weight int32, away time.Duration) (run func(i uint32) (opened bool)) {
	w := newPair(t, 1)
	k := ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: pairVIP(false), Port: 80}
	w.must(w.fast.AddService(ulvs.Service{ServiceKey: k, Scheduler: scheduler}))
	for i, n := range []int32{1, weight} {
		w.must(w.fast.AddDestination(k, ulvs.Destination{Addr: pairServer(false, i), Port: 80, Weight: n}))
	}
	w.fast.Tick(w.still.now)
	w.still.now += away
	w.must(w.still.load())
	frame := shape{proto: layers.IPProtocolUDP, port: 1000}.frame(t)
	return func(i uint32) (opened bool) {
		from(frame, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
		action, _, err := runByHand(w.still.prog, frame)
		w.must(err)
		return action == program.ActionTX
	}
}

// The choices of rr, and of wrr with weights as people have them, do not come to an end.
func TestCyclesDoNotEnd(t *testing.T) {
	for _, scheduler := range []string{"rr", "wrr"} {
		t.Run(scheduler, func(t *testing.T) {
			run := openingUDP(t, scheduler, 3, 0)
			for i := range uint32(shtab.RingCells/2 - 1) { // then Go has to look at what was opened
				if !run(i) {
					t.Fatalf("packet %d was passed", i)
				}
			}
		})
	}
}
