package xdp

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/packet"
)

// The state of a connection whose real server was removed stays as it is: its packets are
// dropped before they change it (ip_vs_core.c, ip_vs_in_hook).
func TestStateOfRemoved(t *testing.T) {
	c := &contest{pair: newPair(t, 1), services: []uint16{80}}
	k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(false), Port: 80}
	at := netip.AddrPortFrom(pairServer(false, 0), 80)
	c.must(c.fast.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr"}))
	c.must(c.fast.AddDestination(k, ulvs.Destination{Addr: at.Addr(), Port: 80, Weight: 1}))
	frame := c.syn(1)
	c.run(frame, packet.SYN)
	c.run(frame, packet.ACK)
	c.must(c.fast.DeleteDestination(k, at))
	for _, flags := range []uint8{packet.FIN | packet.ACK, packet.RST} {
		frame := withFlags(frame, flags)
		action, _, err := runByHand(c.still.prog, frame)
		c.must(err)
		if action == program.ActionTX {
			t.Error("a packet to a real server that was removed was forwarded")
		}
		if fate := c.fate(c.fast, frame); !strings.HasPrefix(fate, fmt.Sprintf("verdict %d", dataplane.Drop)) {
			t.Error(fate)
		}
		c.must(c.fast.Conns(func(s ulvs.ConnStatus) bool {
			if s.State != "ESTABLISHED" {
				t.Errorf("after flags %#x its connection is in state %s", flags, s.State)
			}
			return true
		}))
	}
}

// A connection that was idle for longer than the state has to which its FIN leads is not ended by
// that: Go may set the timer before the program comes to the stamp of each packet, which is left
// out here.
func TestStateOfIdle(t *testing.T) {
	c := &contest{pair: newPair(t, 1), services: []uint16{80}}
	k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(false), Port: 80}
	c.must(c.fast.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr"}))
	c.must(c.fast.AddDestination(k, ulvs.Destination{Addr: pairServer(false, 0), Port: 80, Weight: 1}))
	frame := c.syn(1)
	c.run(frame, packet.SYN)
	c.run(frame, packet.ACK)
	c.still.now += 200 * time.Second
	c.fast.Tick(c.still.now)
	c.still.path = slices.DeleteFunc(program.Forward(), func(s program.Step) bool {
		return strings.HasSuffix(runtime.FuncForPC(reflect.ValueOf(s).Pointer()).Name(), ".stampEntry")
	})
	if len(c.still.path) != len(program.Forward())-1 {
		t.Fatal("the program has no step that stamps")
	}
	c.must(c.still.load())
	c.run(frame, packet.FIN|packet.ACK)
	c.still.now += 100 * time.Millisecond
	c.fast.Tick(c.still.now)
	states := ""
	c.must(c.fast.Conns(func(s ulvs.ConnStatus) bool { states += s.State; return true }))
	if states != "FIN_WAIT" {
		t.Errorf("the connection is in state %q", states)
	}
}

// syn is the n-th connection's frame.
func (c *contest) syn(n int) []byte {
	s := shape{proto: layers.IPProtocolTCP, flags: "S", port: uint16(1024 + n&3), to: c.services[n%len(c.services)],
		from: [4]byte{11, byte(n >> 18), byte(n >> 10), byte(n >> 2)}}
	if s.to >= 84 {
		s.proto = layers.IPProtocolSCTP
	}
	return s.frame(c.t)
}

const (
	statesProto = 14 + 9
	statesFlags = 14 + 20 + 13
	statesChunk = 14 + 20 + 12
)

// statesChunks are the chunks of SCTP that do to an association what TCP's flags do to a connection.
// (FIN and PSH are for one that is not established, which stays that.)
var statesChunks = map[uint8]uint8{
	packet.SYN: 1, packet.ACK: 10, packet.FIN | packet.ACK: 7, packet.RST: 6, packet.FIN | packet.ACK | packet.PSH: 8,
}

func withFlags(frame []byte, flags uint8) []byte {
	frame = bytes.Clone(frame)
	if frame[statesProto] == program.ProtoSCTP {
		frame[statesChunk] = statesChunks[flags]
	} else {
		frame[statesFlags] = flags
	}
	return frame
}
