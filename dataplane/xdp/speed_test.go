package xdp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket/layers"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/packet"
)

// BenchmarkEstablished is what an established packet costs, flows drawn at random,
// run by BPF_PROG_TEST_RUN: with the shared array, and the same program with a BPF
// hash and an LRU hash in its place. net-ns/op is without what drawing the flow,
// writing its header and XDP_TX alone cost.
func BenchmarkEstablished(b *testing.B) {
	for _, flows := range []uint32{1, 8192, 1 << 20} {
		l := newBench(b, int(max(flows, 1024)))
		hash := l.like(ebpf.Hash, flows)
		lru := l.like(ebpf.LRUHash, flows)
		for i := range flows {
			f := packet.NewFlow(17, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1000), netip.MustParseAddrPort("192.168.10.101:80"))
			id, err := l.conns.Insert(&f, l.conns.Hash(&f), 1+i%3, 0, 0, 0)
			l.must(err)
			l.conns.UDP(id, 0)
			entry := l.Plane.conns.memory[4096+64*int(id):][:64]
			for _, m := range []*ebpf.Map{hash, lru} {
				l.must(m.Put(entry[8:48], entry))
			}
		}
		bare := l.wrapped(asm.Instructions{asm.Mov.Imm(asm.R0, actionTX), asm.Return()}, flows)
		source := l.source()
		array := l.wrapped(source.assemble(), flows)
		source = l.source()
		source.hashed = hash.FD()
		hashed := l.wrapped(source.assemble(), flows)
		source = l.source()
		source.hashed = lru.FD()
		recent := l.wrapped(source.assemble(), flows)
		for _, v := range []struct {
			name string
			prog *ebpf.Program
		}{{"array", array}, {"hash", hashed}, {"lru", recent}} {
			b.Run(fmt.Sprintf("%d/%s", flows, v.name), func(b *testing.B) {
				frame := shape{proto: layers.IPProtocolUDP, port: 1000}.frame(b)
				run := func(p *ebpf.Program, n uint32) float64 {
					action, took, err := p.Benchmark(frame, int(n), nil)
					if err != nil || action != actionTX {
						b.Fatalf("action %d, %v", action, err)
					}
					return float64(took.Nanoseconds())
				}
				const n = 1 << 20
				run(v.prog, n)
				b.ResetTimer()
				var with, without float64
				rounds := 0
				for b.Loop() {
					with += run(v.prog, n)
					without += run(bare, n)
					rounds++
				}
				b.ReportMetric((with-without)/float64(rounds), "net-ns/op")
				b.ReportMetric(with/float64(rounds), "whole-ns/op")
			})
		}
	}
}

func (b *bench) like(kind ebpf.MapType, flows uint32) *ebpf.Map {
	b.t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: kind, KeySize: 40, ValueSize: 64, MaxEntries: max(flows, 1024) * 2})
	b.must(err)
	b.t.Cleanup(func() { m.Close() })
	return m
}

func (b *bench) source() *program {
	return b.Plane.source(b.acceleration(), b.ticks, []dataplane.MAC{own})
}

// wrapped is a program that draws a flow, writes its header into the packet, which
// a test run does not restore, and goes on with list. All clients of 10.0.0.0/8
// send from one port: the header's checksum is worked out with the address.
func (b *bench) wrapped(list asm.Instructions, flows uint32) *ebpf.Program {
	b.t.Helper()
	frame := shape{proto: layers.IPProtocolUDP, port: 1000}.frame(b.t)
	copy(frame[26:30], []byte{10, 0, 0, 0})
	frame[24], frame[25] = 0, 0
	sum := uint32(^packet.Checksum(frame[14:34]))
	out := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, 0, asm.Word),
		asm.LoadMem(asm.R8, asm.R6, 4, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.Add.Imm(asm.R1, 42),
		asm.JGT.Reg(asm.R1, asm.R8, "out"),
	}
	for at := int16(0); at < 40; at += 8 {
		out = append(out, asm.LoadImm(asm.R1, int64(binary.NativeEndian.Uint64(frame[at:])), asm.DWord), asm.StoreMem(asm.R7, at, asm.R1, asm.DWord))
	}
	out = append(out,
		asm.FnGetPrandomU32.Call(),
		asm.And.Imm(asm.R0, int32(flows-1)),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.HostTo(asm.BE, asm.R1, asm.Word),
		asm.Or.Imm(asm.R1, 10),
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
	programs, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	b.must(err)
	inner, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: list})
	b.must(err)
	b.must(programs.Put(uint32(0), inner))
	out = append(out,
		asm.Mov.Reg(asm.R1, asm.R6), asm.LoadMapPtr(asm.R2, programs.FD()), asm.Mov.Imm(asm.R3, 0), asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"), asm.Return(),
	)
	outer, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: out})
	b.must(err)
	b.t.Cleanup(func() { outer.Close(); inner.Close(); programs.Close() })
	return outer
}
