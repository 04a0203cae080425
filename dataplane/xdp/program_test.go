package xdp

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/packet"
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
	t     testing.TB
	prog  *ebpf.Program
	conns *conn.Table
	ticks ticks
}

func newBench(t testing.TB, max int) *bench {
	t.Helper()
	p, err := New(Options{Interfaces: []string{"lo"}, Slow: dataplanetest.New(), Servers: 63})
	if errors.Is(err, ErrNotPermitted) {
		t.Skip(err)
	}
	b := &bench{Plane: p, t: t}
	b.must(err)
	t.Cleanup(func() { _ = p.Close() })
	memory, err := p.Memory(conn.MemorySize(max))
	b.must(err)
	b.conns, err = conn.New(conn.Options{Max: max, Hz: hz, Memory: memory, Expired: func(conn.ID) {}})
	b.must(err)
	b.ticks, err = learnTicks(hz)
	b.must(err)
	b.prog, err = p.load(b.acceleration(), b.ticks, []dataplane.MAC{own, router})
	b.must(err)
	for id := range uint32(4) {
		p.SetServer(id, dataplane.Server{Reachable: true, Dst: to, Src: own, Ifindex: 1, MTU: 1500})
	}
	return b
}

func (b *bench) acceleration() dataplane.Acceleration {
	seed, homes := b.conns.Seed()
	return dataplane.Acceleration{Seed: seed, Homes: homes, Hz: hz}
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
	out = make([]byte, len(frame)+64)
	o := &ebpf.RunOptions{Data: frame, DataOut: out, Context: testContext(len(frame))}
	action, err := b.prog.Run(o)
	b.must(err)
	return action, o.DataOut
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
	ttl   uint8
	size  int
	dst   dataplane.MAC
	vlans []uint16
	chunk uint8 // of SCTP
}

func (s shape) frame(t testing.TB) []byte {
	t.Helper()
	if s.ttl == 0 {
		s.ttl = 64
	}
	if s.dst == (dataplane.MAC{}) {
		s.dst = own
	}
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 7}, DstMAC: s.dst[:], EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	if s.six {
		eth.EthernetType = layers.EthernetTypeIPv6
		h := &layers.IPv6{Version: 6, HopLimit: s.ttl, NextHeader: s.proto, SrcIP: netip.MustParseAddr("fd01::1").AsSlice(), DstIP: netip.MustParseAddr("fd00:10::101").AsSlice()}
		ip, network = h, h
	} else {
		h := &layers.IPv4{Version: 4, TTL: s.ttl, Protocol: s.proto, SrcIP: []byte{10, 1, 1, 1}, DstIP: []byte{192, 168, 10, 101}, Id: 7}
		ip, network = h, h
	}
	var upper gopacket.SerializableLayer
	switch s.proto {
	case layers.IPProtocolSCTP:
		upper = &layers.SCTP{SrcPort: layers.SCTPPort(s.port), DstPort: 80}
	case layers.IPProtocolTCP:
		h := &layers.TCP{SrcPort: layers.TCPPort(s.port), DstPort: 80, Window: 9}
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
		h := &layers.UDP{SrcPort: layers.UDPPort(s.port), DstPort: 80}
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

// What the program forwards is forwarded as Go would: every byte but the link
// addresses and the time to live is as it was.
func TestForwards(t *testing.T) {
	b := newBench(t, 1000)
	for i, s := range []shape{
		{proto: layers.IPProtocolTCP, flags: "A"}, {proto: layers.IPProtocolUDP}, {six: true, proto: layers.IPProtocolTCP, flags: "PA", size: 500},
		{six: true, proto: layers.IPProtocolUDP, size: 1}, {proto: layers.IPProtocolUDP, ttl: 2}, {proto: layers.IPProtocolTCP, flags: "A", dst: router, size: 1400},
		{proto: layers.IPProtocolTCP, flags: "A", vlans: []uint16{5}}, {six: true, proto: layers.IPProtocolUDP, vlans: []uint16{5, 4000}},
		{proto: layers.IPProtocolUDP, size: 1472, vlans: []uint16{7, 8}},
	} {
		s.port = uint16(1000 + i)
		open := s
		open.flags = "S"
		id := b.open(open.frame(t), 2)
		frame := s.frame(t)
		if s.proto == layers.IPProtocolTCP {
			if action, _ := b.run(frame); action != actionPass {
				t.Errorf("%+v: the packet that establishes it: action %d", s, action)
			}
			b.tell(id, frame)
		}
		before, _ := b.Served(2)
		packets := b.conns.Packets(id)
		action, out := b.run(frame)
		want := bytes.Clone(frame)
		var p packet.Packet
		p.Parse(want)
		packet.DecrementTTL(want, &p)
		copy(want, to[:])
		copy(want[6:], own[:])
		if action != actionTX || !bytes.Equal(out, want) {
			t.Errorf("%+v: action %d\n% x\nwant\n% x", s, action, out, want)
		}
		if n, _ := b.Served(2); n != before+1 || b.conns.Packets(id) != packets+1 {
			t.Errorf("%+v: counted %d, and %d of the connection", s, n-before, b.conns.Packets(id)-packets)
		}
	}
	if _, size := b.Served(2); size != (20+20)+(20+8)+(40+20+500)+(40+8+1)+(20+8)+(20+20+1400)+(20+20)+(40+8)+1500 {
		t.Errorf("%d bytes", size)
	}
}

// The state machine's every move is Go's: the program forwards exactly what
// leaves the state as it is.
func TestLeavesStatesToGo(t *testing.T) {
	b := newBench(t, 5000)
	all := []string{"", "A", "F", "FA", "R", "RA", "S", "SA", "SF", "SR", "P", "PA", "FR"}
	port := uint16(1000)
	for _, first := range all {
		for _, second := range all {
			port++
			start := shape{proto: layers.IPProtocolTCP, port: port, flags: "S"}
			id := b.open(start.frame(t), 1)
			start.flags = first
			b.tell(id, start.frame(t))
			was := b.conns.StateName(id)
			start.flags = second
			frame := start.frame(t)
			action, _ := b.run(frame)
			b.tell(id, frame)
			stays := b.conns.StateName(id) == was && !bytes.ContainsAny([]byte(second), "S")
			if (action == actionTX) != stays {
				t.Errorf("S, %s, %s: from %s to %s, action %d", first, second, was, b.conns.StateName(id), action)
			}
		}
	}
}

func TestLeavesSCTPToGo(t *testing.T) {
	b := newBench(t, 5000)
	port := uint16(1000)
	forwarded := 0
	for first := range uint8(16) {
		for second := range uint8(34) {
			port++
			s := shape{proto: layers.IPProtocolSCTP, port: port, chunk: 1}
			id := b.open(s.frame(t), 1)
			s.chunk = first
			b.tell(id, s.frame(t))
			was := b.conns.StateName(id)
			s.chunk = second
			frame := s.frame(t)
			action, _ := b.run(frame)
			b.tell(id, frame)
			switch {
			case action == actionTX && (b.conns.StateName(id) != was || conn.SCTPEvents()>>second&1 != 0):
				t.Errorf("INIT, %d, %d: from %s to %s, forwarded", first, second, was, b.conns.StateName(id))
			case action == actionTX:
				forwarded++
			case b.conns.StateName(id) == was && conn.SCTPEvents()>>second&1 == 0 && second < 32:
				t.Errorf("INIT, %d, %d: %s stays, and was not forwarded", first, second, was)
			}
		}
	}
	if forwarded == 0 {
		t.Error("nothing was forwarded")
	}
}

// What is not plainly a connection's packet goes to Go.
func TestPasses(t *testing.T) {
	b := newBench(t, 1000)
	s := shape{proto: layers.IPProtocolUDP, port: 1000, size: 100}
	s6 := s
	s6.six = true
	good, good6 := s.frame(t), s6.frame(t)
	b.open(good, 1)
	b.open(good6, 1)
	change := func(frame []byte, at int, to ...byte) []byte {
		f := bytes.Clone(frame)
		copy(f[at:], to)
		return f
	}
	withSum := func(frame []byte) []byte {
		frame[24], frame[25] = 0, 0
		sum := packet.Checksum(frame[14:34])
		frame[24], frame[25] = byte(sum>>8), byte(sum)
		return frame
	}
	for what, frame := range map[string][]byte{
		"short":                 good[:20],
		"to another":            change(good, 0, 2, 0, 0, 0, 0, 5),
		"broadcast":             change(good, 0, 255, 255, 255, 255, 255, 255),
		"ARP":                   change(good, 12, 8, 6),
		"VLAN":                  change(good, 12, 0x81, 0),
		"options":               change(good, 14, 0x46),
		"a fragment":            withSum(change(good, 20, 0x20, 0)),
		"a later fragment":      withSum(change(good, 20, 0, 1)),
		"TTL 1":                 withSum(change(good, 22, 1)),
		"a bad checksum":        change(good, 24, good[24]^1),
		"a length beyond":       withSum(change(good, 16, 5, 0)),
		"a length of nothing":   withSum(change(good, 16, 0, 20)),
		"another protocol":      withSum(change(good, 23, 132)),
		"no connection":         change(good, 34, 0xff),
		"IPv6 short":            good6[:60],
		"IPv6 extension header": change(good6, 20, 0),
		"IPv6 hop limit 1":      change(good6, 21, 1),
		"IPv6 another address":  change(good6, 53, 9),
		"IPv6 other half":       change(good6, 30, 9),
	} {
		if len(frame) < 14 {
			continue
		}
		if action, out := b.run(frame); action != actionPass || !bytes.Equal(out, frame) {
			t.Errorf("%s: action %d, changed %v", what, action, !bytes.Equal(out, frame))
		}
	}
	tx := func(what string, want uint32) {
		t.Helper()
		if action, _ := b.run(good); action != want {
			t.Errorf("%s: action %d", what, action)
		}
	}
	tx("as it is", actionTX)
	b.SetServer(1, dataplane.Server{})
	tx("no server", actionPass)
	b.SetServer(1, dataplane.Server{Reachable: true, Ifindex: 2, MTU: 1500})
	tx("out of another interface", actionPass)
	b.SetServer(1, dataplane.Server{Reachable: true, Ifindex: 1, MTU: 127})
	tx("over its MTU", actionPass)
	b.SetServer(1, dataplane.Server{Reachable: true, Ifindex: 1, MTU: 128})
	tx("of its MTU", actionTX)
	b.conns.SetTimeouts(0, 0, time.Second)
	b.SetGeneration(b.conns.Generation())
	tx("old timeouts", actionPass)
}

// A full table's every connection is found, whatever chain it is in, but for the
// few in long ones, which are Go's; and stamped with the time that Go would read.
func TestFindsAll(t *testing.T) {
	const n = 20000
	b := newBench(t, n)
	for i := range n {
		b.open(shape{proto: layers.IPProtocolUDP, port: uint16(1000 + i)}.frame(t), 3)
	}
	passed := 0
	now := uint32(0)
	for i := range n {
		frame := shape{proto: layers.IPProtocolUDP, port: uint16(1000 + i)}.frame(t)
		if action, _ := b.run(frame); action != actionTX {
			passed++
			continue
		}
		var p packet.Packet
		p.Parse(frame)
		id, _ := b.conns.Lookup(&p.Flow, b.conns.Hash(&p.Flow))
		now = uint32(monotonicNow() / (time.Second / hz))
		if off := int32(b.conns.Idle(id, now)); off < -1 || off > 10 {
			t.Fatalf("stamped %d ticks ago", off)
		}
	}
	if passed > n/500 {
		t.Errorf("%d of %d were passed", passed, n)
	}
	t.Logf("%d of %d passed", passed, n)
	if got := fmt.Sprint(b.Counters()["xdp_frames"]); got != fmt.Sprint(n-passed) {
		t.Errorf("xdp_frames is %s", got)
	}
}
