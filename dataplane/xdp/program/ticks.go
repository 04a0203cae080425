package program

import "github.com/cilium/ebpf/asm"

// Ticks is how the director's ticks, of CLOCK_MONOTONIC, are worked out from
// jiffies64, which costs a program nothing to read: jiffies*mul/div + offset.
type Ticks struct {
	Mul, Div int32
	Offset   uint32
}

// emit turns the jiffies in R0 into ticks.
func (t Ticks) emit(p *emitter) {
	if t.Mul != t.Div {
		p.emit(asm.Mul.Imm(asm.R0, t.Mul), asm.Div.Imm(asm.R0, t.Div))
	}
	p.emit(asm.Add.Imm(asm.R0, int32(t.Offset)))
}
