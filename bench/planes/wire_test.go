package planes

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/ulvs/ulvs/bench/wire"
	"github.com/ulvs/ulvs/bench/wire/rounds"
)

// BenchmarkWire is what goes through a veth pair and back on the generator's CPU:
// directors on the planes that "ulvs run" has, a program that sends everything back
// (bare), which is the most that there can be, and what the kernel has for it
// (peers_test.go). package race has the figures' meaning.
//
// The XDP program works in the generator's system call, and a round is a million
// packets at one go. The planes with sockets work in threads of this process. They
// get 1,024 packets at a time, which their rings have room for, and what counts is
// the processor time of the generator's thread (making the frames, veth, the
// receiving half up to the socket) and of all others (threads-ns/packet: deciding and
// sending, up to the sink). So no figure needs a CPU that is idle otherwise, and none
// says what two CPUs could do at once.
//
//   - established/N: packets of N connections, at random.
//   - new, new-persistent, new-persistent-16: each packet a connection; with
//     persistence, from a client that was never seen, or has 16 connections.
//   - handed-over: the second packet of each connection, its SYN again: the XDP program leaves
//     that to Go.
func BenchmarkWire(b *testing.B) {
	for _, l := range loads() {
		b.Run(l.name, func(b *testing.B) {
			all, err := rounds.Run(turns, l.contenders(b))
			if err != nil {
				b.Fatal(err)
			}
			rounds.Report(b, all)
		})
	}
}

// load is what contenders are given to carry.
type load struct {
	name       string
	contenders func(testing.TB) []rounds.Contender
}

func loads() (list []load) {
	for _, flows := range []uint32{1, 1 << 16, 1 << 20} {
		list = append(list, load{fmt.Sprintf("established/%d", flows), func(b testing.TB) []rounds.Contender { return carryEstablished(b, flows) }})
	}
	return append(list,
		load{"new", func(b testing.TB) []rounds.Contender { return carryNew(b, 0, 2) }},
		load{"new-persistent", func(b testing.TB) []rounds.Contender { return carryNew(b, 5*time.Minute, 0) }},
		load{"new-persistent-16", func(b testing.TB) []rounds.Contender { return carryNew(b, 5*time.Minute, 4) }},
		load{"handed-over", handedOver},
	)
}

// All contenders carry all loads, for a moment.
func TestWire(t *testing.T) {
	for _, l := range loads() {
		t.Run(l.name, func(t *testing.T) {
			if strings.HasPrefix(l.name, "established/") && l.name != "established/1" || l.name == "new-persistent" {
				t.Skip("it takes long, and is as others")
			}
			list := l.contenders(t)
			for i := range list {
				// So few at a time that veth holds them, whoever has the CPU; and few times, as
				// the kernel takes some 30 ms over each, and takes them one after the other.
				list[i].Packets, list[i].Burst = burst, burst/8
			}
			if _, err := rounds.Run(1, list); err != nil {
				t.Fatal(err)
			}
		})
	}
}

const (
	turns = 9
	// What a round has, for contenders in the kernel, slow ones there, and those with
	// threads, and how much of it at a time.
	packets     = 1 << 20
	slowPackets = 1 << 18
	fewPackets  = 1 << 15
	burst       = 1 << 10
)

// bare is the program that sends everything back.
func bare(b testing.TB, traffic func(*wire.Traffic)) rounds.Contender {
	s := newBed(b)
	p := s.sendBack()
	// A link address as the servers', which the frames come back with.
	g := s.generate(func(t *wire.Traffic) { t.Dst = [6]byte(serverOf(0)); traffic(t) })
	return rounds.Contender{
		Name: "bare", Generators: []*wire.Generator{g}, Sinks: []*wire.Sink{s.sink(wire.SinkOptions{})}, Room: room, Packets: packets, Program: p,
	}
}

// sendBack attaches it.
func (s *bed) sendBack() *ebpf.Program {
	s.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 3), asm.Return()}})
	s.must(err)
	s.Cleanup(func() { _ = p.Close() })
	l, err := s.at.Attach(p)
	s.must(err)
	s.Cleanup(func() { _ = l.Close() })
	return p
}

func (s *station) contender(name string, g *wire.Generator, o wire.SinkOptions) rounds.Contender {
	return rounds.Contender{Name: name, Generators: []*wire.Generator{g}, Sinks: []*wire.Sink{s.sink(o)}, Room: room}
}

// threaded is a contender whose packets this process carries.
func (s *station) threaded(name string, g *wire.Generator) rounds.Contender {
	return s.threadedTo(name, g, wire.SinkOptions{Stack: true})
}

func (s *station) threadedTo(name string, g *wire.Generator, o wire.SinkOptions) rounds.Contender {
	c := s.contender(name, g, o)
	c.Packets, c.Burst, c.Threads = fewPackets, burst, true
	return c
}

func carryEstablished(b testing.TB, flows uint32) []rounds.Contender {
	traffic := established(flows)
	list := []rounds.Contender{bare(b, traffic)}
	size := int(max(2*flows, 1024))
	fast := newStation(b, planeXDP, size, 0)
	fast.establish(flows)
	c := fast.contender(planeXDP, fast.generate(traffic), wire.SinkOptions{})
	program, err := fast.at.Program()
	fast.must(err)
	b.Cleanup(func() { _ = program.Close() })
	c.Packets, c.Program = packets, program
	list = append(list, c)
	b.Cleanup(func() { // none of it was to be Go's
		if n, all := fast.counter("xdp_frames"), c.Generators[0].Sent(); n != all {
			b.Errorf("the XDP program forwarded %d packets of %d", n, all)
		}
	})
	if flows <= 1<<16 {
		slow := newStation(b, planeAFPacket, size, 0)
		slow.establish(flows)
		list = append(list, slow.threaded(planeAFPacket, slow.generate(traffic)))
	}
	return append(list, peers(b, flows)...)
}

// newConnections is room for all connections of a benchmark.
const newConnections = 1 << 19

func carryNew(b testing.TB, persistence time.Duration, portBits uint8) []rounds.Contender {
	traffic := func(t *wire.Traffic) {
		ever(t)
		t.SYN, t.PortBits = true, portBits
	}
	list := []rounds.Contender{bare(b, traffic)}
	s := newStation(b, planeXDP, newConnections, persistence)
	// Most are sent by the program.
	list = append(list, s.threadedTo(planeXDP, s.generate(traffic), wire.SinkOptions{}))
	for _, plane := range []string{planeSockets, planeBehind, planeAFPacket} {
		s := newStation(b, plane, newConnections, persistence)
		list = append(list, s.threaded(plane, s.generate(traffic)))
	}
	if persistence == 0 {
		list = append(list, newPeers(b, traffic)...)
	}
	return list
}

// handedOver sends the SYN again of each connection that was just asked for.
func handedOver(b testing.TB) []rounds.Contender {
	list := []rounds.Contender{bare(b, ever)}
	for _, plane := range []string{planeSockets, planeBehind} {
		s := newStation(b, plane, newConnections, 0)
		asks := func(t *wire.Traffic) { ever(t); t.SYN = true }
		syn := s.generate(asks)
		i := len(list)
		list = append(list, s.threaded(plane, s.generate(asks)))
		list[i].Turn = func() error {
			c := list[i]
			for n := uint64(0); n < c.Packets; n += c.Burst {
				before := c.Sinks[0].Count(room)
				if _, err := syn.Run(c.Burst); err != nil {
					return err
				}
				for end := time.Now().Add(time.Second); c.Sinks[0].Count(room) < before+c.Burst && time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
			}
			return nil
		}
		b.Cleanup(func() {
			if n := s.counter("xdp_frames"); n > 0 {
				b.Errorf("%s: XDP forwarded %d of the packets that are to be handed over", plane, n)
			}
		})
	}
	return list
}
