package planes

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/bench/wire"
	"github.com/ulvs/ulvs/bench/wire/rounds"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/shtab"
)

// TestTCXCost has packets of established connections go through veth by TCX, beside a program there that sends
// all of them back, the kernel's forwarding, and AF_PACKET. What there can be is the former that besides reads and
// stamps a line of memory by flow, of as many: an entry of a table that knew no keys and no
// states.
func TestTCXCost(t *testing.T) {
	const rounded, mostOfForwarding = 1 << 16, 0.75
	for flows, most := range map[uint32]float64{1: 1.10, rounded: 1.30, 1 << 20: 1.5} {
		if !*judged && flows > 1 {
			continue
		}
		traffic := established(flows)
		size := int(max(2*flows, 1024))
		s := newStation(t, planeTCX, size, 0)
		s.establish(flows)
		carried := s.skbs(planeTCX, traffic)
		list := []rounds.Contender{redirecting(t, redirect, 0, traffic), carried, redirecting(t, stamping, int(conn.MemorySize(size))/shtab.SlotSize, traffic)}
		if c, ok := forwarding.contender(t, traffic, flows); ok {
			list = append(list, c)
		}
		if flows <= rounded {
			slow := newStation(t, planeAFPacket, size, 0)
			slow.establish(flows)
			list = append(list, slow.threaded(planeAFPacket, slow.generate(traffic)))
		}
		times := 7
		if !*judged {
			times = 1
			for i := range list {
				list[i].Packets, list[i].Burst = burst, burst/8
			}
		}
		all, err := rounds.Run(times, list)
		if err != nil {
			t.Fatal(err)
		}
		median := map[string]float64{}
		for _, f := range all {
			median[f.Name] = rounds.Median(f.All)
		}
		least := median[stamping]
		t.Logf("%d flows: TCX %.0f ns a packet, bound %.0f; AF_PACKET %.0f", flows, median[planeTCX], least, median[planeAFPacket])
		compare := func(with string, limit float64) {
			is, bound := median[planeTCX]/median[with], least/median[with]
			t.Logf("%d flows: %.2f of %s, which takes %.0f ns; limit %.2f, bound %.2f", flows, is, with, median[with], limit, bound)
			if *judged && is > max(limit, 1.1*bound) {
				t.Errorf("%d flows: TCX takes more: %v", flows, all)
			}
		}
		compare(redirect, most)
		if flows == rounded {
			compare(forwarding.name, mostOfForwarding)
		}
		if n, sent := s.counter("xdp_frames"), carried.Generators[0].Sent(); n != sent {
			t.Errorf("the program forwarded %d packets of %d", n, sent)
		}
	}
}

// The names of programs at TCX that send all back, and that stamp a line of memory first.
const redirect, stamping = "bare redirect", "redirect with a line"

// skbs is a contender that hands on skbs in the generator's system call.
func (s *bed) skbs(name string, traffic func(*wire.Traffic)) rounds.Contender {
	return rounds.Contender{Name: name, Generators: []*wire.Generator{s.generate(traffic)}, Packets: slowPackets, Room: room,
		Sinks: []*wire.Sink{s.sink(wire.SinkOptions{Stack: true})}}
}

// redirecting is a program that sends each skb back where the stack takes it from the interface. If there are
// lines, it stamps one first, by the packet's client.
func redirecting(t *testing.T, name string, lines int, traffic func(*wire.Traffic)) rounds.Contender {
	s := newBed(t)
	s.must(s.at.GRO())
	var list asm.Instructions
	if lines > 0 {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: uint32(lines * shtab.SlotSize), MaxEntries: 1})
		s.must(err)
		t.Cleanup(func() { m.Close() })
		const data, end, client, port = 76, 80, 14 + 12, 14 + 20 // struct __sk_buff, and in the frame
		list = asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, data, asm.Word),
			asm.LoadMem(asm.R3, asm.R1, end, asm.Word),
			asm.Mov.Reg(asm.R4, asm.R2),
			asm.Add.Imm(asm.R4, port+2),
			asm.JGT.Reg(asm.R4, asm.R3, "send"),
			asm.LoadMem(asm.R4, asm.R2, client, asm.Word),
			asm.LoadMem(asm.R5, asm.R2, port, asm.Half),
			asm.LSh.Imm(asm.R4, 16),
			asm.Or.Reg(asm.R4, asm.R5),
			asm.LoadImm(asm.R5, -0x61c8864680b583eb, asm.DWord), // 2^64 by the golden ratio
			asm.Mul.Reg(asm.R4, asm.R5),
			asm.RSh.Imm(asm.R4, 32),
			asm.Mul.Imm(asm.R4, int32(lines)),
			asm.RSh.Imm(asm.R4, 32),
			asm.JGE.Imm(asm.R4, int32(lines), "send"), // never: for the verifier
			asm.Mul.Imm(asm.R4, shtab.SlotSize),
			asm.LoadMapValue(asm.R2, m.FD(), 0),
			asm.Add.Reg(asm.R2, asm.R4),
			asm.LoadMem(asm.R3, asm.R2, shtab.OffState, asm.Word),
			asm.JEq.Imm(asm.R3, 1, "send"),
			asm.StoreMem(asm.R2, shtab.OffStamp, asm.R4, asm.Word),
		}
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: append(list,
		asm.Mov.Imm(asm.R1, int32(s.at.Index)).WithSymbol("send"),
		asm.Mov.Imm(asm.R2, 0), // out of it
		asm.FnRedirect.Call(),
		asm.Return(),
	)})
	s.must(err)
	t.Cleanup(func() { p.Close() })
	remove, err := s.at.Classify(p)
	s.must(err)
	t.Cleanup(remove)
	return s.skbs(name, func(t *wire.Traffic) { t.Dst = [6]byte(serverOf(0)); traffic(t) })
}
