package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/packet"
)

var traffic4 = Traffic{
	Dst: [6]byte{2, 0, 0, 0, 0, 1}, Src: [6]byte{2, 0, 0, 0, 0, 2},
	Client: netip.MustParseAddrPort("10.0.255.250:1000"), Service: netip.MustParseAddrPort("192.168.10.101:80"),
	Flows: 1000, Random: true,
}

var traffic6 = Traffic{
	Dst: [6]byte{2, 0, 0, 0, 0, 1}, Src: [6]byte{2, 0, 0, 0, 0, 2},
	Client: netip.MustParseAddrPort("[fd01::a00:fffa]:1000"), Service: netip.MustParseAddrPort("[fd00:10::101]:80"),
	Flows: 1000, Random: true,
}

// bed is the usual set-up.
type bed struct {
	testing.TB
	generator, director End
}

func newBed(t testing.TB) *bed {
	t.Helper()
	b := &bed{TB: t}
	n, err := NewNet()
	b.must(err)
	t.Cleanup(func() { b.must(n.Close()) })
	b.generator, b.director, err = n.Loop()
	b.must(err)
	return b
}

func (b *bed) must(err error) {
	b.Helper()
	if errors.Is(err, ErrNotPermitted) {
		b.Skip(err)
	}
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bed) sink(at End, o SinkOptions) *Sink {
	b.Helper()
	s, err := NewSink(at, o)
	b.must(err)
	b.Cleanup(s.Close)
	return s
}

func (b *bed) generate(t Traffic) *Generator {
	b.Helper()
	g, err := NewGenerator(b.generator, t)
	b.must(err)
	b.Cleanup(g.Close)
	return g
}

// attach puts instructions in front of the director's interface.
func (b *bed) attach(list asm.Instructions) {
	b.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: list})
	b.must(err)
	b.Cleanup(func() { p.Close() })
	l, err := b.director.Attach(p)
	b.must(err)
	b.Cleanup(func() { l.Close() })
}

// bare is XDP_TX of everything.
var bare = asm.Instructions{asm.Mov.Imm(asm.R0, 3), asm.Return()}

// Every field is as it was asked for.
func TestFields(t *testing.T) {
	for _, family := range []Traffic{traffic4, traffic6} {
		for _, udp := range []bool{false, true} {
			for _, size := range []int{0, 8, 33, 1400} {
				traffic := family
				traffic.SYN, traffic.FIN = !udp && size == 33, !udp && size == 0
				traffic.UDP, traffic.Payload, traffic.Sequence = udp, size, size >= 8
				if size == 8 {
					traffic.VLAN = 7
				}
				traffic.PortBits, traffic.Random, traffic.Count = 3, size == 33, true
				t.Run(fmt.Sprintf("%v, UDP %v, %d bytes", traffic.Client, udp, size), func(t *testing.T) { fields(t, traffic) })
			}
		}
	}
}

func fields(t *testing.T, traffic Traffic) {
	const n = ring
	b := newBed(t)
	// All is passed on, to a socket.
	b.sink(b.director, SinkOptions{Room: asm.Instructions{asm.Mov.Imm(asm.R0, 256)}})
	var fd int
	b.must(b.director.Space.Do(func() (err error) {
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: b.director.Index})
	}))
	defer unix.Close(fd)
	g := b.generate(traffic)
	_, err := g.Run(n)
	b.must(err)
	if tag := traffic.frame()[12:16]; traffic.VLAN != 0 && string(tag) != "\x81\x00\x00\x07" {
		t.Fatalf("the tag is % x", tag)
	}
	traffic.VLAN = 0 // the kernel takes the tag off
	want := traffic.frame()
	seen := map[uint32]uint64{}
	buf := make([]byte, 2000)
	for i := range n {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		if err != unix.EINTR { // by a signal of Go's scheduler
			b.must(err)
		}
		size, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
		frame := buf[:size]
		var p packet.Packet
		p.Parse(frame)
		if !packet.TransportIntact(frame, &p) {
			t.Fatalf("packet %d: the transport's checksum is wrong: % x", i, frame)
		}
		clear(frame[traffic.atChecksum():][:2])
		client := p.Flow.Client()
		first, at := traffic.Client.Addr().AsSlice(), client.Addr().AsSlice()
		low := func(a []byte) uint32 { return binary.BigEndian.Uint32(a[len(a)-4:]) }
		flow := (low(at)-low(first))<<traffic.PortBits + uint32(client.Port()-traffic.Client.Port())
		if traffic.ClientOf(flow) != client || flow >= traffic.Flows {
			t.Fatalf("packet %d is from %v", i, client)
		}
		if !traffic.Random && flow != uint32(i)%traffic.Flows {
			t.Fatalf("packet %d is of flow %d", i, flow)
		}
		seen[flow]++
		// The rest of it.
		payload := traffic.atPayload()
		if traffic.Sequence {
			if got := binary.BigEndian.Uint64(frame[payload:]); got != uint64(i) {
				t.Fatalf("packet %d has number %d", i, got)
			}
			clear(frame[payload:][:8])
		}
		if !traffic.six() {
			if packet.Checksum(frame[14:34]) != 0 {
				t.Fatalf("packet %d: the checksum is wrong: % x", i, frame[14:34])
			}
			clear(frame[24:26])
		}
		srcEnd := traffic.atTransport() - len(first)
		copy(frame[srcEnd-len(first):srcEnd], first)
		binary.BigEndian.PutUint16(frame[traffic.atTransport():], traffic.Client.Port())
		if string(frame) != string(want) {
			t.Fatalf("packet %d:\n% x\nwant\n% x", i, frame, want)
		}
	}
	for flow, n := range seen {
		if g.SentOf(flow) != n {
			t.Errorf("flow %d: %d were sent, and %d seen", flow, g.SentOf(flow), n)
		}
	}
	if traffic.Random && len(seen) < n*2/3 {
		t.Errorf("%d different flows among %d", len(seen), n)
	}
}

// Flows are picked as often as they are named, and a room that is worked out is
// the one counted in.
func TestPick(t *testing.T) {
	b := newBed(t)
	s := b.sink(b.director, SinkOptions{Rooms: 300, Room: asm.Instructions{
		asm.Mov.Reg(asm.R1, FrameReg),
		asm.Add.Imm(asm.R1, 42),
		asm.JGT.Reg(asm.R1, EndReg, Other),
		asm.LoadMem(asm.R0, FrameReg, 34, asm.Half), // the client's port
		asm.HostTo(asm.BE, asm.R0, asm.Half),
		asm.Sub.Imm(asm.R0, 1000),
	}})
	traffic := traffic4
	traffic.PortBits, traffic.Flows, traffic.Pick, traffic.Count = 8, 256, []uint32{3, 200, 3, 3}, true
	g := b.generate(traffic)
	const rounds = 50
	for i := range uint64(rounds) {
		_, err := g.Run(ring)
		b.must(err)
		b.must(s.Await((i+1)*ring, patience))
	}
	for flow, share := range map[int]int{3: 3, 200: 1} {
		n, quarter := int(s.Count(flow)), rounds*ring/4
		if n < share*quarter*9/10 || n > share*quarter*11/10 || n != int(g.SentOf(uint32(flow))) {
			t.Errorf("flow %d: %d frames, %d were sent", flow, n, g.SentOf(uint32(flow)))
		}
	}
}

// A rate is not exceeded, and is kept to by a generator that has the CPU.
func TestRate(t *testing.T) {
	for _, rate := range []uint64{1000, 100000} {
		b := newBed(t)
		s := b.sink(b.director, SinkOptions{})
		traffic := traffic4
		traffic.Rate = rate
		g := b.generate(traffic)
		began := time.Now()
		processor, err := g.Run(rate / 2)
		b.must(err)
		took := time.Since(began)
		b.await(s, rate/2)
		// Between packets it looks at the clock, all the time that it has the CPU. The
		// last call of the system has to run out.
		if took < 480*time.Millisecond || processor > 2*time.Second {
			t.Errorf("%d packets at %d a second took %v, %v of the processor", rate/2, rate, took, processor)
		}
	}
}

// A sink in front of the stack counts the same, and one for a service only that.
func TestSinks(t *testing.T) {
	for name, o := range map[string]SinkOptions{
		"stack": {Stack: true}, "generic": {Generic: true},
		"only": Only(traffic4.Service, false), "only, IPv6": Only(traffic6.Service, true),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.must(b.director.GRO())
			traffic := traffic4
			if name == "only, IPv6" {
				traffic, traffic.UDP = traffic6, true
			}
			traffic.Dst[5] = 0 // the room, where that is what counts
			s := b.sink(b.director, o)
			send := func(traffic Traffic) {
				_, err := b.generate(traffic).Run(ring)
				b.must(err)
			}
			send(traffic)
			b.must(s.Await(ring, patience))
			if o.Rooms == 0 {
				return
			}
			for _, change := range []func(*Traffic){
				func(t *Traffic) { t.UDP = !t.UDP },
				func(t *Traffic) { t.Service = netip.AddrPortFrom(t.Service.Addr(), 81) },
				func(t *Traffic) { t.Service = netip.AddrPortFrom(t.Service.Addr().Next(), 80) },
			} {
				before, _, err := b.director.Statistics()
				b.must(err)
				other := traffic
				change(&other)
				send(other)
				for begin := time.Now(); ; time.Sleep(time.Millisecond) {
					if received, _, err := b.director.Statistics(); err != nil || received >= before+ring {
						b.must(err)
						break
					} else if time.Since(begin) > patience {
						t.Fatalf("the interface has received %d frames of %d", received-before, ring)
					}
				}
			}
			if n := s.Total(); n != ring {
				t.Errorf("%d frames were counted", n)
			}
		})
	}
}

func TestBadTraffic(t *testing.T) {
	for want, change := range map[string]func(*Traffic){
		"Traffic needs Flows: give 1 or more":                    func(t *Traffic) { t.Flows = 0 },
		"give two addresses and ports of one family":             func(t *Traffic) { t.Client = netip.AddrPort{} },
		"service [fd00:10::101]:80: give two addresses and port": func(t *Traffic) { t.Service = traffic6.Service },
		"has no room for a sequence number of 8":                 func(t *Traffic) { t.Sequence = true },
		"UDP has no SYN and no FIN: leave it out":                func(t *Traffic) { t.UDP, t.FIN = true, true },
		"VLAN 4095: give one up to 4094":                         func(t *Traffic) { t.VLAN = 4095 },
		"1000000001 packets a second: give up to 1000000000":     func(t *Traffic) { t.Rate = 1e9 + 1 },
		"batches of 129: give up to 128":                         func(t *Traffic) { t.Batch = 129 },
		"a payload of 1500 bytes: give up to 1400":               func(t *Traffic) { t.Payload = 1500 },
		"flow 1000 is picked, and there are 1000, from 0 on":     func(t *Traffic) { t.Pick = []uint32{1000} },
		"17 PortBits: give up to 16":                             func(t *Traffic) { t.PortBits = 17 },
		"16777217 flows are too many to count each":              func(t *Traffic) { t.Flows, t.Count = 1<<24+1, true },
	} {
		traffic := traffic4
		change(&traffic)
		if _, err := NewGenerator(End{}, traffic); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// BenchmarkWire is what the wire itself costs: making frames, bare XDP_TX, the
// veth pair both ways and the sink; and without the way back.
func BenchmarkWire(b *testing.B) {
	for _, back := range []bool{false, true} {
		for _, flows := range []uint32{1, 65536, 1 << 20} {
			b.Run(fmt.Sprintf("back=%v/%d", back, flows), func(b *testing.B) {
				bed := newBed(b)
				at := bed.director
				if back {
					at = bed.generator
					bed.attach(bare)
				}
				s := bed.sink(at, SinkOptions{})
				traffic := traffic4
				traffic.Flows = flows
				g := bed.generate(traffic)
				const packets = 1 << 20
				var took time.Duration
				for b.Loop() {
					t, err := g.Run(packets)
					bed.must(err)
					took += t
				}
				bed.must(s.Await(g.Sent(), time.Second))
				b.ReportMetric(float64(took)/float64(g.Sent()), "cpu-ns/packet")
				b.ReportMetric(float64(g.Sent())/took.Seconds()/1e6, "Mpps")
			})
		}
	}
}
