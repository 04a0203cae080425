package xdp

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
)

// kernelHz are the frequencies that kernels are built with.
var kernelHz = []int64{100, 250, 300, 1000}

// learnTicks asks the kernel what its jiffies are.
func learnTicks(hz uint32) (program.Ticks, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "GPL", Name: "ulvs_jiffies",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R6, asm.R1, 0, asm.Word),
			asm.LoadMem(asm.R2, asm.R1, 4, asm.Word),
			asm.Mov.Reg(asm.R3, asm.R6),
			asm.Add.Imm(asm.R3, 16),
			asm.JGT.Reg(asm.R3, asm.R2, "out"),
			asm.FnJiffies64.Call(),
			asm.StoreMem(asm.R6, 0, asm.R0, asm.DWord),
			asm.FnKtimeGetNs.Call(),
			asm.StoreMem(asm.R6, 8, asm.R0, asm.DWord),
			asm.Mov.Imm(asm.R0, program.ActionPass).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		return program.Ticks{}, fmt.Errorf("cannot load a program: %w", err)
	}
	defer prog.Close()
	// The clock is read before and after, and the closest of some readings is taken:
	// this process may lose the processor in between.
	var kernel time.Duration // what programs read
	sample := func() (jiffies uint64, at time.Duration, err error) {
		best := time.Duration(math.MaxInt64)
		for range 5 {
			out := make([]byte, 64)
			before := dataplane.Monotonic()
			if _, err := prog.Run(&ebpf.RunOptions{Data: make([]byte, 64), DataOut: out}); err != nil {
				return 0, 0, fmt.Errorf("cannot run a program: %w", err)
			}
			after := dataplane.Monotonic()
			if took := after - before; took < best {
				best, jiffies, at = took, binary.NativeEndian.Uint64(out), before+took/2
				kernel = time.Duration(binary.NativeEndian.Uint64(out[8:]))
			}
		}
		return jiffies, at, nil
	}
	jiffies, at, err := sample()
	if err != nil {
		return program.Ticks{}, err
	}
	if off := at - kernel; off.Abs() > time.Second {
		return program.Ticks{}, fmt.Errorf("CLOCK_MONOTONIC is %v away from the kernel's, and /proc/self/timens_offsets does not say so: start ulvs outside of this time namespace, or with unshare --fork", off)
	}
	best, sure := guessHz(jiffies, at)
	// A guest whose host has no time for it makes up for ticks later: it is asked again.
	for tries := 10; !sure; tries-- {
		time.Sleep(200 * time.Millisecond)
		j2, t2, err := sample()
		if err != nil {
			return program.Ticks{}, err
		}
		if best, sure = countHz(j2-jiffies, t2-at); !sure && tries == 0 {
			return program.Ticks{}, fmt.Errorf("the kernel counts %d jiffies in %v, which is no known HZ: use --plane afpacket", j2-jiffies, t2-at)
		}
		jiffies, at = j2, t2
	}
	t := program.Ticks{Mul: int32(hz), Div: int32(best)}
	now := uint32(at / (time.Second / time.Duration(hz)))
	t.Offset = now - uint32(jiffies*uint64(t.Mul)/uint64(t.Div))
	return t, nil
}

// guessHz tells from jiffies64, which starts five minutes before its lower half is
// full (INITIAL_JIFFIES, include/linux/jiffies.h), and CLOCK_MONOTONIC, which
// starts at 0 then. Around five minutes after the start all are alike.
func guessHz(jiffies uint64, at time.Duration) (hz int64, sure bool) {
	const bootSlack, distinct = 10, 30 // seconds
	off := func(h int64) float64 {
		return abs(float64(int64(jiffies-(1<<32-300*uint64(h))))/float64(h) - at.Seconds())
	}
	hz = closest(off)
	sure = off(hz) < bootSlack
	for _, h := range kernelHz {
		sure = sure && (h == hz || off(h) > distinct)
	}
	return hz, sure
}

// countHz tells from how far jiffies went in some time.
func countHz(jiffies uint64, in time.Duration) (hz int64, sure bool) {
	off := func(h int64) float64 { return abs(float64(jiffies)/in.Seconds() - float64(h)) }
	hz = closest(off)
	return hz, off(hz) < float64(hz)/12 // 250 and 300 are a fifth apart
}

func closest(off func(int64) float64) int64 {
	return slices.MinFunc(kernelHz, func(a, b int64) int { return cmp.Compare(off(a), off(b)) })
}

func abs(v float64) float64 { return max(v, -v) }
