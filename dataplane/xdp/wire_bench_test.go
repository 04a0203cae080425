package xdp

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/ulvs/ulvs/bench/wire"
	"github.com/ulvs/ulvs/dataplane"
)

// BenchmarkWire is what established connections get through a veth pair and back on
// one CPU, generator, driver and sink included, flows drawn at random: the shared
// array and a BPF hash map, as a share of a program that sends everything back. All
// are medians of nine rounds that take turns; a round counts only if the sink saw
// every frame.
func BenchmarkWire(b *testing.B) {
	for _, flows := range []uint32{1, 1 << 16, 1 << 20} {
		wireRound(b, flows)
	}
}

func wireRound(b *testing.B, flows uint32) {
	const packets, rounds = 1 << 20, 9
	t := wire.Traffic{
		Dst: own, Src: router, Client: netip.MustParseAddrPort("10.0.0.0:1000"), Service: service(false), Flows: flows, Random: true, Seed: 1, CPU: 1,
	}
	r := newBench(b, int(max(2*flows, 1024)))
	hash, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 40, ValueSize: 64, MaxEntries: max(2*flows, 1024)})
	r.must(err)
	b.Cleanup(func() { hash.Close() })
	for i := range flows {
		entry := r.establish(t.ClientOf(i), t.Service, 1+i%3)
		r.must(hash.Put(entry[8:48], entry))
	}
	net, err := wire.NewNet()
	r.must(err)
	b.Cleanup(func() { _ = net.Close() })
	node, director, err := net.Loop()
	r.must(err)
	sink, err := wire.NewSink(node, wire.SinkOptions{})
	r.must(err)
	b.Cleanup(sink.Close)
	r.out = map[int]bool{director.Index: true}
	for id := range uint32(4) {
		r.SetServer(id, dataplane.Server{Reachable: true, Dst: to, Src: own, Ifindex: director.Index, MTU: 1500})
	}
	source := func() *program {
		return r.Plane.source(r.acceleration(), r.ticks, director.Index, []dataplane.MAC{own}, nil)
	}
	hashed := source()
	hashed.hashed, hashed.hashedWords = hash.FD(), 5
	variants := []variant{{"bare", asm.Instructions{asm.Mov.Imm(asm.R0, actionTX), asm.Return()}}, {"array", source().assemble()}, {"hash", hashed.assemble()}}
	progs := make([]*ebpf.Program, len(variants))
	for i, v := range variants {
		progs[i], err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: v.list})
		r.must(err)
		b.Cleanup(func() { progs[i].Close() })
	}
	l, err := director.Attach(progs[0])
	r.must(err)
	b.Cleanup(func() { _ = l.Close() })
	gen, err := wire.NewGenerator(node, t)
	r.must(err)
	b.Cleanup(gen.Close)
	took := make([][]float64, len(variants))
	for round := range rounds + 1 {
		for i, p := range progs {
			r.must(l.Update(p))
			before := sink.Total()
			d, err := gen.Run(packets)
			r.must(err)
			if err := sink.Await(before+packets, time.Second); err != nil {
				b.Fatalf("%s: %v", variants[i].name, err)
			}
			if round > 0 {
				took[i] = append(took[i], float64(d)/packets)
			}
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	for i, v := range variants {
		b.Run(fmt.Sprintf("%d/%s", flows, v.name), func(b *testing.B) {
			for b.Loop() {
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(took[i][rounds/2], "ns/packet")
			b.ReportMetric(took[0][rounds/2]/took[i][rounds/2], "of-bare")
			b.ReportMetric((took[i][rounds-1]-took[i][0])/took[i][rounds/2], "spread")
		})
	}
}
