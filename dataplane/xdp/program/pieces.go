package program

import (
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/internal/preselect"
)

// What recurs on the way, in the words of what it is for.

// save keeps a register on the stack, and restore has it back.
func save(at int16, from asm.Register) asm.Instruction {
	return asm.StoreMem(asm.RFP, at, from, asm.DWord)
}

func restore(to asm.Register, at int16) asm.Instruction {
	return asm.LoadMem(to, asm.RFP, at, asm.DWord)
}

// passIf passes a packet to the plane behind if a register compares so with a number.
func passIf(op asm.JumpOp, r asm.Register, n int32) asm.Instruction {
	return op.Imm(r, n, PassLabel)
}

// leaveIf leaves a packet to Go, by a socket if there is one, if a register compares so
// with a number.
func (e *emitter) leaveIf(op asm.JumpOp, r asm.Register, n int32) asm.Instruction {
	return op.Imm(r, n, e.label("go"))
}

// compareAndSwap puts a register into memory if what is there is R0, which is what was
// there then.
func compareAndSwap(base asm.Register, off int16, with asm.Register, size asm.Size) asm.Instruction {
	return atomically(asm.CmpXchg, base, with, size, off)
}

// exchange puts a register into memory, and gives it what was there.
func exchange(base asm.Register, off int16, with asm.Register, size asm.Size) asm.Instruction {
	return atomically(asm.Xchg, base, with, size, off)
}

// element is the address of an array's element of 1<<shift bytes, by its number in index,
// which is lost; off is added.
func (e *emitter) element(to asm.Register, array int, index asm.Register, shift int32, off uint32) {
	e.emit(
		asm.LSh.Imm(index, shift),
		asm.LoadMapValue(to, array, off),
		asm.Add.Reg(to, index),
	)
}

// inSequence makes an offset in the service's sequence an address. Whatever is read there may be
// another service's: it counts if the position or the version, read before, is the same in the end
// (package preselect).
func (e *emitter) inSequence(offset, scratch asm.Register) {
	e.emit(
		asm.LoadMem(scratch, service, preselect.OffAt, asm.Word),
		asm.And.Imm(scratch, preselect.AtMask),
		asm.Add.Reg(offset, scratch),
		asm.LoadMapValue(scratch, e.Sequences, 0),
		asm.Add.Reg(offset, scratch),
	)
}

// readFirst has what is loaded of the service from here on be loaded after what is in a register,
// where processors might do it before: an address that depends on it waits for it.
func (e *emitter) readFirst(loaded, scratch asm.Register) {
	if e.WeakOrder {
		e.emit(asm.Mov.Reg(scratch, loaded), asm.And.Imm(scratch, 0), asm.Add.Reg(service, scratch))
	}
}

// setting reads a word of the settings.
func (e *emitter) setting(to asm.Register, off uint32) {
	e.emit(asm.LoadMapValue(to, e.Settings, off), asm.LoadMem(to, to, 0, asm.Word))
}

// atomically returns an atomic operation on memory at dst. cilium/ebpf v0.22.0 loses the
// operation on its way to the kernel (asm/instruction.go, Marshal), and adds instead.
func atomically(op asm.AtomicOp, dst, src asm.Register, size asm.Size, off int16) asm.Instruction {
	i := op.Mem(dst, src, size, off)
	i.Constant = int64(op >> 8)
	return i
}

// unlessBy goes to a label if what connections are opened by, in R1, has not a bit, and ifBy if it
// has. R2 is lost. (By jset the verifier would learn what R1 is, and go through twice as much.)
func (e *emitter) unlessBy(bit int32, to string) { e.byBit(asm.JEq, bit, to) }
func (e *emitter) ifBy(bit int32, to string)     { e.byBit(asm.JNE, bit, to) }

func (e *emitter) byBit(op asm.JumpOp, bit int32, to string) {
	e.emit(
		asm.Mov.Reg(asm.R2, asm.R1),
		asm.And.Imm(asm.R2, bit),
		op.Imm(asm.R2, 0, e.label(to)),
	)
}
