package program

import (
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/shtab"
)

// A connection of which a packet has gone to Go goes through Go from then on (conn's crossing.go), until Go has
// ended with all that it was given of the flow: that is what is counted here (accel.Crossing).

// counter counts what Go gets of a flow.
type counter struct{ *emitter }

// crosses reports whether what is Go's is counted: where it leaves by a way that Go has to itself.
func (e *emitter) crosses() bool { return e.Crossings != 0 && e.takesGo() }

// labelCrosses returns the label of what a packet of a connection goes to that is Go's, or other where nothing is
// counted.
func (e *emitter) labelCrosses(other string) string {
	if e.crosses() {
		return e.label("crosses")
	}
	return other
}

// crossing finds where a flow's packets are counted, R2 (accel.CrossingOf).
//
// in: data; out: R2; lost: R1
func (e counter) crossing() {
	defer e.step("crossing", "where what Go gets of the flow is counted")()
	client := e.atIP() + 12
	if e.six {
		client = e.atIP() + 20
	}
	first, second := uint32(accel.CrossingFirst), uint32(accel.CrossingSecond)
	e.readPorts()
	e.emit(
		asm.LoadMem(asm.R1, data, client, asm.Word),
		asm.Mul.Imm32(asm.R1, int32(first)),
		asm.Add.Reg32(asm.R1, asm.R2),
		asm.Mul.Imm32(asm.R1, int32(second)),
		asm.RSh.Imm32(asm.R1, 32-accel.CrossingBits),
	)
	e.element(asm.R2, e.Crossings, asm.R1, crossingShift, 0)
}

// crossingShift is the size of accel.Crossing.
const crossingShift = 3

// countHanded counts a packet that Go gets, before the connection is looked at; behind crossing.
//
// in: R2; out: -; lost: R1
func (e counter) countHanded() {
	e.crossing()
	defer e.step("countHanded", "Go gets one packet more of the flow")()
	e.emit(
		asm.Mov.Imm(asm.R1, 1),
		atomically(asm.FetchAdd, asm.R2, asm.R1, asm.Word, accel.OffHanded), // which is a full barrier
	)
}

// acceptPending decides about packets of a connection whose state is in R1, that is not as
// expected: one that a program has opened and Go has not accepted yet is expected too, and one whose packets go
// through Go where no daemon is there.
//
// in: kept slot R1; out: R1 kept; lost: R0 R2 R3 R4
func (p *Program) acceptPending() {
	if !p.opens() && p.Crossings == 0 {
		return
	}
	defer p.step("acceptPending", "a connection that is opened and not yet accepted is as good")()
	p.mark("pending")
	if p.Crossings != 0 {
		p.emit(
			asm.JSet.Imm32(asm.R1, -1<<conn.CrossingShift, p.label("through")),
		)
	}
	p.emit(
		asm.Mov.Reg(asm.R0, asm.R1),
		asm.And.Imm(asm.R0, conn.PendingFlag),
		asm.JNE.Imm(asm.R0, 0, p.label("expected")),
		asm.Ja.Label(p.labelCrosses(p.labelGo())),
	)
	if p.Crossings == 0 {
		return
	}
	p.mark("through")
	p.emit(save(stackKept, kept))
	counter{&p.emitter}.unlessDaemon("alone")
	p.emit(asm.Ja.Label(p.labelCrosses(p.labelGo())))
	p.mark("alone")
	p.emit(
		restore(kept, stackKept),
		asm.LoadMem(asm.R1, slot, shtab.OffState, asm.Word),
		asm.Ja.Label(p.label("expected")),
	)
}

// unlessDaemon goes to a label where no daemon has shown itself for a while.
func (e counter) unlessDaemon(to string) {
	e.emit(asm.FnJiffies64.Call())
	e.Ticks.emit(e.emitter)
	e.setting(asm.R1, SettingsHeartbeat)
	e.emit(
		asm.Sub.Reg32(asm.R0, asm.R1),
		asm.JSGE.Imm32(asm.R0, int32(HeartbeatTimeout*e.Hz), e.label(to)),
	)
}

// cross gives a connection's packet to Go, and has those that come after it go there too. Go ends that in two
// steps, of which the second fails if this comes between: it sees what is counted, or that its first one is undone.
//
// in: slot; out: -; lost: R0 R1 R2
func (p *Program) cross() {
	if !p.crosses() {
		return
	}
	p.mark("crosses")
	p.unlessSocket()
	counter{&p.emitter}.countHanded()
	defer p.step("cross", "the connection goes through Go from here on")()
	p.emit(asm.LoadMem(asm.R0, slot, shtab.OffState, asm.Word))
	const tries = 2
	for range tries {
		p.emit(
			asm.Mov.Reg32(asm.R1, asm.R0),
			asm.LSh.Imm32(asm.R1, 32-conn.CrossingShift),
			asm.RSh.Imm32(asm.R1, 32-conn.CrossingShift),
			asm.Or.Imm32(asm.R1, -1<<31), // conn.CrossingFlag alone of its two
			asm.JEq.Reg32(asm.R1, asm.R0, p.label("handed")),
			asm.Mov.Reg32(asm.R2, asm.R0),
			compareAndSwap(slot, shtab.OffState, asm.R1, asm.Word),
			asm.JEq.Reg32(asm.R0, asm.R2, p.label("handed")),
		)
	}
	p.emit(asm.Ja.Label(p.label("handed")))
}

// labelBehind returns the label of what a first packet goes to before which there may be others.
func (o *opener) labelBehind() string {
	if o.crosses() {
		return o.label("behind")
	}
	return o.label("source")
}

// leaveBehind leaves a first packet to Go of whose flow Go has others still, behind crossing.
//
// in: R2; out: -; lost: R0 R1 R2 R3 R4 R5
func (o *opener) leaveBehind() {
	if !o.crosses() {
		return
	}
	o.mark("behind")
	o.setting(asm.R1, SettingsOpening)
	o.emit(asm.JSet.Imm(asm.R1, Losing, o.label("source")))
	counter{&o.emitter}.crossing()
	defer o.step("leaveBehind", "has Go any of the flow still?")()
	o.emit(
		asm.LoadMem(asm.R1, asm.R2, accel.OffHanded, asm.Word),
		asm.LoadMem(asm.R2, asm.R2, accel.OffLeft, asm.Word),
		asm.JEq.Reg(asm.R1, asm.R2, o.label("source")),
	)
	counter{&o.emitter}.unlessDaemon("source")
	o.emit(asm.Ja.Label(o.label("go")))
}
