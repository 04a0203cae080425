package xdp

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/preselect"
	"github.com/ulvs/ulvs/packet"
)

// What the program forwards is forwarded as Go would: every byte but the link
// addresses and the time to live is as it was.
func TestForwards(t *testing.T) { bothWays(t, 1000, forwards) }

func forwards(t *testing.T, b *bench) {
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
			if action, _ := b.run(frame); action != program.ActionPass {
				t.Errorf("%+v: the packet that establishes it: action %d", s, action)
			}
			b.tell(id, frame)
		}
		before := b.Served(2).Packets
		packets := b.conns.Packets(id)
		action, out := b.run(frame)
		want := bytes.Clone(frame)
		var p packet.Packet
		p.Parse(want)
		packet.DecrementTTL(want, &p)
		copy(want, to[:])
		copy(want[6:], own[:])
		if action != program.ActionTX || !bytes.Equal(out, want) {
			t.Errorf("%+v: action %d\n% x\nwant\n% x", s, action, out, want)
		}
		if n := b.Served(2).Packets; n != before+1 || b.conns.Packets(id) != packets+1 {
			t.Errorf("%+v: counted %d, and %d of the connection", s, n-before, b.conns.Packets(id)-packets)
		}
	}
	if size := b.Served(2).Bytes; size != (20+20)+(20+8)+(40+20+500)+(40+8+1)+(20+8)+(20+20+1400)+(20+20)+(40+8)+1500 {
		t.Errorf("%d bytes", size)
	}
}

// The state machine's every move is Go's: the program forwards exactly what
// leaves the state as it is.
func TestLeavesStatesToGo(t *testing.T) { bothWays(t, 5000, leavesStatesToGo) }

func leavesStatesToGo(t *testing.T, b *bench) {
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
			if (action == program.ActionTX) != stays {
				t.Errorf("S, %s, %s: from %s to %s, action %d", first, second, was, b.conns.StateName(id), action)
			}
		}
	}
}

func TestLeavesSCTPToGo(t *testing.T) { bothWays(t, 5000, leavesSCTPToGo) }

func leavesSCTPToGo(t *testing.T, b *bench) {
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
			case action == program.ActionTX && (b.conns.StateName(id) != was || conn.SCTPEvents()>>second&1 != 0):
				t.Errorf("INIT, %d, %d: from %s to %s, forwarded", first, second, was, b.conns.StateName(id))
			case action == program.ActionTX:
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
func TestPasses(t *testing.T) { bothWays(t, 1000, passes) }

func passes(t *testing.T, b *bench) {
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
		if action, out := b.run(frame); action != program.ActionPass || !bytes.Equal(out, frame) {
			t.Errorf("%s: action %d, changed %v", what, action, !bytes.Equal(out, frame))
		}
	}
	tx := func(what string, want uint32) {
		t.Helper()
		if action, _ := b.run(good); action != want {
			t.Errorf("%s: action %d", what, action)
		}
	}
	tx("as it is", program.ActionTX)
	b.SetServer(1, accel.Server{})
	tx("no server", program.ActionPass)
	b.SetServer(1, accel.Server{Reachable: true, Ifindex: 3, MTU: 1500})
	tx("out of an interface without a program", program.ActionPass)
	b.SetServer(1, accel.Server{Reachable: true, Ifindex: 2, MTU: 1500})
	tx("out of another interface", program.ActionRedirect)
	b.SetServer(1, accel.Server{Reachable: true, Ifindex: 1, MTU: 127})
	tx("over its MTU", program.ActionPass)
	b.SetServer(1, accel.Server{Reachable: true, Ifindex: 1, MTU: 128})
	tx("of its MTU", program.ActionTX)
	b.conns.SetTimeouts(0, 0, time.Second)
	b.SetGeneration(b.conns.Generation())
	tx("old timeouts", program.ActionPass)
}

// Where no daemon shows itself, a packet is forwarded too that would change its
// connection's state, which then stays. What has no connection is not.
func TestNoHeartbeat(t *testing.T) {
	b := newBench(t, 100)
	b.noHeartbeat = true
	s := shape{proto: layers.IPProtocolTCP, port: 1000, flags: "S"}
	id := b.open(s.frame(t), 1)
	for _, flags := range []string{"A", "PA", "FA", "S"} {
		s.flags = flags
		b.Heartbeat(uint32(dataplane.Monotonic()/(time.Second/hz)) - 3*hz)
		if action, _ := b.run(s.frame(t)); action != program.ActionTX {
			t.Errorf("%s: action %d", flags, action)
		}
		for _, ago := range []int32{hz, 0, -5} {
			b.Heartbeat(uint32(dataplane.Monotonic()/(time.Second/hz)) - uint32(ago))
			if action, _ := b.run(s.frame(t)); action != program.ActionPass {
				t.Errorf("%s, %d ticks after the daemon showed itself: action %d", flags, ago, action)
			}
		}
	}
	if name := b.conns.StateName(id); name != "SYN_RECV" {
		t.Error(name)
	}
	s.port++
	b.Heartbeat(0)
	if action, _ := b.run(s.frame(t)); action != program.ActionPass {
		t.Errorf("without a connection: action %d", action)
	}
}

// A full table's every connection is found, whatever chain it is in, and stamped with
// the time that Go would read. (Chains so long that they are Go's are for tables that
// nobody will see, see chain.)
func TestFindsAll(t *testing.T) { bothWays(t, 20000, findsAll) }

func findsAll(t *testing.T, b *bench) {
	n := b.conns.Max()
	for i := range n {
		b.open(shape{proto: layers.IPProtocolUDP, port: uint16(1000 + i)}.frame(t), 3)
	}
	passed := 0
	var ago []int32 // how many ticks
	for i := range n {
		frame := shape{proto: layers.IPProtocolUDP, port: uint16(1000 + i)}.frame(t)
		if action, _ := b.run(frame); action != program.ActionTX {
			passed++
			continue
		}
		var p packet.Packet
		p.Parse(frame)
		id, _ := b.conns.Lookup(&p.Flow, b.conns.Hash(&p.Flow))
		ago = append(ago, int32(b.conns.Idle(id, uint32(dataplane.Monotonic()/(time.Second/hz)))))
	}
	// A kernel's jiffies stand still while its host does not let it run. Stamps are of
	// long ago then, or ahead if the ticks were learned at such a time.
	slices.Sort(ago)
	if len(ago) == 0 {
		t.Fatal("no packet was forwarded")
	}
	if first, median, most := ago[0], ago[len(ago)/2], ago[len(ago)*9/10]; first < -hz || median < -hz/10 || median > hz/10 || most > hz {
		t.Errorf("stamped %d ticks ago at least, %d in the middle, and of nine in ten %d at most", first, median, most)
	}
	if passed > 0 {
		t.Errorf("%d of %d were passed", passed, n)
	}
	if got := fmt.Sprint(b.Counters()["xdp_frames"]); got != fmt.Sprint(n-passed) {
		t.Errorf("xdp_frames is %s", got)
	}
}

// Among a million connections each packet finds its own, and its server.
func TestMillion(t *testing.T) { bothWays(t, 1<<20, million) }

func million(t *testing.T, b *bench) {
	const flows, servers = 1 << 20, 60
	for id := range uint32(servers) {
		b.SetServer(1+id, accel.Server{Reachable: true, Dst: dataplane.MAC{2, 0, 0, 0, 9, byte(id)}, Src: own, Ifindex: 1, MTU: 1500})
	}
	frame := shape{proto: layers.IPProtocolUDP, port: 1000}.frame(t)
	for i := range uint32(flows) {
		f := packet.NewFlow(17, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1000), netip.MustParseAddrPort("192.168.10.101:80"))
		id, err := b.conns.Insert(&f, b.conns.Hash(&f), 1+i%servers, 0, 0, 0)
		b.must(err)
		b.conns.UDP(id, 0)
	}
	passed, tried := 0, 0
	for i := uint32(0); i < flows; i += 23 {
		from(frame, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
		tried++
		switch action, out := b.run(frame); {
		case action != program.ActionTX:
			passed++
		case out[4] != 9 || uint32(out[5]) != i%servers:
			t.Fatalf("flow %d went to %x, not to server %d", i, out[:6], i%servers)
		}
	}
	if passed > 0 {
		t.Errorf("%d of %d were passed", passed, tried)
	}
}

// Every variant of the program passes the verifier.
func TestVariants(t *testing.T) {
	b := newBench(t, 1000)
	sockets, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	b.must(err)
	defer sockets.Close()
	claims, err := newArray("ulvs_claims", preselect.ClaimsSize(2))
	b.must(err)
	defer claims.close()
	table, err := newElements("ulvs_slots", 64, 2000)
	b.must(err)
	defer table.close()
	for _, looked := range []bool{false, true} {
		for _, withSockets := range []bool{false, true} {
			for _, ticks := range []program.Ticks{{Mul: 250, Div: 250, Offset: 1}, {Mul: 250, Div: 1000, Offset: 1 << 31}, {Mul: 250, Div: 100, Offset: 0}, {Mul: 250, Div: 300, Offset: 5}} {
				for _, macs := range [][]dataplane.MAC{{own}, {own, router}} {
					p := b.Plane.source(b.acceleration(), ticks, 1, macs, nil)
					if looked {
						p.LookupHelper, p.Conns = true, table.FD()
					}
					if withSockets {
						p.Sockets, p.Queues, p.Claims, p.ClaimBuckets, p.GivesBack = sockets.FD(), 1, claims.FD(), 2, true
					}
					prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: p.Assemble()})
					if err != nil {
						t.Errorf("looked up %v, sockets %v, ticks %v, %d addresses: %+v", looked, withSockets, ticks, len(macs), err)
						continue
					}
					prog.Close()
				}
			}
		}
	}
}
