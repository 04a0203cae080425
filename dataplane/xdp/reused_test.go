package xdp

import (
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/packet"
)

// A SYN over a connection that there is is Go's, whatever became of the connection: where conn_reuse_mode asks for
// it, that is over, and another one takes its place, which is counted by that cause. No other packet is Go's for
// that: the program has brought the connection to its end, forwards what comes of the next one, and opens
// those of other clients as before.
func TestReusedByPacket(t *testing.T) {
	w := newSharing(t)
	w.add(ulvs.Service{ServiceKey: tcpAt(80), Scheduler: "rr"})
	persistent := ulvs.Service{ServiceKey: tcpAt(81), Scheduler: "rr"}
	persistent.Persistence.Timeout = 300 * time.Second
	w.add(persistent)
	const syn, fin, rst, ack = packet.SYN, packet.FIN, packet.RST, packet.ACK
	for _, c := range []struct {
		mode       int
		flags      []uint8 // of the connection's packets after its SYN
		persistent bool
		again      bool
	}{
		{mode: 0, flags: []uint8{ack, fin | ack}},
		{mode: 0, flags: []uint8{ack, rst}},
		{mode: 1, flags: nil},
		{mode: 1, flags: []uint8{ack}},
		{mode: 1, flags: []uint8{ack, fin | ack}}, // FIN_WAIT: by half of the packets
		{mode: 1, flags: []uint8{ack, rst}, again: true},
		{mode: 1, flags: []uint8{rst}},              // SYN_RECV still
		{mode: 1, flags: []uint8{fin}, again: true}, // TIME_WAIT, out of SYN_RECV
		{mode: 2, flags: []uint8{ack}},
		{mode: 2, flags: []uint8{ack, fin | ack}, again: true},
		{mode: 1, flags: []uint8{ack, rst}, persistent: true},
		{mode: 2, flags: []uint8{ack, fin | ack}, persistent: true},
	} {
		w.sysctl("conn_reuse_mode", c.mode)
		port := uint16(80)
		if c.persistent {
			port = 81
		}
		first := w.syn(port)
		w.wants("", func() { w.send(first) })
		// sends has no connection be opened by a packet, which the program sends on or is Go's.
		sends := func(flags uint8, byProgram bool) {
			t.Helper()
			w.wantsNone(func() {
				if w.send(withFlags(first, flags)) != byProgram {
					t.Errorf("%+v: flags %#x were sent by the program: %v", c, flags, !byProgram)
				}
			})
		}
		for _, flags := range c.flags {
			sends(flags, true)
		}
		if c.again {
			w.wants("reused", func() { w.send(first) })
		} else {
			sends(syn, false)
		}
		sends(ack, true)
		w.wants("", func() { w.send(w.syn(port, 10, 9, 9, 9)) })
		w.compare()
	}

	// And an INIT.
	k := ulvs.ServiceKey{Protocol: ulvs.SCTP, Addr: pairVIP(false), Port: 80}
	w.add(ulvs.Service{ServiceKey: k, Scheduler: "rr"})
	w.sysctl("conn_reuse_mode", 1)
	init := shape{proto: layers.IPProtocolSCTP, chunk: 1, port: 3000}.frame(t)
	w.wants("", func() { w.send(init) })
	w.wantsNone(func() { w.send(init) })
	w.wantsNone(func() { w.send(shape{proto: layers.IPProtocolSCTP, chunk: 6, port: 3000}.frame(t)) })
	w.wants("reused", func() { w.send(init) })
}
