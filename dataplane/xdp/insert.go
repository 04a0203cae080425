package xdp

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
	entryHome   = 0  // the number of its key's home slot
	entryNumber = 8  // that of its slot, and 1
	entrySpot   = 16 // the slot's address
	entryTold   = 24 // the address of the cell in which it will be told of
)

func (p *program) connTable() entries {
	return entries{"conn", p.conns, p.Homes, p.Slots, 0, -216}
}

func (p *program) templateTable() entries {
	return entries{"template", p.templates, p.Templates.Homes, p.Templates.Slots, int32(p.cpus) * shtab.RingsStride, -248}
}

func (t entries) label(p *program, name string) string { return p.here(t.name + "-" + name) }

// entryAt is a slot's address, R0, by its number in R1, to which add is added.
func (p *program) entryAt(t entries, add int32) {
	p.emit(
		asm.LSh.Imm(asm.R1, slotShift),
		asm.LoadMapValue(asm.R0, t.table, uint32(shtab.HeaderSize+add*shtab.SlotSize)),
		asm.Add.Reg(asm.R0, asm.R1),
	)
}

// ring finds this CPU's rings, R8, and keeps their address and the time.
func (p *program) ring() {
	p.emit(asm.FnJiffies64.Call())
	p.ticks.emit(p)
	p.emit(
		asm.StoreMem(asm.RFP, stackTick, asm.R0, asm.DWord),
		asm.FnGetSmpProcessorId.Call(),
		asm.JGE.Imm(asm.R0, int32(p.cpus), p.here("ask")), // never: for the verifier
	)
	p.ringsOf(asm.R0)
	p.emit(
		asm.StoreMem(asm.RFP, stackRings, asm.R8, asm.DWord),
	)
}

// ringsOf is the connections' rings of the CPU in a register, R8.
func (p *program) ringsOf(cpu asm.Register) {
	p.emit(
		asm.Mul.Imm(cpu, shtab.RingsStride),
		asm.LoadMapValue(asm.R8, p.rings, 0),
		asm.Add.Reg(asm.R8, cpu),
	)
}

// room keeps the address of the cell in which an entry will be told of. R8 are the
// CPU's rings of the table.
func (p *program) room(t entries) {
	p.emit(asm.LoadMem(asm.R1, asm.R8, shtab.OffCompletionAt, asm.Word))
	p.cell(asm.R2)
	p.emit(
		asm.LoadMem(asm.R1, asm.R2, shtab.OffCompletion, asm.Word),
		asm.JNE.Imm(asm.R1, 0, p.here("ask")),
		asm.StoreMem(asm.RFP, t.stack+entryTold, asm.R2, asm.DWord),
		asm.LoadMem(asm.R1, asm.R8, shtab.OffCompletionAt, asm.Word),
		asm.Add.Imm(asm.R1, shtab.RingCells/2),
	)
	p.cell(asm.R2)
	p.emit(
		asm.LoadMem(asm.R1, asm.R2, shtab.OffCompletion, asm.Word),
		asm.JEq.Imm(asm.R1, 0, t.label(p, "roomy")),
	)
	p.wake(t.label(p, "roomy"))
}

// wake gives one packet of many to Go, if a daemon is there, which has to be awake
// before what it has prepared comes to an end: it looks after all of that then. R1 and
// R4 are lost, and asleep is a label.
func (p *program) wake(asleep string) {
	const many = 32 // a power of two
	p.emit(
		asm.LoadMem(asm.R1, asm.RFP, p.connTable().stack+entryHome, asm.DWord),
		asm.And.Imm(asm.R1, many-1),
		asm.JNE.Imm(asm.R1, 0, asleep),
		asm.LoadMapValue(asm.R1, p.settings, settingsAttended),
		asm.LoadMem(asm.R1, asm.R1, 0, asm.Word),
		asm.LoadMem(asm.R4, asm.RFP, stackTick, asm.DWord),
		asm.Sub.Reg32(asm.R4, asm.R1),
		asm.JSLT.Imm32(asm.R4, int32(unattended*p.Hz), p.here("ask")),
	)
	p.symbol = asleep
}

// cell is the address of a ring's cell, less the ring's own, by its number in R1.
func (p *program) cell(to asm.Register) {
	p.emit(
		asm.And.Imm(asm.R1, shtab.RingCells-1),
		asm.LSh.Imm(asm.R1, 2),
		asm.Mov.Reg(to, asm.R8),
		asm.Add.Reg(to, asm.R1),
	)
}

// nowhere is the home slot of a key that gets no entry here: Go may have one of it.
const nowhere = -1

// spot looks for a free slot. It comes before a choice is made that would be lost
// without.
func (p *program) spot(t entries) {
	for beside := range int32(2) {
		p.emit(
			asm.LoadMem(asm.R1, asm.RFP, t.stack+entryHome, asm.DWord),
			asm.Xor.Imm(asm.R1, beside),
			asm.JGE.Imm(asm.R1, int32(t.homes), p.here("ask")), // nowhere
			asm.Mov.Reg(asm.R2, asm.R1),
			asm.Add.Imm(asm.R2, 1),
		)
		p.entryAt(t, 0)
		p.emit(
			asm.LoadMem(asm.R1, asm.R0, shtab.OffWord, asm.DWord),
			asm.JEq.Imm(asm.R1, 0, t.label(p, "spot")),
		)
	}
	p.emit(asm.LoadMem(asm.R1, asm.R8, shtab.OffFillAt, asm.Word))
	p.cell(asm.R3)
	p.emit(
		asm.LoadMem(asm.R2, asm.R3, shtab.OffFill, asm.Word),
		asm.JEq.Imm(asm.R2, 0, p.here("ask")),
		asm.JGT.Imm(asm.R2, int32(t.slots), p.here("ask")),
		asm.Mov.Reg(asm.R1, asm.R2),
	)
	p.entryAt(t, -1)
	p.symbol = t.label(p, "spot")
	p.emit(
		asm.StoreMem(asm.RFP, t.stack+entrySpot, asm.R0, asm.DWord),
		asm.StoreMem(asm.RFP, t.stack+entryNumber, asm.R2, asm.DWord),
	)
}

// placeTemplate makes the template that leads to dest, if there is to be one.
func (p *program) placeTemplate(t entries) {
	p.emit(
		asm.LoadMem(asm.R1, asm.RFP, stackNew, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, p.here("place")),
		asm.Add.Imm(asm.R8, t.rings),
	)
	p.claim(t)
	for word := int16(0); word < 5; word++ {
		p.emit(
			asm.LoadMem(asm.R0, asm.RFP, stackTemplate+8*word, asm.DWord),
			asm.StoreMem(asm.R5, shtab.OffKey+8*word, asm.R0, asm.DWord),
		)
	}
	p.emit(asm.Mov.Imm(asm.R0, persist.OpenedState))
	p.begin()
	p.emit(asm.LoadMem(asm.R2, asm.RFP, stackHash, asm.DWord))
	p.publish(t, dest)
	p.tell(t)
	p.emit(asm.Sub.Imm(asm.R8, t.rings))
}

// place makes the connection to dest. Its slot is R5 then.
func (p *program) place(t entries) {
	p.label("place")
	p.claim(t)
	p.emit(
		asm.LoadMem(addrs, asm.RFP, stackKey, asm.DWord),
		asm.LoadMem(ports, asm.RFP, stackKey+8, asm.DWord),
		asm.StoreMem(asm.R5, shtab.OffKey, addrs, asm.DWord),
		asm.StoreMem(asm.R5, shtab.OffKey+8, ports, asm.DWord),
		asm.Mov.Imm(asm.R0, 0),
	)
	for _, w := range words6 {
		if p.six {
			p.emit(asm.LoadMem(asm.R0, data, p.atIP()+w.off, asm.DWord))
		}
		p.emit(asm.StoreMem(asm.R5, shtab.OffKey+8*w.word, asm.R0, asm.DWord))
	}
	p.emit(
		asm.Mov.Imm(asm.R0, conn.OpenedUDP),
		asm.LoadMem(asm.R1, data, p.atProto(), asm.Byte),
		asm.JEq.Imm(asm.R1, protoUDP, p.here("state")),
		asm.Mov.Imm(asm.R0, conn.OpenedTCP),
	)
	p.label("state")
	p.begin()
	p.sum()
	p.publish(t, dest)
	p.tell(t)
}

// begin writes the state in R0, when the entry was made, and that it has had no packet.
func (p *program) begin() {
	p.emit(
		asm.StoreMem(asm.R5, shtab.OffState, asm.R0, asm.Word),
		asm.LoadMem(asm.R0, asm.RFP, stackTick, asm.DWord),
		asm.StoreMem(asm.R5, shtab.OffStamp, asm.R0, asm.Word),
		asm.Mov.Imm(asm.R0, 0),
		asm.StoreMem(asm.R5, shtab.OffCount, asm.R0, asm.Word),
	)
}

// claim claims the slot that spot has found, R5. R8 are the CPU's rings of the table.
func (p *program) claim(t entries) {
	no := p.here("ask")
	p.emit(
		asm.LoadMem(asm.R5, asm.RFP, t.stack+entrySpot, asm.DWord),
		asm.LoadMem(asm.R2, asm.RFP, t.stack+entryNumber, asm.DWord),
		asm.JGT.Imm(asm.R2, int32(t.homes), t.label(p, "over")),
		asm.Mov.Imm(asm.R0, 0),
		asm.LoadImm(asm.R1, shtab.MaxValue, asm.DWord),
		atomically(asm.CmpXchg, asm.R5, asm.R1, asm.DWord, shtab.OffWord),
		asm.JNE.Imm(asm.R0, 0, no),
		asm.Ja.Label(t.label(p, "write")),
	)
	p.symbol = t.label(p, "over")
	p.emit(asm.LoadMem(asm.R1, asm.R8, shtab.OffFillAt, asm.Word))
	p.cell(asm.R3)
	p.emit(
		asm.Mov.Imm(asm.R1, 0),
		atomically(asm.Xchg, asm.R3, asm.R1, asm.Word, shtab.OffFill),
		asm.JNE.Reg(asm.R1, asm.R2, no),
		asm.LoadMem(asm.R0, asm.R8, shtab.OffFillAt, asm.Word),
		asm.Add.Imm(asm.R0, 1),
		asm.StoreMem(asm.R8, shtab.OffFillAt, asm.R0, asm.Word),
	)
	p.symbol = t.label(p, "write")
}

// publish lets the entry be found, with the key's hash in R2 and a value, and puts an
// overflow slot into its chain. R2 is the slot's number, and 1, then.
func (p *program) publish(t entries, value asm.Register) {
	p.emit( // shtab.tagOf
		asm.RSh.Imm(asm.R2, 16),
		asm.Or.Imm(asm.R2, 1<<15),
		asm.LSh.Imm(asm.R2, shtab.ValueBits),
		asm.Or.Reg(asm.R2, value),
		atomically(asm.Xchg, asm.R5, asm.R2, asm.DWord, shtab.OffWord),
		asm.LoadMem(asm.R2, asm.RFP, t.stack+entryNumber, asm.DWord),
		asm.JLE.Imm(asm.R2, int32(t.homes), t.label(p, "tell")),
		asm.LoadMem(asm.R1, asm.RFP, t.stack+entryHome, asm.DWord),
		asm.JGE.Imm(asm.R1, int32(t.homes), pass), // never: for the verifier
	)
	p.entryAt(t, 0)
	p.emit(asm.Mov.Reg(asm.R3, asm.R0))
	for range 3 {
		p.emit(
			asm.LoadMem(asm.R0, asm.R3, shtab.OffNext, asm.Word),
			asm.Mov.Reg(asm.R4, asm.R0),
			asm.StoreMem(asm.R5, shtab.OffNext, asm.R0, asm.Word),
			atomically(asm.CmpXchg, asm.R3, asm.R2, asm.Word, shtab.OffNext),
			asm.JEq.Reg(asm.R0, asm.R4, t.label(p, "tell")),
		)
	}
}

// tell puts the slot's number, which is R2 less 1, into the ring of those made.
func (p *program) tell(t entries) {
	p.symbol = t.label(p, "tell")
	p.emit(
		asm.LoadMem(asm.R1, asm.RFP, t.stack+entryTold, asm.DWord),
		asm.Mov.Imm(asm.R0, 0),
		atomically(asm.CmpXchg, asm.R1, asm.R2, asm.Word, shtab.OffCompletion),
		asm.LoadMem(asm.R0, asm.R8, shtab.OffCompletionAt, asm.Word),
		asm.Add.Imm(asm.R0, 1),
		asm.StoreMem(asm.R8, shtab.OffCompletionAt, asm.R0, asm.Word),
	)
}

// atomically is an atomic operation on memory at dst. cilium/ebpf v0.22.0 loses the
// operation on its way to the kernel (asm/instruction.go, Marshal), and adds instead.
func atomically(op asm.AtomicOp, dst, src asm.Register, size asm.Size, off int16) asm.Instruction {
	i := op.Mem(dst, src, size, off)
	i.Constant = int64(op >> 8)
	return i
}
