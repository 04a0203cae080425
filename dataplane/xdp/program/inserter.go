package program

import (
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/internal/shtab"
)

// What an inserter did with a packet.
const (
	InserterPassed = iota // never: for the verifier
	InserterFound
	InserterBusy // it is Go's: no slot, or no room to tell of one
	InserterMade
)

// InserterKeys is how many keys an inserter draws from: word 0 is less.
const InserterKeys = 1 << 10

// InserterPorts is word 1 of all of them.
const InserterPorts = 0x0406_5000_0400

// Inserter returns a program that draws a key and, if the table does not have it, makes an
// entry by the steps of the product's.
func (c *Config) Inserter() asm.Instructions {
	p := new(Program)
	p.Config = *c
	p.emit(
		asm.FnGetPrandomU32.Call(),
		asm.Mov.Reg(addrs, asm.R0),
		asm.And.Imm(addrs, InserterKeys-1),
		asm.LoadImm(ports, InserterPorts, asm.DWord),
		save(stackKey, addrs),
	)
	p.hashKey()
	t := p.connTable()
	p.emit(
		save(t.stack+entryHome, asm.R2),
		asm.Mov.Imm(asm.R1, 1<<30),
		save(stackTick, asm.R1), // no daemon runs
	)
	p.lookup()
	p.mark("found")
	p.emit(asm.Mov.Imm(asm.R0, InserterFound), asm.Return())

	p.mark("miss")
	p.emit(
		asm.FnGetSmpProcessorId.Call(),
		passIf(asm.JGE, asm.R0, int32(p.CPUs)),
	)
	p.ringsOf(asm.R0)
	p.findRoom(t, p.label("go"), p.label("go"))
	p.findFreeSlot(t)
	p.claimSlot(t, p.label("go"))
	p.emit(
		restore(addrs, stackKey),
		asm.LoadImm(ports, InserterPorts, asm.DWord),
		asm.StoreMem(asm.R5, shtab.OffKey, addrs, asm.DWord),
		asm.StoreMem(asm.R5, shtab.OffKey+8, ports, asm.DWord),
		asm.Mov.Imm(asm.R0, 0),
		asm.StoreMem(asm.R5, shtab.OffState, asm.R0, asm.DWord), // and the count
	)
	for word := int16(2); word < 5; word++ {
		p.emit(asm.StoreMem(asm.R5, shtab.OffKey+8*word, asm.R0, asm.DWord))
	}
	p.sumKey()
	p.emit(asm.Mov.Reg(asm.R1, addrs), asm.Add.Imm(asm.R1, 1)) // a value that says whose it is
	p.publish(t, asm.R1, t.label(&p.opener, "complete"))
	p.complete(t)
	p.emit(asm.Mov.Imm(asm.R0, InserterMade), asm.Return())
	p.mark("go")
	p.emit(asm.Mov.Imm(asm.R0, InserterBusy), asm.Return())
	p.symbol = PassLabel
	p.emit(asm.Mov.Imm(asm.R0, InserterPassed), asm.Return())
	return p.out
}
