package xdp

import (
	"github.com/cilium/ebpf/asm"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/shtab"
)

// How the program makes an entry in the connection table, by the steps of shtab.Rings.

// ring finds this CPU's rings, R8, with room to tell of the connection. It reads the
// clock.
func (p *program) ring() {
	p.emit(asm.FnJiffies64.Call())
	p.ticks.emit(p)
	p.emit(
		asm.StoreMem(asm.RFP, stackTick, asm.R0, asm.DWord),
		asm.FnGetSmpProcessorId.Call(),
		asm.JGE.Imm(asm.R0, int32(p.cpus), p.here("ask")), // never: for the verifier
	)
	p.ringsOf(asm.R0)
	p.room()
}

// ringsOf is the rings of the CPU in a register, R8.
func (p *program) ringsOf(cpu asm.Register) {
	p.emit(
		asm.Mul.Imm(cpu, shtab.RingsStride),
		asm.LoadMapValue(asm.R8, p.rings, 0),
		asm.Add.Reg(asm.R8, cpu),
	)
}

// room keeps the address of the cell in which a connection will be told of.
func (p *program) room() {
	p.emit(asm.LoadMem(asm.R1, asm.R8, shtab.OffPutAt, asm.Word))
	p.cell(asm.R2)
	p.emit(
		asm.LoadMem(asm.R1, asm.R2, shtab.OffMade, asm.Word),
		asm.JNE.Imm(asm.R1, 0, p.here("ask")),
		asm.StoreMem(asm.RFP, stackTold, asm.R2, asm.DWord),
	)
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

// spot looks for a free slot. It comes before a choice is made that would be lost
// without.
func (p *program) spot() {
	for beside := range int32(2) {
		p.emit(
			asm.LoadMem(asm.R1, asm.RFP, stackHome, asm.DWord),
			asm.Xor.Imm(asm.R1, beside),
			asm.JGE.Imm(asm.R1, int32(p.Homes), p.here("ask")), // never: for the verifier
			asm.Mov.Reg(asm.R2, asm.R1),
			asm.Add.Imm(asm.R2, 1),
		)
		p.slotAt(asm.R1, 0)
		p.emit(
			asm.LoadMem(asm.R1, asm.R0, shtab.OffWord, asm.DWord),
			asm.JEq.Imm(asm.R1, 0, p.here("spot")),
		)
	}
	p.emit(asm.LoadMem(asm.R1, asm.R8, shtab.OffTakeAt, asm.Word))
	p.cell(asm.R3)
	p.emit(
		asm.LoadMem(asm.R2, asm.R3, shtab.OffFree, asm.Word),
		asm.JEq.Imm(asm.R2, 0, p.here("ask")),
		asm.JGT.Imm(asm.R2, int32(p.Slots), p.here("ask")),
		asm.Mov.Reg(asm.R1, asm.R2),
	)
	p.slotAt(asm.R1, -1)
	p.label("spot")
	p.emit(
		asm.StoreMem(asm.RFP, stackSpot, asm.R0, asm.DWord),
		asm.StoreMem(asm.RFP, stackNumber, asm.R2, asm.DWord),
	)
}

// place claims the slot, and makes the connection to dest in it (shtab.Rings). The
// slot is R5 then, and the home slot's number is where it was.
func (p *program) place() {
	no := p.here("ask")
	p.label("place")
	p.claimSlot(no)
	p.emit(
		asm.LoadMem(addrs, asm.RFP, stackKey, asm.DWord),
		asm.LoadMem(ports, asm.RFP, stackKey+8, asm.DWord),
		asm.StoreMem(asm.R5, shtab.OffKey, addrs, asm.DWord),
		asm.StoreMem(asm.R5, shtab.OffKey+8, ports, asm.DWord),
		asm.Mov.Imm(asm.R0, 0),
		asm.StoreMem(asm.R5, shtab.OffCount, asm.R0, asm.Word),
	)
	for _, w := range words6 {
		if p.six {
			p.emit(asm.LoadMem(asm.R0, data, p.atIP()+w.off, asm.DWord))
		}
		p.emit(asm.StoreMem(asm.R5, shtab.OffKey+8*w.word, asm.R0, asm.DWord))
	}
	p.emit(
		asm.LoadMem(asm.R0, asm.RFP, stackTick, asm.DWord),
		asm.StoreMem(asm.R5, shtab.OffStamp, asm.R0, asm.Word),
		asm.Mov.Imm(asm.R0, conn.MadeUDP),
		asm.LoadMem(asm.R1, data, p.atProto(), asm.Byte),
		asm.JEq.Imm(asm.R1, protoUDP, p.here("state")),
		asm.Mov.Imm(asm.R0, conn.MadeTCP),
	)
	p.label("state")
	p.emit(asm.StoreMem(asm.R5, shtab.OffState, asm.R0, asm.Word))
	p.sum()
	p.publish(dest)
}

// claimSlot claims the slot that spot has found, R5, for which R8 are the CPU's rings.
func (p *program) claimSlot(no string) {
	p.emit(
		asm.LoadMem(asm.R5, asm.RFP, stackSpot, asm.DWord),
		asm.LoadMem(asm.R2, asm.RFP, stackNumber, asm.DWord),
		asm.JGT.Imm(asm.R2, int32(p.Homes), p.here("over")),
		asm.Mov.Imm(asm.R0, 0),
		asm.LoadImm(asm.R1, shtab.MaxValue, asm.DWord),
		atomically(asm.CmpXchg, asm.R5, asm.R1, asm.DWord, shtab.OffWord),
		asm.JNE.Imm(asm.R0, 0, no),
		asm.Ja.Label(p.here("write")),
	)
	p.label("over")
	p.emit(asm.LoadMem(asm.R1, asm.R8, shtab.OffTakeAt, asm.Word))
	p.cell(asm.R3)
	p.emit(
		asm.Mov.Imm(asm.R1, 0),
		atomically(asm.Xchg, asm.R3, asm.R1, asm.Word, shtab.OffFree),
		asm.JNE.Reg(asm.R1, asm.R2, no),
		asm.LoadMem(asm.R0, asm.R8, shtab.OffTakeAt, asm.Word),
		asm.Add.Imm(asm.R0, 1),
		asm.StoreMem(asm.R8, shtab.OffTakeAt, asm.R0, asm.Word),
	)
	p.label("write")
}

// publish lets the entry be found, with the key's hash in R2 and a value, and puts an
// overflow slot into its chain. R2 is the slot's number, and 1, then.
func (p *program) publish(value asm.Register) {
	p.emit( // shtab.tagOf
		asm.RSh.Imm(asm.R2, 16),
		asm.Or.Imm(asm.R2, 1),
		asm.LSh.Imm(asm.R2, shtab.ValueBits),
		asm.Or.Reg(asm.R2, value),
		atomically(asm.Xchg, asm.R5, asm.R2, asm.DWord, shtab.OffWord),
		asm.LoadMem(asm.R2, asm.RFP, stackNumber, asm.DWord),
		asm.JLE.Imm(asm.R2, int32(p.Homes), p.here("tell")),
		asm.LoadMem(asm.R1, asm.RFP, stackHome, asm.DWord),
		asm.JGE.Imm(asm.R1, int32(p.Homes), pass), // never: for the verifier
	)
	p.slotAt(asm.R1, 0)
	p.emit(asm.Mov.Reg(asm.R3, asm.R0))
	for range 3 {
		p.emit(
			asm.LoadMem(asm.R0, asm.R3, shtab.OffNext, asm.Word),
			asm.Mov.Reg(asm.R4, asm.R0),
			asm.StoreMem(asm.R5, shtab.OffNext, asm.R0, asm.Word),
			atomically(asm.CmpXchg, asm.R3, asm.R2, asm.Word, shtab.OffNext),
			asm.JEq.Reg(asm.R0, asm.R4, p.here("tell")),
		)
	}
}

// tell puts the slot's number, which is R2 less 1, into the ring of those made.
func (p *program) tell() {
	p.label("tell")
	p.emit(
		asm.LoadMem(asm.R1, asm.RFP, stackTold, asm.DWord),
		asm.Mov.Imm(asm.R0, 0),
		atomically(asm.CmpXchg, asm.R1, asm.R2, asm.Word, shtab.OffMade),
		asm.LoadMem(asm.R0, asm.R8, shtab.OffPutAt, asm.Word),
		asm.Add.Imm(asm.R0, 1),
		asm.StoreMem(asm.R8, shtab.OffPutAt, asm.R0, asm.Word),
	)
}

// atomically is an atomic operation on memory at dst. cilium/ebpf v0.22.0 loses the
// operation on its way to the kernel (asm/instruction.go, Marshal), and adds instead.
func atomically(op asm.AtomicOp, dst, src asm.Register, size asm.Size, off int16) asm.Instruction {
	i := op.Mem(dst, src, size, off)
	i.Constant = int64(op >> 8)
	return i
}
