package xdp

import (
	"net/netip"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/packet"
)

// stall is how many divisions long the program is interrupted, some 10 ns each.
const stall = 4000

// loadInterrupted loads the program, interrupted for some microseconds between the swap of the state
// and telling which template is ASSURED, at the load of its number: it computes nothing else.
func (s *still) loadInterrupted() (places int, err error) {
	_ = s.prog.Close()
	source := s.source(s.shape, program.Ticks{Mul: 0, Div: 1, Offset: uint32(s.now / (time.Second / hz))}, 1, []dataplane.MAC{own}, s.sockets)
	source.Compared = s.mostCompared()
	list := source.Assemble()
	out := asm.Instructions{}
	word := asm.LoadMem(asm.R2, asm.R5, shtab.OffWord, asm.DWord)
	for i, in := range list {
		// Of the connection's word; or of the number, kept on the stack before the swap.
		reads := in.OpCode == word.OpCode && in.Dst == word.Dst && in.Src == word.Src && in.Offset == word.Offset &&
			list[i+1].Constant == conn.TemplateShift
		kept := in.OpCode == word.OpCode && in.Dst == asm.R2 && in.Src == asm.RFP && int32(list[i+1].Constant) == -1<<31
		if reads || kept {
			if places++; places > 1 { // one suffices: frames without tags
				out = append(out, in)
				continue
			}
			out = append(out, asm.Mov.Imm(asm.R0, -1).WithSymbol(in.Symbol()), asm.Mov.Imm(asm.R1, 3), asm.Mov.Imm(asm.R2, stall),
				asm.Div.Reg(asm.R0, asm.R1).WithSymbol("interrupted"), asm.Or.Imm(asm.R0, -1),
				asm.Sub.Imm(asm.R2, 1), asm.JNE.Imm(asm.R2, 0, "interrupted"))
			in = in.WithSymbol("")
		}
		out = append(out, in)
	}
	s.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: ProgramName, Type: ebpf.XDP, License: "GPL", Instructions: out})
	return places, err
}

// TestMadeInterrupted has a real server be removed, with expire_nodest_conn, while a program that has just
// established a connection to it is interrupted: what it tells is a template nevertheless, and not what is
// in the slot by then.
func TestMadeInterrupted(t *testing.T) {
	cpus := allowed(t)
	if len(cpus) < 2 {
		t.Skip("two CPUs")
	}
	w := newSmallShop(t, 512)
	w.must(w.fast.SetSysctl("expire_nodest_conn", 1))
	w.later(time.Second)
	c := &contest{pair: w, cpus: cpus, services: []uint16{80}}
	places, err := w.still.loadInterrupted()
	w.must(err)
	if places == 0 {
		t.Fatal("there is no place to be interrupted at")
	}
	at := netip.AddrPortFrom(pairServer(false, 0), 80)
	rounds, taken := 0, 0
	safely := func(what string, f func()) {
		defer func() {
			if r := recover(); r != nil {
				t.Errorf("round %d, %s: the director panics: %v\n%.1800s", rounds, what, r, debug.Stack())
			}
		}()
		f()
	}
	for began := time.Now(); time.Since(began) < *statesFor && !t.Failed(); rounds++ {
		frame := shopFrame(t, [4]byte{12, byte(rounds >> 16), byte(rounds >> 8), byte(rounds)}, 2000, "S")
		c.run(frame, packet.SYN)
		safely("accepting", func() { w.fast.Tick(w.still.now) })
		var begun atomic.Bool
		c.together(
			func() {
				begun.Store(true)
				if c.alone(frame, packet.ACK) == program.ActionTX {
					taken++
				}
			},
			func() {
				for !begun.Load() {
				}
				for range w.rng.IntN(20000) {
				}
				w.must(w.fast.DeleteDestination(shopKey, at))
			},
		)
		safely("draining", func() { w.fast.Tick(w.still.now) })
		if t.Failed() {
			return
		}
		w.must(w.fast.AddDestination(shopKey, ulvs.Destination{Addr: pairServer(false, 0), Port: 80, Weight: 1}))
		if rounds%64 == 63 {
			w.still.now += 10 * time.Minute
			w.fast.Tick(w.still.now)
			_, err := w.still.loadInterrupted()
			w.must(err)
		}
	}
	t.Logf("%d rounds, the program took %d ACKs", rounds, taken)
}
