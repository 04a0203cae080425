package xdp

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/internal/expiring"
	"github.com/ulvs/ulvs/internal/shtab"
)

// What tests of the templates that programs make have: a shop at port 80, of one real server.
var shopKey = ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(false), Port: 80}

func shopService(timeout time.Duration) ulvs.Service {
	return ulvs.Service{ServiceKey: shopKey, Scheduler: "rr", Persistence: ulvs.Persistence{Timeout: timeout}}
}

func shopFrame(t *testing.T, client [4]byte, port uint16, flags string) []byte {
	return shape{proto: layers.IPProtocolTCP, flags: flags, port: port, to: 80, from: client}.frame(t)
}

func newShop(t *testing.T, timeout time.Duration) *pair {
	w := newPair(t, 1)
	w.shop(timeout)
	return w
}

// newSmallShop has room for few templates, and no director that decides all by itself.
func newSmallShop(t *testing.T, templates int) *pair {
	w := newSide(t, 1, 255)
	o := w.options(w.still)
	o.Templates, o.Connections = templates, 2048
	var err error
	w.fast, err = director.New(o)
	w.must(err)
	w.shop(5 * time.Minute)
	return w
}

func (w *pair) shop(timeout time.Duration) {
	w.must(w.fast.AddService(shopService(timeout)))
	w.must(w.fast.AddDestination(shopKey, ulvs.Destination{Addr: pairServer(false, 0), Port: 80, Weight: 1}))
	w.later(time.Second)
}

// openMeanwhile has the program open a connection of a client, and stand just before it tells of that when
// the shop ceases to be persistent.
func (w *pair) openMeanwhile(client [4]byte, port uint16) {
	w.t.Helper()
	w.mustTake(shopFrame(w.t, client, port, "S"))
	back := w.hideTold()
	w.must(w.fast.EditService(shopService(0)))
	back()
}

// replaceServer has the shop have another real server, and the one before be gone for good.
func (w *pair) replaceServer() {
	w.must(w.fast.AddDestination(shopKey, ulvs.Destination{Addr: pairServer(false, 1), Port: 80, Weight: 1}))
	w.must(w.fast.DeleteDestination(shopKey, netip.AddrPortFrom(pairServer(false, 0), 80)))
	w.later(10 * time.Minute) // the trash is empty
}

// noPanic is deferred where the director might panic.
func noPanic(t *testing.T) {
	if r := recover(); r != nil {
		t.Errorf("panic: %v", r)
	}
}

// later is move, without the other director.
func (w *pair) later(d time.Duration) {
	for d > 0 {
		step := min(d, 500*time.Millisecond)
		w.still.now += step
		d -= step
		w.fast.Tick(w.still.now)
	}
	w.still.moveClock()
}

// byProgram has the program alone look at a frame.
func (w *pair) byProgram(frame []byte) (sent bool) {
	w.t.Helper()
	action, _, err := runByHand(w.still.prog, frame)
	w.must(err)
	return action == program.ActionTX
}

// mustTake has it send the frame on.
func (w *pair) mustTake(frame []byte) {
	w.t.Helper()
	if !w.byProgram(frame) {
		w.t.Fatal("the program did not take it")
	}
}

// hideTold is as if the programs that have told something stood just before the compare and swap of
// completeCell: what they have told since the last drain is not in the rings until it is put back.
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

// inTemplates is how many templates lie in the table, and how many of them are pending.
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
