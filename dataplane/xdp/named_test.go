package xdp

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/shtab"
)

// Connections that the program opens say by which template they are, whether it was there or was
// made for them: Go does not look it up.
func TestNamesTemplates(t *testing.T) {
	w := newPair(t, 1)
	k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(false), Port: 80}
	w.both("add", func(c ulvs.Control) error {
		return c.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr", Persistence: ulvs.Persistence{Timeout: time.Minute}})
	})
	w.both("add", func(c ulvs.Control) error {
		return c.AddDestination(k, ulvs.Destination{Addr: pairServer(false, 0), Port: 80, Weight: 1})
	})
	w.move(time.Second)
	const clients, each = 1000, 2
	sent := 0
	for i := range clients * each {
		s := shape{proto: layers.IPProtocolTCP, flags: "S", port: uint16(1024 + i), to: 80,
			from: [4]byte{11, 1, byte(i / each >> 8), byte(i / each)}}
		if w.send(s.frame(t)) {
			sent++
		}
	}
	if sent < clients*each*9/10 {
		t.Fatalf("the program sent %d of %d packets", sent, clients*each)
	}
	named := 0
	for at := shtab.HeaderSize; at+shtab.SlotSize <= len(w.still.conns.memory); at += shtab.SlotSize {
		word := binary.NativeEndian.Uint64(w.still.conns.memory[at+shtab.OffWord:])
		if int64(word) < 0 && word&shtab.MaxValue>>conn.TemplateShift != 0 {
			named++
		}
	}
	if named < sent {
		t.Errorf("%d of %d connections name a template", named, sent)
	}
}
