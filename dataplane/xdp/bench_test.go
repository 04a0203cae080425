package xdp

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/preselect"
	"github.com/ulvs/ulvs/packet"
	"github.com/ulvs/ulvs/persist"
)

const hz = 250

var (
	own    = dataplane.MAC{2, 0, 0, 0, 0, 1}
	router = dataplane.MAC{2, 0, 0, 0, 0, 9}
	to     = dataplane.MAC{2, 0, 0, 0, 0, 2}
)

// bench is a program over a connection table, run by BPF_PROG_TEST_RUN.
type bench struct {
	*Plane
	t           testing.TB
	prog        *ebpf.Program
	conns       *conn.Table
	ticks       program.Ticks
	noHeartbeat bool // no daemon shows itself
}

func newBench(t testing.TB, max int) *bench {
	t.Helper()
	return newBenchWith(t, max, false)
}

// bothWays runs a test with the connection table as one large element, and as an
// array of slots.
func bothWays(t *testing.T, max int, f func(*testing.T, *bench)) {
	t.Run("addressed", func(t *testing.T) { f(t, newBenchWith(t, max, false)) })
	t.Run("looked up", func(t *testing.T) { f(t, newBenchWith(t, max, true)) })
}

func newBenchWith(t testing.TB, max int, looked bool) *bench {
	t.Helper()
	p, err := New(Options{Interfaces: []string{"lo"}, Slow: dataplanetest.New(), Servers: 63})
	if errors.Is(err, ErrNotPermitted) {
		t.Skip(err)
	}
	b := &bench{Plane: p, t: t}
	b.must(err)
	gone(t, p)
	p.lookupHelper, p.egress.out = looked, map[int]bool{1: true, 2: true}
	parts := []accel.Part{
		{Name: accel.PartConns, Size: conn.MemorySize(max)},
		{Name: accel.PartTemplates, Size: persist.MemorySize(1000)},
		{Name: accel.PartServices, Size: preselect.RecordsSize()},
		{Name: accel.PartSequences, Size: preselect.SequencesSize()},
	}
	_, err = p.Memory(parts)
	b.must(err)
	b.conns, err = conn.New(conn.Options{Max: max, Hz: hz, Memory: parts[0].Block, Expired: func(conn.ID) {}})
	b.must(err)
	b.ticks, err = learnTicks(hz)
	b.must(err)
	p.mac = router
	b.prog, err = newProgram(p.source(b.acceleration(), b.ticks, 1, macs(own, router), nil))
	b.must(err)
	t.Cleanup(func() { _ = b.prog.Close() })
	for id := range uint32(4) {
		p.SetServer(id, accel.Server{Reachable: true, Dst: to, Src: own, Ifindex: 1, MTU: 1500})
	}
	return b
}

// gone has nothing remain of a plane when a test ends: a guest's memory is small.
func gone(t testing.TB, p *Plane) {
	t.Cleanup(func() {
		_ = p.Close()
		p.Release()
	})
}

func (b *bench) acceleration() accel.Acceleration {
	seed, homes := b.conns.Seed()
	return accel.Acceleration{
		TableShape: accel.TableShape{Seed: seed, Homes: homes, Slots: uint32(b.conns.Slots())},
		Templates:  accel.TableShape{Homes: 1000, Slots: 1500}, Hz: hz,
	}
}

func (b *bench) must(err error) {
	if err != nil {
		b.t.Helper()
		b.t.Fatal(err)
	}
}

// run gives a frame to the program, as if it came in on interface 1.
func (b *bench) run(frame []byte) (action uint32, out []byte) {
	b.t.Helper()
	if !b.noHeartbeat {
		b.Heartbeat(uint32(dataplane.Monotonic() / (time.Second / hz)))
	}
	action, out, err := runByHand(b.prog, frame)
	b.must(err)
	return action, out
}

// testContext is a struct xdp_md of a frame that came in on lo.
func testContext(size int) any {
	return struct{ Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32 }{DataEnd: uint32(size), Ingress: 1}
}

type shape struct {
	six   bool
	proto layers.IPProtocol
	flags string
	port  uint16
	to    uint16 // 0: port 80
	ttl   uint8
	size  int
	dst   dataplane.MAC
	vlans []uint16
	chunk uint8   // of SCTP
	from  [4]byte // if not 0: the client, of IPv4
}

func (s shape) frame(t testing.TB) []byte {
	t.Helper()
	if s.ttl == 0 {
		s.ttl = 64
	}
	if s.dst == (dataplane.MAC{}) {
		s.dst = own
	}
	if s.to == 0 {
		s.to = 80
	}
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 7}, DstMAC: s.dst[:], EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	if s.six {
		eth.EthernetType = layers.EthernetTypeIPv6
		h := &layers.IPv6{Version: 6, HopLimit: s.ttl, NextHeader: s.proto, SrcIP: netip.MustParseAddr("fd01::1").AsSlice(), DstIP: netip.MustParseAddr("fd00:10::101").AsSlice()}
		ip, network = h, h
	} else {
		if s.from == [4]byte{} {
			s.from = [4]byte{10, 1, 1, 1}
		}
		h := &layers.IPv4{Version: 4, TTL: s.ttl, Protocol: s.proto, SrcIP: s.from[:], DstIP: []byte{192, 168, 10, 101}, Id: 7}
		ip, network = h, h
	}
	var upper gopacket.SerializableLayer
	switch s.proto {
	case layers.IPProtocolSCTP:
		upper = &layers.SCTP{SrcPort: layers.SCTPPort(s.port), DstPort: layers.SCTPPort(s.to)}
	case layers.IPProtocolTCP:
		h := &layers.TCP{SrcPort: layers.TCPPort(s.port), DstPort: layers.TCPPort(s.to), Window: 9}
		for _, f := range s.flags {
			switch f {
			case 'S':
				h.SYN = true
			case 'A':
				h.ACK = true
			case 'F':
				h.FIN = true
			case 'R':
				h.RST = true
			case 'P':
				h.PSH = true
			}
		}
		upper = h
		_ = h.SetNetworkLayerForChecksum(network)
	default:
		h := &layers.UDP{SrcPort: layers.UDPPort(s.port), DstPort: layers.UDPPort(s.to)}
		upper = h
		_ = h.SetNetworkLayerForChecksum(network)
	}
	payload := make([]byte, s.size)
	if s.proto == layers.IPProtocolSCTP {
		payload = append([]byte{s.chunk, 0, 0, 4}, payload...)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, upper, gopacket.Payload(payload)); err != nil {
		t.Fatal(err)
	}
	frame := buf.Bytes()
	for i := len(s.vlans) - 1; i >= 0; i-- {
		tag := []byte{0x81, 0, byte(s.vlans[i] >> 8), byte(s.vlans[i])}
		if i == 0 && len(s.vlans) > 1 {
			tag[0], tag[1] = 0x88, 0xa8
		}
		frame = slices.Insert(frame, 12, tag...)
	}
	return frame
}

// open makes the connection of a packet, as the director does.
func (b *bench) open(frame []byte, dest uint32) conn.ID {
	b.t.Helper()
	var p packet.Packet
	p.Parse(frame)
	id, err := b.conns.Insert(&p.Flow, b.conns.Hash(&p.Flow), dest, 0, 0, 0)
	b.must(err)
	b.tell(id, frame)
	return id
}

// tell is what Go does about a packet.
func (b *bench) tell(id conn.ID, frame []byte) conn.Change {
	var p packet.Packet
	p.Parse(frame)
	switch p.Kind {
	case packet.TCP:
		return b.conns.TCP(id, p.TCPFlags, 0)
	case packet.SCTP:
		return b.conns.SCTP(id, p.Chunk, 0)
	}
	b.conns.UDP(id, 0)
	return conn.Change{}
}
