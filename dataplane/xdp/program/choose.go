package program

import (
	"fmt"

	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/internal/preselect"
)

// chooseServer finds the real server: that of the client's template, or the scheduler's next
// pick, for which a template is to be inserted if the service is persistent. Its number
// goes to dest, in place of the service.
//
// in: service data total; out: dest rings; lost: R0 R1 R2 R3 R4 R5
func (o *opener) chooseServer(templates entries) {
	defer o.step("chooseServer", "the real server: of the template, or the next pick")()
	no := o.label("go")
	o.emit(
		asm.Mov.Imm(asm.R1, 0),
		save(stackNew, asm.R1),
		save(stackControl, asm.R1),
		asm.LoadMem(asm.R1, service, preselect.OffBy, asm.Word),
		save(stackBy, asm.R1),
	)
	o.unlessBy(preselect.ByTemplate, "pick")
	o.chooseByTemplate(templates)

	o.mark("pick")
	o.emit(asm.LoadMem(asm.R1, service, preselect.OffBy, asm.Word))
	o.ifBy(preselect.ByPicks, "listed")
	o.unlessBy(preselect.ByCounts, "hash")
	o.emit(
		restore(asm.R2, stackChosen),
		o.leaveIf(asm.JEq, asm.R2, 0), // compareByCounts has found none
	)
	o.takeServer("counted")
	o.emit(asm.Ja.Label(o.label("chosen")))
	o.mark("hash")
	o.unlessBy(preselect.ByHash, "go")
	o.chooseByHash()
	o.emit(asm.Ja.Label(o.label("chosen")))
	o.mark("listed")
	o.emit(
		// The next choice is read, and is taken if it still is the next (preselect.Take): of a
		// cycle, or of a ring.
		asm.LoadMem(asm.R3, service, preselect.OffPosition, asm.DWord),
	)
	o.readFirst(asm.R3, asm.R1)
	o.emit(
		// The position is that of the service whose serial was compared.
		asm.LoadMem(asm.R1, service, preselect.OffVersion, asm.Word),
		restore(asm.R2, stackVersion),
		asm.JNE.Reg(asm.R1, asm.R2, no),
		asm.JSGE.Imm(asm.R3, 0, o.label("ring")), // no preselect.Cycle
		asm.Mov.Reg32(asm.R2, asm.R3),
		asm.Add.Imm(asm.R2, 1),
		asm.LoadMem(asm.R1, service, preselect.OffLength, asm.Word),
		asm.JLT.Reg(asm.R2, asm.R1, o.label("after")),
		asm.LoadMem(asm.R2, service, preselect.OffWrap, asm.Word),
	)
	o.mark("after")
	o.emit(
		asm.And.Imm(asm.R2, preselect.Picks-1),
		asm.Mov.Reg(asm.R0, asm.R3),
		asm.RSh.Imm(asm.R0, 32),
		asm.LSh.Imm(asm.R0, 32),
		asm.Or.Reg(asm.R0, asm.R2),
		save(stackMoved, asm.R0),
		asm.Ja.Label(o.label("take")),
	)
	o.mark("ring")
	o.emit(
		asm.Mov.Reg(asm.R1, asm.R3),
		asm.RSh.Imm(asm.R1, 32),
		asm.Mov.Reg32(asm.R2, asm.R3),
		asm.JEq.Reg(asm.R1, asm.R2, no),
		asm.Sub.Reg(asm.R1, asm.R2),
		asm.JGE.Imm(asm.R1, preselect.Picks/2, o.label("many")),
	)
	o.keepAwake(preselect.Picks/2/16, o.label("go"), o.label("many"))
	o.emit(
		asm.Mov.Reg(asm.R0, asm.R3),
		asm.Add.Imm(asm.R0, 1),
		save(stackMoved, asm.R0),
		asm.And.Imm(asm.R2, preselect.Picks-1),
	)
	o.mark("take")
	o.emit(
		asm.LSh.Imm(asm.R2, 3),
	)
	o.inSequence(asm.R2, asm.R1)
	o.emit(
		asm.LoadMem(asm.R2, asm.R2, 0, asm.DWord),
		asm.RSh.Imm(asm.R2, 32),
	)
	o.checkReachable(asm.R2, o.label("go"))
	o.checkLimit("picked")
	o.emit(
		asm.Mov.Reg(asm.R0, asm.R3),
		restore(asm.R1, stackMoved),
		compareAndSwap(service, preselect.OffPosition, asm.R1, asm.DWord),
		asm.JNE.Reg(asm.R0, asm.R3, no),
		asm.Mov.Reg(dest, asm.R2),
	)
	o.mark("chosen")
}

// takeServer takes the real server whose number is in R2, if it can be reached, and what it was
// chosen by is still of the version that was kept.
//
// in: R2 service total; out: dest; lost: R0 R1 R3 R4 R5
func (o *opener) takeServer(what string) {
	defer o.step("takeServer", "if what it was chosen by is still the same")()
	o.checkReachable(asm.R2, o.label("go"))
	o.checkLimit(what)
	o.emit(
		restore(asm.R0, stackVersion),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.Mov.Reg(asm.R3, asm.R0),
		compareAndSwap(service, preselect.OffVersion, asm.R1, asm.Word),
		asm.JNE.Reg(asm.R0, asm.R3, o.label("go")),
		asm.Mov.Reg(dest, asm.R2),
	)
}

// checkLimit leaves to Go the connection with which the real server in R2 would be at its upper
// threshold, and all while it is overloaded. R5 is where it is reached.
//
// in: R2 R5; out: -; lost: R1 R4 R5
func (o *opener) checkLimit(what string) {
	defer o.step("checkLimit", "is the real server below its upper threshold?")()
	o.emit(
		asm.LoadMem(asm.R1, asm.R5, ServerLimit, asm.Word),
		asm.JEq.Imm(asm.R1, 0, o.label(what+"-below")),
		asm.Mov.Reg(asm.R4, asm.R2),
	)
	o.element(asm.R5, o.ConnCounts, asm.R4, 3, 0)
	o.emit(
		// Of the two halves the lower one may have borrowed (sched.Dest).
		asm.LoadMem(asm.R5, asm.R5, 0, asm.DWord),
		asm.Mov.Reg(asm.R4, asm.R5),
		asm.RSh.Imm(asm.R4, 32),
		asm.Add.Reg32(asm.R4, asm.R5),
		asm.RSh.Imm32(asm.R5, 31),
		asm.Add.Reg32(asm.R4, asm.R5),
		asm.Add.Imm32(asm.R4, 1),
		asm.JGE.Reg(asm.R4, asm.R1, o.label("go")),
	)
	o.mark(what + "-below")
}

// checkReachable goes to no with packets that cannot be sent to the real server in a register.
// Its element of the array is R5 then.
//
// in: R2 dest total; out: R5; lost: R1 R4
func (o *opener) checkReachable(number asm.Register, no string) {
	defer o.step("checkReachable", "can the real server be reached?")()
	o.emit(
		o.leaveIf(asm.JGE, number, int32(o.ServersPerCPU)),
		asm.Mov.Reg(asm.R4, number),
	)
	o.element(asm.R5, o.Servers, asm.R4, ServerShift, 0)
	o.emit(
		asm.LoadMem(asm.R1, asm.R5, ServerMTU, asm.Word),
		asm.JGT.Reg(total, asm.R1, no),
	)
	o.leaveTagged()
}

// leaveTagged leaves packets that checkTag would pass, before anything is done about them.
func (o *opener) leaveTagged() {
	at := fmt.Sprint("leaves-", len(o.out))
	switch {
	case o.Hook == XDP && o.tags > 0:
		o.emit(
			asm.LoadMem(asm.R1, asm.R5, ServerIfindex, asm.Word),
			o.leaveIf(asm.JNE, asm.R1, int32(o.Ifindex)),
		)
	case o.Hook == XDP && o.Behind:
		o.emit(
			asm.LoadMem(asm.R1, asm.R5, ServerIfindex, asm.Word),
			asm.JEq.Imm(asm.R1, int32(o.Ifindex), o.label(at)),
			asm.LoadMem(asm.R1, asm.R5, ServerRedirect, asm.Word),
			passIf(asm.JEq, asm.R1, 0),
		)
		o.mark(at)
	}
}
