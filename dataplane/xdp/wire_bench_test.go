package xdp

import (
	"fmt"
	"math/bits"
	"net/netip"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/bench/wire"
	"github.com/ulvs/ulvs/bench/wire/rounds"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/shtab"
)

// BenchmarkWire is what established connections get through a veth pair and back on
// one CPU, generator, driver and sink included, flows drawn at random: the program
// with the shared array, and the same with a BPF hash and an LRU hash, as a share of
// a program that sends everything back; and "line", the floor of all that have a word
// for each connection. All are medians of nine rounds that take
// turns; a round counts only if the sink saw every frame.
//
// two-cpus has one flow on each of two CPUs, which enters by an interface of its own:
// with tables and servers of their own, and with one table and one server. Both CPUs
// have to be left alone for a round, so it has more of them.
//
// The benchmark of the same name in the folder bench has the whole director, and
// others, on the same wire.
func BenchmarkWire(b *testing.B) {
	for _, flows := range []uint32{1, 1 << 16, 1 << 20} {
		b.Run(fmt.Sprintf("program/%d", flows), func(b *testing.B) { wireRounds(b, flows) })
	}
	b.Run("two-cpus", twoCPUs)
}

const wirePackets, wireTurns, twoTurns = 1 << 20, 9, 27

// wireTraffic is one CPU's.
func wireTraffic(flows uint32, cpu int) wire.Traffic {
	return wire.Traffic{
		Dst: own, Src: router, Client: netip.MustParseAddrPort("10.0.0.0:1000"), Service: service(false), Flows: flows, Random: true, Seed: 1,
		CPU: min(cpu, runtime.NumCPU()-1),
	}
}

// loop is a pair of interfaces on which programs are exchanged.
type loop struct {
	director wire.End
	sink     *wire.Sink
	gen      *wire.Generator
	put      func(*ebpf.Program) error
}

func newLoop(b *testing.B, t wire.Traffic) *loop {
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	net, err := wire.NewNet()
	must(err)
	b.Cleanup(func() { _ = net.Close() })
	node, director, err := net.Loop()
	must(err)
	l := &loop{director: director}
	l.sink, err = wire.NewSink(node, wire.SinkOptions{})
	must(err)
	b.Cleanup(l.sink.Close)
	first, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: bareProgram})
	must(err)
	b.Cleanup(func() { _ = first.Close() })
	at, err := director.Attach(first)
	must(err)
	b.Cleanup(func() { _ = at.Close() })
	l.put = at.Update
	l.gen, err = wire.NewGenerator(node, t)
	must(err)
	b.Cleanup(l.gen.Close)
	return l
}

// bareProgram sends everything back.
var bareProgram = asm.Instructions{asm.Mov.Imm(asm.R0, program.ActionTX), asm.Return()}

// lineProgram sends everything back, and counts it in one of so many cache lines (a
// power of two), which the source address says: an array that is as large as a table
// with a line for each connection.
func lineProgram(b *testing.B, lines uint32) asm.Instructions {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: lines * shtab.SlotSize, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = m.Close() })
	factor := uint32(dataplane.LocalFactor)
	return asm.Instructions{
		asm.Mov.Imm(asm.R0, program.ActionPass),
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word),
		asm.LoadMem(asm.R3, asm.R1, 4, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, 34),
		asm.JGT.Reg(asm.R4, asm.R3, "out"),
		asm.LoadMem(asm.R2, asm.R2, 26, asm.Word),
		asm.HostTo(asm.BE, asm.R2, asm.Word),
		asm.Mul.Imm32(asm.R2, int32(factor)),
		asm.RSh.Imm32(asm.R2, 33-int32(bits.Len32(lines))),
		asm.LSh.Imm(asm.R2, 6),
		asm.LoadMapValue(asm.R3, m.FD(), 0),
		asm.Add.Reg(asm.R3, asm.R2),
		asm.LoadMem(asm.R2, asm.R3, 0, asm.Word),
		asm.Add.Imm(asm.R2, 1),
		asm.StoreMem(asm.R3, 0, asm.R2, asm.Word),
		asm.Mov.Imm(asm.R0, program.ActionTX),
		asm.Return().WithSymbol("out"),
	}
}

func wireRounds(b *testing.B, flows uint32) {
	t := wireTraffic(flows, 1)
	r := newBench(b, int(max(2*flows, 1024)))
	maps := make([]*ebpf.Map, 2)
	for i, kind := range []ebpf.MapType{ebpf.Hash, ebpf.LRUHash} {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: kind, KeySize: 40, ValueSize: 64, MaxEntries: max(2*flows, 1024)})
		r.must(err)
		b.Cleanup(func() { _ = m.Close() })
		maps[i] = m
	}
	for i := range flows {
		entry := r.establish(t.ClientOf(i), t.Service, 1+i%3)
		for _, m := range maps {
			r.must(m.Put(entry[8:48], entry))
		}
	}
	l := newLoop(b, t)
	r.wired(l.director.Index)
	variants := []variant{{"bare", bareProgram}, {"line", lineProgram(b, max(2*flows, 1024))}, {"array", r.sourceFor(l.director.Index).Assemble()}}
	for i, name := range []string{"hash", "lru"} {
		p := r.sourceFor(l.director.Index)
		p.Hashed, p.HashedWords = maps[i].FD(), 5
		variants = append(variants, variant{name, p.Assemble()})
	}
	var list []rounds.Contender
	for _, v := range variants {
		p := loaded(b, v.list)
		room := int(to[5])
		if v.name == "bare" || v.name == "line" {
			room = int(own[5])
		}
		list = append(list, rounds.Contender{
			Name: v.name, Generators: []*wire.Generator{l.gen}, Sinks: []*wire.Sink{l.sink}, Room: room, Packets: wirePackets,
			Program: p, Turn: func() error { return l.put(p) },
		})
	}
	all, err := rounds.Run(wireTurns, list)
	r.must(err)
	rounds.Report(b, all)
}

// wired has servers reached by an interface.
func (b *bench) wired(ifindex int) {
	b.egress.out = map[int]bool{ifindex: true}
	for id := range uint32(4) {
		b.SetServer(id, accel.Server{Reachable: true, Dst: to, Src: own, Ifindex: ifindex, MTU: 1500})
	}
}

func (b *bench) sourceFor(ifindex int) *program.Config {
	return b.Plane.source(b.acceleration(), b.ticks, ifindex, []dataplane.MAC{own}, nil)
}

func loaded(b *testing.B, list asm.Instructions) *ebpf.Program {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: list})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = p.Close() })
	return p
}

func twoCPUs(b *testing.B) {
	if runtime.NumCPU() < 2 {
		rounds.Absent("two-cpus", fmt.Errorf("there is one CPU"))
		return
	}
	var loops [2]*loop
	var gens []*wire.Generator
	var sinks []*wire.Sink
	var tables [2]*bench // tables[0] has both flows
	for cpu := range loops {
		t := wireTraffic(1, cpu)
		t.Client = t.ClientOf(0)
		t.Client = netip.AddrPortFrom(t.Client.Addr(), t.Client.Port()+uint16(cpu))
		loops[cpu] = newLoop(b, t)
		gens, sinks = append(gens, loops[cpu].gen), append(sinks, loops[cpu].sink)
		tables[cpu] = newBench(b, 1024)
		tables[cpu].establish(t.Client, t.Service, 1)
		if cpu > 0 {
			tables[0].establish(t.Client, t.Service, 1)
		}
	}
	// Either is the first interface of its namespace, so that one number is right for
	// both, and a server is behind both.
	ifindex := loops[0].director.Index
	if loops[1].director.Index != ifindex {
		b.Fatalf("interfaces %d and %d", ifindex, loops[1].director.Index)
	}
	var progs [2]*ebpf.Program
	for cpu, t := range tables {
		t.wired(ifindex)
		progs[cpu] = loaded(b, t.sourceFor(ifindex).Assemble())
	}
	bare := loaded(b, bareProgram)
	contender := func(name string, room byte, first, second *ebpf.Program) rounds.Contender {
		return rounds.Contender{Name: name, Generators: gens, Sinks: sinks, Room: int(room), Packets: 2 * wirePackets, Turn: func() error {
			if err := loops[0].put(first); err != nil {
				return err
			}
			return loops[1].put(second)
		}}
	}
	all, err := rounds.Run(twoTurns, []rounds.Contender{
		contender("bare", own[5], bare, bare),
		contender("own", to[5], progs[0], progs[1]),
		contender("shared", to[5], progs[0], progs[0]),
	})
	tables[0].must(err)
	rounds.Report(b, all)
}
