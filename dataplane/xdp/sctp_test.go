package xdp

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
)

// bundles are the chunks of a packet: one of each type, and what may stand behind it.
func bundles() (list [][]byte) {
	for kind := range byte(18) {
		list = append(list, []byte{kind})
	}
	return append(list, []byte{255}, []byte{10, 6}, []byte{11, 6}, []byte{10, 0}, []byte{1, 6}, []byte{0, 6}, []byte{6, 10})
}

// TestAssociations sends all pairs of packets of SCTP to a program, and compares with a director that
// has none: the program opens what INIT opens, and what any packet does with sloppy_sctp, and changes
// states by all but INIT.
func TestAssociations(t *testing.T) {
	t.Run("IPv4", func(t *testing.T) { associations(newPair(t, 1), false, true) })
	t.Run("IPv6", func(t *testing.T) { associations(newPair(t, 1), true, false) })
}

func associations(w *pair, six, sloppy bool) {
	k := ulvs.ServiceKey{Protocol: ulvs.SCTP, Addr: pairVIP(six), Port: 80}
	persistence := ulvs.Persistence{Timeout: time.Hour}
	if six {
		persistence = ulvs.Persistence{}
	}
	w.both("add", func(c ulvs.Control) error {
		return c.AddService(ulvs.Service{ServiceKey: k, Scheduler: "wlc", Persistence: persistence})
	})
	for i := range pairServers {
		w.both(fmt.Sprint("add ", i), func(c ulvs.Control) error {
			return c.AddDestination(k, ulvs.Destination{Addr: pairServer(six, i), Port: 80, Weight: 1})
		})
	}
	if sloppy {
		w.both("sloppy", func(c ulvs.Control) error { return c.SetSysctl("sloppy_sctp", 1) })
	}
	w.move(time.Second)
	port := uint16(1024)
	send := func(chunks []byte) (sent bool) {
		s := shape{six: six, proto: layers.IPProtocolSCTP, port: port, chunk: chunks[0], size: 4 * (len(chunks) - 1), from: [4]byte{11, 1, 1, byte(port % 50)}}
		if port%3 == 0 {
			s.vlans = []uint16{5}
		}
		frame := s.frame(w.t)
		for i, kind := range chunks[1:] {
			copy(frame[len(frame)-4*(len(chunks)-1-i):], []byte{kind, 0, 0, 4})
		}
		return w.send(frame)
	}
	for i, first := range bundles() {
		for _, second := range bundles() {
			port++
			open := false
			for _, chunks := range [][]byte{first, second, {0}} {
				kind := chunks[0]
				opens := kind == 1 || sloppy && kind != 6
				want := opens && !open || open && kind != 1
				if sent := send(chunks); sent != want {
					w.t.Errorf("% d, then % d: of a packet of % d the program has sent %v, want %v", first, second, chunks, sent, want)
				}
				open = open || opens
			}
		}
		w.compare()
		if i%8 == 7 {
			w.move(5 * time.Second) // INIT1 is over
			w.compare()
		}
	}
	w.move(60 * time.Second) // and others
	w.compare()
	if sloppy {
		w.both("strict", func(c ulvs.Control) error { return c.SetSysctl("sloppy_sctp", 0) })
		if port++; send([]byte{0}) {
			w.t.Error("without sloppy_sctp DATA has opened an association")
		}
	}
}

// TestSloppyTCP sends all pairs of packets of TCP to a program that opens connections by any.
func TestSloppyTCP(t *testing.T) {
	w := newPair(t, 1)
	k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(false), Port: 80}
	w.both("add", func(c ulvs.Control) error { return c.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr"}) })
	for i := range pairServers {
		w.both(fmt.Sprint("add ", i), func(c ulvs.Control) error {
			return c.AddDestination(k, ulvs.Destination{Addr: pairServer(false, i), Port: 80, Weight: 1})
		})
	}
	w.both("sloppy", func(c ulvs.Control) error { return c.SetSysctl("sloppy_tcp", 1) })
	w.move(time.Second)
	const syn, rst = 2, 4
	port := uint16(1024)
	frame := func(flags uint8) []byte {
		return withFlags(shape{proto: layers.IPProtocolTCP, port: port}.frame(t), flags)
	}
	for first := range uint8(32) {
		for second := range uint8(32) {
			port++
			if sent := w.send(frame(first)); sent != (first&rst == 0) {
				t.Errorf("flags %#x: the program has sent it: %v", first, sent)
			}
			w.send(frame(second))
		}
		if first%8 == 7 {
			w.compare()
			w.move(11 * time.Second) // CLOSE is over
			w.compare()
		}
	}
	w.both("strict", func(c ulvs.Control) error { return c.SetSysctl("sloppy_tcp", 0) })
	for flags := range uint8(64) {
		port++
		if sent := w.send(frame(flags)); sent != (flags&(syn|rst) == syn) {
			t.Errorf("without sloppy_tcp, flags %#x: the program has sent it: %v", flags, sent)
		}
	}
	w.compare()
}
