package xdp

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// ticks is how the director's ticks, of CLOCK_MONOTONIC, are worked out from
// jiffies64, which costs a program nothing to read: jiffies*mul/div + offset.
type ticks struct {
	mul, div int32
	offset   uint32
}

// emit turns the jiffies in R0 into ticks.
func (t ticks) emit(p *program) {
	if t.mul != t.div {
		p.emit(asm.Mul.Imm(asm.R0, t.mul), asm.Div.Imm(asm.R0, t.div))
	}
	p.emit(asm.Add.Imm(asm.R0, int32(t.offset)))
}

// kernelHz are the frequencies that kernels are built with.
var kernelHz = []int64{100, 250, 300, 1000}

// learnTicks asks the kernel what its jiffies are. It takes some 200 ms.
func learnTicks(hz uint32) (ticks, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "GPL", Name: "ulvs_jiffies",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R6, asm.R1, 0, asm.Word),
			asm.LoadMem(asm.R2, asm.R1, 4, asm.Word),
			asm.Mov.Reg(asm.R3, asm.R6),
			asm.Add.Imm(asm.R3, 8),
			asm.JGT.Reg(asm.R3, asm.R2, "out"),
			asm.FnJiffies64.Call(),
			asm.StoreMem(asm.R6, 0, asm.R0, asm.DWord),
			asm.Mov.Imm(asm.R0, actionPass).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		return ticks{}, fmt.Errorf("xdp: cannot load a program: %w", err)
	}
	defer prog.Close()
	sample := func() (jiffies uint64, at time.Duration, err error) {
		out := make([]byte, 64)
		if _, err := prog.Run(&ebpf.RunOptions{Data: make([]byte, 64), DataOut: out}); err != nil {
			return 0, 0, fmt.Errorf("xdp: cannot run a program: %w", err)
		}
		return binary.NativeEndian.Uint64(out), monotonicNow(), nil
	}
	j1, t1, err := sample()
	if err != nil {
		return ticks{}, err
	}
	time.Sleep(200 * time.Millisecond)
	j2, t2, err := sample()
	if err != nil {
		return ticks{}, err
	}
	seen := float64(j2-j1) / (t2 - t1).Seconds()
	best := kernelHz[0]
	for _, h := range kernelHz {
		if abs(seen-float64(h)) < abs(seen-float64(best)) {
			best = h
		}
	}
	if abs(seen-float64(best)) > float64(best)/5 {
		return ticks{}, fmt.Errorf("xdp: the kernel counts %.0f jiffies a second: no HZ that is known", seen)
	}
	t := ticks{mul: int32(hz), div: int32(best)}
	now := uint32(t2 / (time.Second / time.Duration(hz)))
	t.offset = now - uint32(j2*uint64(t.mul)/uint64(t.div))
	return t, nil
}

func abs(v float64) float64 { return max(v, -v) }

// monotonicNow is CLOCK_MONOTONIC.
func monotonicNow() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return time.Duration(ts.Nano())
}
