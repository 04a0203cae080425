package program

import (
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/persist"
)

// How the program makes an entry in the connection table or in that of the templates,
// by the steps of shtab.Rings.

// entries is a table in which the program makes entries.
type entries struct {
	name         string // of its labels
	table        int    // its map's file descriptor
	homes, slots uint32
	rings        int32 // how far from the connections' rings are this table's
	stack        int16
}

// What is kept of an entry to be, from entries.stack on.
const (
	entryHome       = 0  // the number of its key's home slot
	entryNumber     = 8  // that of its slot, and 1
	entryAddr       = 16 // the slot's address
	entryCompletion = 24 // the address of the cell of the completion ring
)

func (o *opener) connTable() entries {
	return entries{"conn", o.Conns, o.Homes, o.Slots, 0, stackConn}
}

func (o *opener) templateTable() entries {
	return entries{"template", o.TemplateTable, o.Templates.Homes, o.Templates.Slots, int32(o.CPUs) * shtab.RingsStride,
		stackEntry}
}

func (t entries) label(o *opener, name string) string { return o.label(t.name + "-" + name) }

// entryAddress computes a slot's address, R0, by its number in R1, to which add is added.
func (o *opener) entryAddress(t entries, add int32) {
	o.element(asm.R0, t.table, asm.R1, slotShift, uint32(shtab.HeaderSize+add*shtab.SlotSize))
}

// readTime keeps the time, in ticks.
//
// in: -; out: R0; lost: R1 R2 R3 R4 R5
func (o *opener) readTime() {
	defer o.step("readTime", "the time")()
	o.emit(asm.FnJiffies64.Call())
	o.Ticks.emit(&o.emitter)
	o.emit(save(stackTick, asm.R0))
}

// findRings finds this CPU's rings, R8, and keeps their address.
//
// in: -; out: rings; lost: R0 R1 R2 R3 R4 R5
func (o *opener) findRings() {
	defer o.step("findRings", "this CPU's rings")()
	o.emit(
		asm.FnGetSmpProcessorId.Call(),
		o.leaveIf(asm.JGE, asm.R0, int32(o.CPUs)), // never: for the verifier
	)
	o.ringsOf(asm.R0)
	o.emit(
		save(stackRings, asm.R8),
	)
}

// ringsOf loads the connections' rings of the CPU in a register, R8.
func (o *opener) ringsOf(cpu asm.Register) {
	o.emit(
		asm.Mul.Imm(cpu, shtab.RingsStride),
		asm.LoadMapValue(asm.R8, o.Rings, 0),
		asm.Add.Reg(asm.R8, cpu),
	)
}

// findCompletion keeps the address of the completion ring's next cell, or goes to full. R8 are
// the CPU's rings of the table.
//
// in: rings; out: -; lost: R1 R2
func (o *opener) findCompletion(t entries, full string) {
	defer o.step("findCompletion", "room in the completion ring")()
	o.emit(asm.LoadMem(asm.R1, asm.R8, shtab.OffCompletionAt, asm.Word))
	o.cellAddress(asm.R2)
	o.emit(
		asm.LoadMem(asm.R1, asm.R2, shtab.OffCompletion, asm.Word),
		asm.JNE.Imm(asm.R1, 0, full),
		save(t.stack+entryCompletion, asm.R2),
	)
}

// findRoom is findCompletion, and keeps the daemon awake where half of the ring is full: of what is left it gets
// some eight packets, at awake, unless it has looked by then.
//
// in: rings; out: -; lost: R1 R2 R4
func (o *opener) findRoom(t entries, full, awake string) {
	defer o.step("findRoom", "and half of it?")()
	o.findCompletion(t, full)
	o.emit(
		asm.LoadMem(asm.R1, asm.R8, shtab.OffCompletionAt, asm.Word),
		asm.Add.Imm(asm.R1, shtab.RingCells/2),
	)
	o.cellAddress(asm.R2)
	o.emit(
		asm.LoadMem(asm.R1, asm.R2, shtab.OffCompletion, asm.Word),
		asm.JEq.Imm(asm.R1, 0, full+"-"+t.name),
	)
	o.keepAwake(shtab.RingCells/2/8, awake, full+"-"+t.name)
}

// keepAwake gives one packet of many, a power of two, to Go, if a daemon is there, which has to be awake
// before what it has prepared comes to an end: it looks after all of that then. Each of those packets costs as
// much as several that open connections. R1 and R4 are lost, and awake and asleep are labels.
//
// in: -; out: -; lost: R1 R4
func (o *opener) keepAwake(many int32, awake, asleep string) {
	defer o.step("keepAwake", "now and then a packet for the daemon, that it refills")()
	o.emit(
		restore(asm.R1, o.connTable().stack+entryHome),
		asm.And.Imm(asm.R1, many-1),
		asm.JNE.Imm(asm.R1, 0, asleep),
	)
	o.setting(asm.R1, SettingsHeartbeat)
	o.emit(
		restore(asm.R4, stackTick),
		asm.Sub.Reg32(asm.R4, asm.R1),
		asm.JSLT.Imm32(asm.R4, int32(HeartbeatTimeout*o.Hz), awake),
	)
	o.symbol = asleep
}

// cellAddress computes the address of a ring's cell, less the ring's own, by its number in R1.
func (o *opener) cellAddress(to asm.Register) {
	o.emit(
		asm.And.Imm(asm.R1, shtab.RingCells-1),
		asm.LSh.Imm(asm.R1, 2),
		asm.Mov.Reg(to, asm.R8),
		asm.Add.Reg(to, asm.R1),
	)
}

// nowhere is the home slot of a key that gets no entry here: Go may have one of it.
const nowhere = -1

// findFreeSlot looks for a free slot. It comes before a choice is made that would be lost
// without.
//
// in: rings; out: -; lost: R0 R1 R2 R3
func (o *opener) findFreeSlot(t entries) {
	defer o.step("findFreeSlot", "a free slot: home, beside it, or of the fill ring")()
	for pair := range int32(2) {
		o.emit(
			restore(asm.R1, t.stack+entryHome),
			asm.Xor.Imm(asm.R1, pair),
			o.leaveIf(asm.JGE, asm.R1, int32(t.homes)), // nowhere
			asm.Mov.Reg(asm.R2, asm.R1),
			asm.Add.Imm(asm.R2, 1),
		)
		o.entryAddress(t, 0)
		o.emit(
			asm.LoadMem(asm.R1, asm.R0, shtab.OffWord, asm.DWord),
			asm.JEq.Imm(asm.R1, 0, t.label(o, "slot")),
		)
	}
	o.emit(asm.LoadMem(asm.R1, asm.R8, shtab.OffFillAt, asm.Word))
	o.cellAddress(asm.R3)
	o.emit(
		asm.LoadMem(asm.R2, asm.R3, shtab.OffFill, asm.Word),
		o.leaveIf(asm.JEq, asm.R2, 0),
		o.leaveIf(asm.JGT, asm.R2, int32(t.slots)),
		asm.Mov.Reg(asm.R1, asm.R2),
	)
	o.entryAddress(t, -1)
	o.symbol = t.label(o, "slot")
	o.emit(
		save(t.stack+entryAddr, asm.R0),
		save(t.stack+entryNumber, asm.R2),
	)
}

// insertTemplate makes the template that leads to dest, if there is to be one.
//
// in: dest rings; out: rings; lost: R0 R1 R2 R3 R4 R5
func (o *opener) insertTemplate(t entries) {
	defer o.step("insertTemplate", "the template")()
	o.emit(
		restore(asm.R1, stackNew),
		asm.JEq.Imm(asm.R1, 0, o.label("insert")),
		asm.Add.Imm(asm.R8, t.rings),
	)
	o.claimSlot(t, o.label("go"))
	for word := range int16(2) {
		o.emit(
			restore(asm.R0, stackTemplate+8*word),
			asm.StoreMem(asm.R5, shtab.OffKey+8*word, asm.R0, asm.DWord),
		)
	}
	o.emit(asm.Mov.Imm(asm.R0, 0))
	for _, w := range words6 {
		if o.six {
			o.emit(restore(asm.R0, stackTemplate+8*w.word))
		}
		o.emit(asm.StoreMem(asm.R5, shtab.OffKey+8*w.word, asm.R0, asm.DWord))
	}
	o.emit(asm.Mov.Imm(asm.R0, persist.OpenedState))
	o.initEntry()
	told := t.label(o, "complete")
	if o.namesTemplates() {
		o.emit(restore(asm.R2, t.stack+entryNumber), save(stackControl, asm.R2))
		told = t.label(o, "made") // by the connection, which names it
	}
	o.emit(restore(asm.R2, stackHash))
	o.publish(t, dest, told)
	o.complete(t)
	o.symbol = t.label(o, "made")
	o.emit(asm.Sub.Imm(asm.R8, t.rings))
}

// tellTemplate tells of a template that was made for a connection which could not be, and leaves the
// packet to Go.
//
// in: rings; out: -; lost: R0 R1 R2 rings
func (o *opener) tellTemplate(t entries) {
	defer o.step("tellTemplate", "its template, if no connection is to name it")()
	o.mark("unmade")
	if !o.namesTemplates() { // it was told
		o.emit(asm.Ja.Label(o.label("go")))
		return
	}
	o.emit(
		restore(asm.R2, stackNew),
		o.leaveIf(asm.JEq, asm.R2, 0),
		restore(asm.R2, t.stack+entryNumber),
		o.leaveIf(asm.JGT, asm.R2, int32(t.homes)), // it was told
		asm.Add.Imm(asm.R8, t.rings),
	)
	o.completeCell(t)
	o.emit(asm.Ja.Label(o.label("go")))
}

// insertConn makes the connection to dest. Its slot is R5 then.
//
// in: dest data rings; out: entry; lost: R0 R1 R2 R3 R4
func (o *opener) insertConn(t entries) {
	defer o.step("insertConn", "the connection")()
	o.mark("insert")
	o.claimSlot(t, o.label("unmade"))
	o.emit(
		restore(addrs, stackKey),
		restore(ports, stackKey+8),
		asm.StoreMem(asm.R5, shtab.OffKey, addrs, asm.DWord),
		asm.StoreMem(asm.R5, shtab.OffKey+8, ports, asm.DWord),
		asm.Mov.Imm(asm.R0, 0),
	)
	for _, w := range words6 {
		if o.six {
			o.emit(asm.LoadMem(asm.R0, data, o.atIP()+w.off, asm.DWord))
		}
		o.emit(asm.StoreMem(asm.R5, shtab.OffKey+8*w.word, asm.R0, asm.DWord))
	}
	o.firstState()
	o.initEntry()
	if o.six {
		o.emit(restore(asm.R2, stackSum))
	} else {
		o.sumKey()
	}
	if o.namesTemplates() {
		o.emit(
			restore(asm.R3, stackControl),
			asm.LSh.Imm(asm.R3, conn.TemplateShift),
			asm.Or.Reg(asm.R3, dest),
		)
		o.publish(t, asm.R3, t.label(o, "complete"))
	} else {
		o.publish(t, dest, t.label(o, "complete"))
	}
	o.complete(t)
}

// namesTemplates reports whether the program says in a connection which template it is by.
func (o *opener) namesTemplates() bool { return o.Templates.Slots <= conn.MaxNamed }

// initEntry writes the state in R0, when the entry was made, and that it has had no packet.
//
// in: R0 entry; out: -; lost: R0
func (o *opener) initEntry() {
	defer o.step("initEntry", "its state, its time, no packet yet")()
	o.emit(
		asm.StoreMem(asm.R5, shtab.OffState, asm.R0, asm.Word),
		restore(asm.R0, stackTick),
		asm.StoreMem(asm.R5, shtab.OffStamp, asm.R0, asm.Word),
		asm.Mov.Imm(asm.R0, 0),
		asm.StoreMem(asm.R5, shtab.OffCount, asm.R0, asm.Word),
	)
}

// claimSlot claims the slot that findFreeSlot has found, R5, or goes to no. R8 are the CPU's rings
// of the table.
//
// in: rings; out: entry; lost: R0 R1 R2 R3
func (o *opener) claimSlot(t entries, no string) {
	defer o.step("claimSlot", "the slot is this program's")()
	o.emit(
		restore(asm.R5, t.stack+entryAddr),
		restore(asm.R2, t.stack+entryNumber),
		asm.JGT.Imm(asm.R2, int32(t.homes), t.label(o, "over")),
		asm.Mov.Imm(asm.R0, 0),
		asm.LoadImm(asm.R1, shtab.MaxValue, asm.DWord),
		compareAndSwap(asm.R5, shtab.OffWord, asm.R1, asm.DWord),
		asm.JNE.Imm(asm.R0, 0, no),
		asm.Ja.Label(t.label(o, "write")),
	)
	o.symbol = t.label(o, "over")
	o.emit(asm.LoadMem(asm.R1, asm.R8, shtab.OffFillAt, asm.Word))
	o.cellAddress(asm.R3)
	o.emit(
		asm.Mov.Imm(asm.R1, 0),
		exchange(asm.R3, shtab.OffFill, asm.R1, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R2, no),
		asm.LoadMem(asm.R0, asm.R8, shtab.OffFillAt, asm.Word),
		asm.Add.Imm(asm.R0, 1),
		asm.StoreMem(asm.R8, shtab.OffFillAt, asm.R0, asm.Word),
	)
	o.symbol = t.label(o, "write")
}

// publish lets the entry be found, with the key's hash in R2 and a value, in dest or R3, and
// puts an overflow slot into its chain. R2 is the slot's number, and 1, then. One in a home slot goes
// to home.
//
// in: R2 R3 entry dest; out: R2; lost: R0 R1 R3 R4
func (o *opener) publish(t entries, value asm.Register, home string) {
	defer o.step("publish", "it can be found")()
	o.emit( // shtab.tagOf
		asm.RSh.Imm(asm.R2, 16),
		asm.Or.Imm(asm.R2, 1<<15),
		asm.LSh.Imm(asm.R2, shtab.ValueBits),
		asm.Or.Reg(asm.R2, value),
		exchange(asm.R5, shtab.OffWord, asm.R2, asm.DWord),
		restore(asm.R2, t.stack+entryNumber),
		asm.JLE.Imm(asm.R2, int32(t.homes), home),
		restore(asm.R1, t.stack+entryHome),
		passIf(asm.JGE, asm.R1, int32(t.homes)), // never: for the verifier
	)
	o.entryAddress(t, 0)
	o.emit(asm.Mov.Reg(asm.R3, asm.R0))
	for range 3 {
		o.emit(
			asm.LoadMem(asm.R0, asm.R3, shtab.OffNext, asm.Word),
			asm.Mov.Reg(asm.R4, asm.R0),
			asm.StoreMem(asm.R5, shtab.OffNext, asm.R0, asm.Word),
			compareAndSwap(asm.R3, shtab.OffNext, asm.R2, asm.Word),
			asm.JEq.Reg(asm.R0, asm.R4, t.label(o, "complete")),
		)
	}
}

// complete puts the slot's number, which is R2 less 1, into the completion ring.
//
// in: R2 rings; out: -; lost: R0 R1
func (o *opener) complete(t entries) {
	defer o.step("complete", "told in the completion ring")()
	o.symbol = t.label(o, "complete")
	o.completeCell(t)
}

// completeCell puts R2 into the completion ring.
func (o *opener) completeCell(t entries) {
	o.emit(
		restore(asm.R1, t.stack+entryCompletion),
		asm.Mov.Imm(asm.R0, 0),
		compareAndSwap(asm.R1, shtab.OffCompletion, asm.R2, asm.Word),
		asm.LoadMem(asm.R0, asm.R8, shtab.OffCompletionAt, asm.Word),
		asm.Add.Imm(asm.R0, 1),
		asm.StoreMem(asm.R8, shtab.OffCompletionAt, asm.R0, asm.Word),
	)
}
