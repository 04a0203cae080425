package xdp

import (
	"encoding/binary"
	"runtime"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/packet"
)

// counted reports whether a program that is run by hand counts a frame that it hands over: as those with sockets
// do, without VLAN tags, and not SCTP.
func counted(frame []byte) bool {
	switch {
	case *byHook:
		return false
	case binary.BigEndian.Uint16(frame[12:]) == 0x0800:
		return frame[23] != 132
	case binary.BigEndian.Uint16(frame[12:]) == 0x86dd:
		return frame[20] != 132
	}
	return false
}

// leave is as if Go had ended at once with what programs have handed over of a frame's flow.
func (s *still) leave(frame []byte) {
	var p packet.Packet
	p.Parse(frame)
	c := &s.Crossings()[accel.CrossingOf((*[5]uint64)(&p.Flow))]
	c.Left.Store(c.Handed.Load())
}

// TestCrossingLost has a packet be lost on its way to Go, of a flow that goes through Go: it is waited for, and
// counted as one that may have been overtaken, and then the program forwards the flow.
func TestCrossingLost(t *testing.T) {
	w := newPair(t, 1)
	k := ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: pairVIP(false), Port: 80}
	w.must(w.fast.AddService(ulvs.Service{ServiceKey: k, Scheduler: "lblc"}))
	w.must(w.fast.AddDestination(k, ulvs.Destination{Addr: pairServer(false, 0), Port: 80, Weight: 1}))
	w.later(time.Second)
	flow := func(port uint16) []byte { return shape{proto: layers.IPProtocolUDP, port: port, to: 80}.frame(t) }
	all := flow(1024)
	if w.byProgram(all) {
		t.Fatal("the program opened it")
	}
	w.fate(w.fast, all)
	if w.byProgram(all) {
		t.Fatal("the program forwarded it before Go had ended with the first packet")
	}
	const ticks = 500 * time.Millisecond
	w.later(3 * ticks)
	if w.byProgram(all) {
		t.Error("it did not wait for the lost one")
	}
	w.fate(w.fast, all)
	w.later(24 * ticks)
	w.mustTake(all)
	if n := w.counter("maybe_overtaken"); n != 1 {
		t.Errorf("%d packets may have been overtaken, want 1", n)
	}
	// Of a flow of which nothing is lost none is waited for.
	other := flow(1025)
	w.byProgram(other)
	w.fate(w.fast, other)
	w.later(3 * ticks)
	w.mustTake(other)
	if n := w.counter("maybe_overtaken"); n != 1 {
		t.Errorf("%d packets may have been overtaken, want 1 as before", n)
	}
}

// TestCrossingLosing has a flood take the room of what is Go's, packets of each flow: first packets of others that
// are counted beside them are opened still, and no connection waits for Go.
func TestCrossingLosing(t *testing.T) {
	w := newPair(t, 1)
	lost := uint64(0)
	w.still.crossings.lost = func() uint64 { return lost }
	for port, scheduler := range map[uint16]string{80: "rr", 81: "lblc"} {
		k := ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: pairVIP(false), Port: port}
		w.must(w.fast.AddService(ulvs.Service{ServiceKey: k, Scheduler: scheduler}))
		w.must(w.fast.AddDestination(k, ulvs.Destination{Addr: pairServer(false, 0), Port: port, Weight: 1}))
	}
	w.later(time.Second)
	flow := func(to, port uint16) []byte { return shape{proto: layers.IPProtocolUDP, port: port, to: to}.frame(t) }
	flood := func() {
		for i := range w.still.Crossings() {
			w.still.Crossings()[i].Handed.Add(1)
		}
	}
	const tick = 50 * time.Millisecond
	flood()
	if w.byProgram(flow(80, 1024)) {
		t.Fatal("the program opened a connection of whose flow Go may have a packet")
	}
	for port := range uint16(8) {
		lost++
		flood()
		w.later(tick)
		if !w.byProgram(flow(80, 2000+port)) {
			t.Fatal("the program opened no connection while packets of others were lost")
		}
	}
	slow := flow(81, 1024)
	w.fate(w.fast, slow)
	w.later(tick)
	if !w.byProgram(slow) {
		t.Error("a connection waited for what was lost")
	}
	w.later(10 * time.Second)
	flood()
	if w.byProgram(flow(80, 1025)) {
		t.Error("when nothing had been lost for long, first packets did not wait for those before them")
	}
}

// TestCrossingAwake has a packet go to Go that changes its connection's state, as Go is to look at what programs
// have told it: what comes behind that does not overtake it.
func TestCrossingAwake(t *testing.T) {
	w := newPair(t, 1)
	k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(false), Port: 80}
	w.must(w.fast.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr"}))
	w.must(w.fast.AddDestination(k, ulvs.Destination{Addr: pairServer(false, 0), Port: 80, Weight: 1}))
	w.later(time.Second)
	const awake = 1 << 8 // such ports are those of the packets that keep Go awake
	packet := func(flags string, port int) []byte {
		s := shape{proto: layers.IPProtocolTCP, flags: flags, port: uint16(port), to: 80, from: [4]byte{11, 1, 1, 1}}
		return s.frame(t)
	}
	for _, flags := range []string{"S", "A"} {
		if !w.byProgram(packet(flags, 4*awake)) {
			t.Fatalf("the program did not send %s", flags)
		}
	}
	w.later(61 * time.Second) // the timer that a SYN has is over: Go has looked
	runtime.LockOSThread()    // each CPU has a ring
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	w.must(unix.SchedGetaffinity(0, &before))
	one.Set(0)
	w.must(unix.SchedSetaffinity(0, &one))
	defer func() { w.must(unix.SchedSetaffinity(0, &before)) }()
	n := 0
	for port := range shtab.RingCells/2 + 10 {
		if w.byProgram(packet("S", 5*awake+port)) {
			n++
		}
	}
	if n < shtab.RingCells/2 {
		t.Fatalf("the program opened %d connections", n)
	}
	if w.byProgram(packet("FA", 4*awake)) {
		t.Fatal("the program did not leave it to Go")
	}
	if w.byProgram(packet("A", 4*awake)) {
		t.Error("the program sent a packet behind one that waits for Go")
	}
}
