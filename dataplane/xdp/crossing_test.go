package xdp

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/internal/accel"
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
