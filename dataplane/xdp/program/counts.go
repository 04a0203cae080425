package program

import (
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/internal/preselect"
)

// comparer compares a service's real servers.
type comparer struct{ *opener }

// compareByCounts finds the real server by how many connections each has (sched.Comparing), if
// that is how they are chosen, and keeps its number, or 0: also for a client that has a template. It
// comes before all that the verifier would go through the loops again for.
//
// The number of the next one is read from memory and checked, so that the verifier takes the
// loops' turns for the same: of a number that it knew it would look at each.
//
// in: service; out: service data total; lost: R0 R1 R2 R3 R4 R5 end
func (o comparer) compareByCounts(templates entries) {
	defer o.step("compareByCounts", "the real server that has the fewest connections for its weight, or the like")()
	o.emit(
		asm.Mov.Imm(asm.R1, 0),
		save(stackChosen, asm.R1),
		asm.LoadMem(asm.R1, service, preselect.OffBy, asm.Word),
	)
	o.unlessBy(preselect.ByCounts, "uncounted")
	o.emit(
		save(stackBy, asm.R1),
		asm.LoadMem(asm.R3, service, preselect.OffZero, asm.DWord),
	)
	o.forget()
	o.emit(
		save(stackData, data),
		save(stackTotal, total),
		save(stackService, service),
	)
	o.unlessBy(preselect.ByTemplate, "stranger")
	o.makeTemplateKey(templates)
	o.lookupTemplate(templates, "known", "stranger")
	o.mark("known")
	// The template says it. It is looked for again behind the loops, which its slot would not outlive
	// in what the verifier knows.
	o.emit(asm.Ja.Label(o.label("nobody")))
	o.mark("stranger")
	o.emit(restore(asm.R1, stackBy))
	o.ifBy(preselect.Unfilled|preselect.Soonest, "otherwise")
	o.compareServers("least", func() {
		o.emit(
			asm.Mov.Reg(load, count),
			asm.RSh.Imm(load, 32),
			asm.LSh.Imm(load, 8),
			asm.Mov.Reg32(count, count),
			asm.Add.Reg(load, count),
		)
	}, o.keepLighter)
	o.mark("otherwise")
	o.ifBy(preselect.Unfilled, "unfilled")
	o.compareServers("soonest", func() {
		o.emit(
			asm.Mov.Reg(load, count),
			asm.RSh.Imm(load, 32),
			asm.JNE.Imm(load, 0, o.label("queue")),
			restore(asm.R1, stackBy),
			asm.And.Imm(asm.R1, preselect.IdleFirst),
			asm.JNE.Imm(asm.R1, 0, o.label("first")),
		)
		o.mark("queue")
		o.emit(asm.Add.Imm(load, 1))
	}, o.keepLighter)
	o.compareServers("unfilled", func() {
		o.emit(
			asm.Mov.Reg(load, count),
			asm.RSh.Imm(load, 32),
			asm.JLE.Reg(load, weight, o.label("first")),
		)
	}, func(string) {})
	o.mark("beyond")
	o.emit(
		restore(data, stackData),
		restore(total, stackTotal),
		asm.Ja.Label(o.label("go")),
	)
	o.mark("nobody")
	o.emit(
		asm.Mov.Imm(best, 0),
		asm.Ja.Label(o.label("compared")),
	)
	o.mark("first")
	o.emit(asm.Mov.Reg(best, number))
	o.mark("compared")
	o.emit(
		save(stackChosen, best),
		restore(service, stackService),
		restore(data, stackData),
		restore(total, stackTotal),
	)
	o.mark("uncounted")
}

// forget has the verifier know no more of a packet than of others before a loop, which it would go
// through again for each: it may get a slot, is as long as any, and of any protocol. R3 is 0, which
// the verifier does not know.
//
// in: R3; out: data total; lost: R2 R3
func (o *opener) forget() {
	defer o.step("forget", "what the verifier knows of this packet alone")()
	o.emit(
		restore(asm.R2, stackKey+8),
		asm.Xor.Reg(asm.R2, asm.R3),
		save(stackKey+8, asm.R2),
		restore(asm.R2, o.connTable().stack+entryHome),
		o.leaveIf(asm.JGE, asm.R2, int32(o.Homes)), // nowhere
		restore(asm.R2, stackContext),
	)
	o.readPacket(data, asm.R2)
	o.readEnd(asm.R3, asm.R2)
	o.emit(
		asm.Mov.Reg(asm.R2, data),
		asm.Add.Imm(asm.R2, int32(o.atPorts())+8),
		asm.JGT.Reg(asm.R2, asm.R3, PassLabel), // never: for the verifier
	)
	o.readTotal()
}

// The registers of a comparison, in which nothing is looked at but servers.
const (
	count  = asm.R1
	load   = asm.R2
	weight = asm.R3
	least  = asm.R4 // the best one's load
	lweigh = asm.R5 // and weight
	number = asm.R0 // of the real server
	list   = asm.R6 // the first entry
	at     = asm.R7 // the entry
	turn   = asm.R8
	best   = asm.R9
)

// compareServers goes through the service's real servers. judge makes load of count, and keep
// remembers the best one.
func (o comparer) compareServers(name string, judge func(), keep func(string)) {
	o.mark(name)
	o.emit(
		// From memory, as the verifier is not to know that they are 0.
		asm.LoadMem(best, service, preselect.OffZero, asm.Half),
		asm.JGE.Imm(best, int32(o.ServersPerCPU), o.label("beyond")), // never: for the verifier
		asm.LoadMem(lweigh, service, preselect.OffZero, asm.Word),
		asm.LoadMem(least, service, preselect.OffZero, asm.DWord),
		asm.Add.Imm(least, 1),
		asm.Mov.Imm(at, 0),
	)
	o.inSequence(at, turn)
	o.emit(
		asm.Mov.Reg(list, at),
		asm.Mov.Imm(turn, 0),
	)
	o.mark(name + "-next")
	o.emit(
		asm.LoadMem(number, at, preselect.OffNumber, asm.Word),
		asm.JGE.Imm(number, int32(o.ServersPerCPU), o.label("beyond")), // never: for the verifier
		asm.LoadMem(weight, at, preselect.OffWeight, asm.Word),
		asm.Mov.Reg(load, number),
	)
	o.element(count, o.ConnCounts, load, 3, 0)
	o.emit(asm.LoadMem(count, count, 0, asm.DWord))
	judge()
	keep(name)
	o.emit(
		asm.LoadMem(number, at, preselect.OffNext, asm.Word),
		asm.JGE.Imm(number, preselect.LastCompared, o.label("compared")),
		asm.Mov.Reg(at, list),
		asm.Add.Reg(at, number),
		asm.Add.Imm(turn, 1),
		asm.JLT.Imm(turn, int32(o.Compared), o.label(name+"-next")),
		asm.Ja.Label(o.label("beyond")), // the service has more than this program compares
	)
}

// keepLighter remembers a server whose load is less for its weight: load/weight < least/lweigh,
// without division.
func (o comparer) keepLighter(loop string) {
	o.emit(
		save(stackLoad, load),
		asm.Mov.Reg(count, least),
		asm.Mul.Reg(count, weight),
		asm.Mul.Reg(load, lweigh),
		asm.JLE.Reg(count, load, o.label(loop+"-on")),
		restore(least, stackLoad),
		asm.Mov.Reg(lweigh, weight),
		asm.Mov.Reg(best, number),
	)
	o.mark(loop + "-on")
}
