package xdp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/preselect"
)

// When half of the scheduler's choices are used up, one packet of many goes to Go, so
// that it decides on more; but none does where there is no daemon to get it.
func TestWakes(t *testing.T) {
	for name, away := range map[string]time.Duration{"a daemon": 0, "none": 2 * program.HeartbeatTimeout * time.Second} {
		t.Run(name, func(t *testing.T) {
			w := newPair(t, 1)
			k := ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: pairVIP(false), Port: 80}
			w.must(w.fast.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr"}))
			w.must(w.fast.AddDestination(k, ulvs.Destination{Addr: pairServer(false, 0), Port: 80, Weight: 1}))
			w.fast.Tick(w.still.now)
			w.still.now += away
			w.must(w.still.load())
			frame := shape{proto: layers.IPProtocolUDP, port: 1000}.frame(t)
			run := func(i uint32) (opened bool) {
				from(frame, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
				action, err := w.still.prog.Run(&ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+64), Context: testContext(len(frame))})
				w.must(err)
				return action == program.ActionTX
			}
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
