package xdp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/packet"
)

// BenchmarkEstablished is what an established packet costs, flows drawn at random,
// run by BPF_PROG_TEST_RUN: with the shared array, and the same program with a BPF
// hash and an LRU hash in its place, all made for twice as many flows. Those have
// the array's keys, of 40 bytes, which serve both families, as in other balancers;
// hash16 has keys that serve IPv4 alone. net-ns/op is without what drawing the flow,
// writing its header and XDP_TX alone cost, which is bare-ns/op. to-array is net-ns
// as a multiple of the array's for IPv4.
//
// Programs and families take turns, and so do tables: where in memory one happens to
// lie makes more of a difference than what is compared. All figures are medians.
func BenchmarkEstablished(b *testing.B) {
	for _, flows := range []uint32{1, 8192, 1 << 20, 1 << 23} {
		b.Run(fmt.Sprint(flows), func(b *testing.B) { established(b, flows) })
	}
}

func established(b *testing.B, flows uint32) {
	tables := 9
	if flows > 1<<20 {
		tables = 3
	}
	var all results
	for range tables {
		for _, six := range []bool{false, true} {
			s := &scope{TB: b}
			r := newRig(s, six, flows)
			if six {
				all.add(r.measure([]variant{{"IPv6/array", r.source().Assemble()}}))
			} else {
				variants := []variant{{"IPv4/array", r.source().Assemble()}}
				for i := range r.like {
					variants = append(variants, variant{"IPv4/" + rivals[i].name, r.hashed(i)})
				}
				all.add(r.measure(variants))
			}
			s.end()
		}
	}
	all.report(b)
}

// BenchmarkFeatures is BenchmarkEstablished with programs that leave out a part of
// what has to be done: what each part costs.
func BenchmarkFeatures(b *testing.B) {
	for _, flows := range []uint32{1, 8192} {
		b.Run(fmt.Sprint(flows), func(b *testing.B) { features(b, flows) })
	}
}

func features(b *testing.B, flows uint32) {
	var all results
	for range 9 {
		s := &scope{TB: b}
		r := newRig(s, false, flows)
		variants := []variant{{"all", r.source().Assemble()}}
		for i, name := range []string{"no-state", "no-server", "no-counters", "no-stamp", "no-TTL"} {
			p := r.source()
			p.Path = slices.Delete(p.Path, i, i+1)
			switch name {
			case "no-state":
				p.Path = slices.Insert(p.Path, i, (*program.Program).TakeServer)
			case "no-server":
				p.Path = slices.Insert(p.Path, i, (*program.Program).Back)
			}
			variants = append(variants, variant{name, p.Assemble()})
		}
		all.add(r.measure(variants))
		s.end()
	}
	all.report(b)
}

// scope is a part of a benchmark, after which all that it used is given back.
type scope struct {
	testing.TB
	after []func()
}

func (s *scope) Cleanup(f func()) { s.after = append(s.after, f) }

func (s *scope) end() {
	for _, f := range slices.Backward(s.after) {
		f()
	}
}

// variant is a program that takes part in a comparison.
type variant struct {
	name string
	list asm.Instructions
}

// rig is a bench with flows, and BPF maps that have them too.
type rig struct {
	*bench
	six   bool
	flows uint32
	like  []*ebpf.Map
}

// rivals are the BPF maps that the array is compared with.
var rivals = []struct {
	name  string
	kind  ebpf.MapType
	words int16
}{{"hash", ebpf.Hash, 5}, {"lru", ebpf.LRUHash, 5}, {"hash16", ebpf.Hash, 2}}

func newRig(b testing.TB, six bool, flows uint32) *rig {
	r := &rig{bench: newBench(b, int(max(2*flows, 1024))), six: six, flows: flows}
	if !six && flows <= 1<<20 {
		for _, rival := range rivals {
			m, err := ebpf.NewMap(&ebpf.MapSpec{Type: rival.kind, KeySize: uint32(rival.words) * 8, ValueSize: 64, MaxEntries: max(2*flows, 1024)})
			r.must(err)
			b.Cleanup(func() { m.Close() })
			r.like = append(r.like, m)
		}
	}
	for i := range flows {
		entry := r.establish(netip.AddrPortFrom(client(six, i), 1000), service(six), 1+i%3)
		for n, m := range r.like {
			r.must(m.Put(entry[8:8+8*rivals[n].words], entry))
		}
	}
	return r
}

// establish makes an established TCP connection, and returns its slot.
func (b *bench) establish(from, to netip.AddrPort, dest uint32) []byte {
	f := packet.NewFlow(6, from, to)
	id, err := b.conns.Insert(&f, b.conns.Hash(&f), dest, 0, 0, 0)
	b.must(err)
	b.conns.TCP(id, packet.SYN, 0)
	b.conns.TCP(id, packet.ACK, 0)
	return b.Plane.conns.memory[shtab.HeaderSize+shtab.SlotSize*int(id):][:shtab.SlotSize]
}

func client(six bool, i uint32) netip.Addr {
	if !six {
		return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	}
	a := netip.MustParseAddr("fd01::a00:0").As16()
	binary.BigEndian.PutUint32(a[12:], 10<<24|i)
	return netip.AddrFrom16(a)
}

func service(six bool) netip.AddrPort {
	if six {
		return netip.MustParseAddrPort("[fd00:10::101]:80")
	}
	return netip.MustParseAddrPort("192.168.10.101:80")
}

func (r *rig) source() *program.Config {
	return r.Plane.source(r.acceleration(), r.ticks, 1, []dataplane.MAC{own}, nil)
}

// hashed is the program on a rival's map.
func (r *rig) hashed(rival int) asm.Instructions {
	p := r.source()
	p.Hashed, p.HashedWords = r.like[rival].FD(), rivals[rival].words
	return p.Assemble()
}

// results are what programs took for a packet in rounds, in ns, in the order in
// which they were first measured.
type results struct {
	names []string
	bare  []float64
	net   map[string][]float64
}

// measure runs programs in turn, and the bare one.
func (r *rig) measure(variants []variant) (all results) {
	const packets = 1 << 19
	rounds := 9
	if r.flows > 8192 {
		rounds = 3
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	progs := []*ebpf.Program{r.wrapped(asm.Instructions{asm.Mov.Imm(asm.R0, program.ActionTX), asm.Return()})}
	for _, v := range variants {
		progs = append(progs, r.wrapped(v.list))
		all.names = append(all.names, v.name)
	}
	all.net = make(map[string][]float64)
	frame := r.frame()
	for round := range rounds + 1 {
		bare := 0.0
		for i, p := range progs {
			before := threadTime()
			action, _, err := p.Benchmark(frame, packets, nil)
			took := float64(threadTime()-before) / packets
			switch {
			case err != nil || action != program.ActionTX:
				r.t.Fatalf("program %d: action %d, %v", i, action, err)
			case round == 0: // to warm up
			case i == 0:
				bare = took
				all.bare = append(all.bare, took)
			default:
				name := variants[i-1].name
				all.net[name] = append(all.net[name], took-bare)
			}
		}
	}
	return all
}

func (all *results) add(more results) {
	if all.net == nil {
		all.net = make(map[string][]float64)
	}
	all.bare = append(all.bare, more.bare...)
	for _, name := range more.names {
		if all.net[name] == nil {
			all.names = append(all.names, name)
		}
		all.net[name] = append(all.net[name], more.net[name]...)
	}
}

func (all *results) report(b *testing.B) {
	median := func(list []float64) float64 { return slices.Sorted(slices.Values(list))[len(list)/2] }
	first := median(all.net[all.names[0]])
	for _, name := range all.names {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(all.net[name]), "net-ns/op")
			b.ReportMetric(median(all.net[name])/first, "to-array")
			b.ReportMetric(median(all.bare), "bare-ns/op")
		})
	}
}

// threadTime is the processor time that this thread has had, in ns.
func threadTime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) // cannot fail for this clock
	return ts.Nano()
}

func (r *rig) frame() []byte {
	return shape{six: r.six, proto: layers.IPProtocolTCP, port: 1000, flags: "A"}.frame(r.t)
}

// wrapped is a program that draws a flow, writes its header into the packet, which
// a test run does not restore, and goes on with list. All clients send from one
// port; an IPv4 header's checksum is worked out with the address.
func (r *rig) wrapped(list asm.Instructions) *ebpf.Program {
	r.t.Helper()
	frame := r.frame()
	if !r.six {
		copy(frame[26:30], []byte{10, 0, 0, 0})
		frame[24], frame[25] = 0, 0
	}
	size := int32(len(frame))
	out := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, 0, asm.Word),
		asm.LoadMem(asm.R8, asm.R6, 4, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.Add.Imm(asm.R1, size),
		asm.JGT.Reg(asm.R1, asm.R8, "out"),
	}
	for at := int16(0); int32(at)+8 <= size; at += 8 {
		out = append(out, asm.LoadImm(asm.R1, int64(binary.NativeEndian.Uint64(frame[at:])), asm.DWord), asm.StoreMem(asm.R7, at, asm.R1, asm.DWord))
	}
	drawn, err := newArray("ulvs_drawn", 8)
	r.must(err)
	r.t.Cleanup(drawn.close)
	out = append(out,
		asm.LoadMapValue(asm.R1, drawn.FD(), 0),
		asm.LoadMem(asm.R0, asm.R1, 0, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.HostTo(asm.BE, asm.R1, asm.Word),
		asm.Or.Imm(asm.R1, 10),
	)
	if r.six {
		out = append(out, asm.StoreMem(asm.R7, 34, asm.R1, asm.Word))
	} else {
		sum := uint32(^packet.Checksum(frame[14:34]))
		out = append(out,
			asm.StoreMem(asm.R7, 26, asm.R1, asm.Word),
			// checksum: the sum without the lower 24 bits of the address, and those
			asm.Mov.Reg(asm.R2, asm.R0),
			asm.RSh.Imm(asm.R2, 16),
			asm.And.Imm(asm.R0, 0xffff),
			asm.Add.Reg(asm.R0, asm.R2),
			asm.Add.Imm(asm.R0, int32(sum)),
			asm.Mov.Reg(asm.R2, asm.R0), asm.RSh.Imm(asm.R2, 16), asm.And.Imm(asm.R0, 0xffff), asm.Add.Reg(asm.R0, asm.R2),
			asm.Mov.Reg(asm.R2, asm.R0), asm.RSh.Imm(asm.R2, 16), asm.And.Imm(asm.R0, 0xffff), asm.Add.Reg(asm.R0, asm.R2),
			asm.Xor.Imm(asm.R0, 0xffff),
			asm.HostTo(asm.BE, asm.R0, asm.Half),
			asm.StoreMem(asm.R7, 24, asm.R0, asm.Half),
		)
	}
	// The next flow is drawn only now, and slowly, so that the program does not read
	// what has just been written: a load that spans several stores waits until they
	// are in the cache, 13 ns here, and no packet from a network has that.
	for range 4 {
		out = append(out, asm.FnGetPrandomU32.Call())
	}
	out = append(out,
		asm.LoadMapValue(asm.R1, drawn.FD(), 0),
		asm.And.Imm(asm.R0, int32(r.flows-1)),
		asm.StoreMem(asm.R1, 0, asm.R0, asm.Word),
	)
	programs, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	r.must(err)
	inner, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: list})
	r.must(err)
	r.must(programs.Put(uint32(0), inner))
	out = append(out,
		asm.Mov.Reg(asm.R1, asm.R6), asm.LoadMapPtr(asm.R2, programs.FD()), asm.Mov.Imm(asm.R3, 0), asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"), asm.Return(),
	)
	outer, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: out})
	r.must(err)
	r.t.Cleanup(func() { outer.Close(); inner.Close(); programs.Close() })
	return outer
}
