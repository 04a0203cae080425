package xdp

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/internal/expiring"
	"github.com/ulvs/ulvs/internal/shtab"
)

// templates by then: the one that it was opened by controls it.
// What tests of the templates that programs make have: a shop at port 80, of one real server.
var shopKey = ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr("192.168.10.101"), Port: 80}

func shopService(timeout time.Duration) ulvs.Service {
	return ulvs.Service{ServiceKey: shopKey, Scheduler: "rr", Persistence: ulvs.Persistence{Timeout: timeout}}
}

func shopFrame(t *testing.T, client [4]byte, port uint16, flags string) []byte {
	return shape{proto: layers.IPProtocolTCP, flags: flags, port: port, to: 80, from: client}.frame(t)
}

func newShop(t *testing.T, timeout time.Duration) *pair {
	w := newPair(t, 1)
	w.must(w.fast.AddService(shopService(timeout)))
	w.must(w.fast.AddDestination(shopKey, ulvs.Destination{Addr: pairServer(false, 0), Port: 80, Weight: 1}))
	w.later(time.Second)
	return w
}

func newSmallShop(t *testing.T, templates int) *pair {
	p, err := New(Options{Interfaces: []string{"lo"}, Slow: unlimited(), Servers: 255})
	w := &pair{t: t, rng: rand.New(rand.NewPCG(1, 2)), still: &still{Plane: p, now: time.Hour}, resolver: dataplanetest.NewResolver()}
	w.must(err)
	gone(t, p)
	p.egress.out = map[int]bool{1: true}
	w.must(p.claims.open(true))
	w.still.sockets, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	w.must(err)
	t.Cleanup(func() { _ = w.still.sockets.Close() })
	w.resolver.SetLink(1, "eth0", own)
	w.resolver.SetReachable(pairServer(false, 0), 1, dataplane.MAC{2, 0, 0, 0, 10, 200})
	o := w.options(w.still)
	o.Templates, o.Connections = templates, 2048
	w.fast, err = director.New(o)
	w.must(err)
	w.must(w.fast.AddService(shopService(5 * time.Minute)))
	w.must(w.fast.AddDestination(shopKey, ulvs.Destination{Addr: pairServer(false, 0), Port: 80, Weight: 1}))
	w.later(time.Second)
	return w
}

func (w *pair) later(d time.Duration) {
	for d > 0 {
		step := min(d, 500*time.Millisecond)
		w.still.now += step
		d -= step
		w.fast.Tick(w.still.now)
	}
	w.must(w.still.load())
}

func (w *pair) byProgram(frame []byte) (sent bool) {
	w.t.Helper()
	action, _, err := runByHand(w.still.prog, frame)
	w.must(err)
	return action == program.ActionTX
}

func (w *pair) hideTold() (back func()) {
	type cell struct {
		at  []byte
		was uint32
	}
	var list []cell
	memory := w.still.ringArray.memory
	for ring := range 2 * w.still.cpus {
		for n := range shtab.RingCells {
			at := memory[ring*shtab.RingsStride+shtab.OffCompletion+4*n:]
			if v := binary.NativeEndian.Uint32(at); v != 0 {
				list = append(list, cell{at, v})
				binary.NativeEndian.PutUint32(at, 0)
			}
		}
	}
	if len(list) == 0 {
		w.t.Fatal("nothing was told")
	}
	return func() {
		for _, c := range list {
			binary.NativeEndian.PutUint32(c.at, c.was)
		}
	}
}

func (w *pair) inTemplates() (all, pending int) {
	m := w.still.templateArray.memory
	for at := shtab.HeaderSize; at+shtab.SlotSize <= len(m); at += shtab.SlotSize {
		if int64(binary.NativeEndian.Uint64(m[at+shtab.OffWord:])) < 0 {
			all++
			if binary.NativeEndian.Uint32(m[at+shtab.OffState:])&expiring.PendingFlag != 0 {
				pending++
			}
		}
	}
	return all, pending
}

func (w *pair) counter(name string) uint64 {
	c, err := w.fast.Counters()
	w.must(err)
	return c[name]
}
