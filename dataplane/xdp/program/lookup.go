package program

import (
	"fmt"
	"math/bits"

	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/internal/shtab"
)

// finder looks a key up in the connection table.
type finder struct{ parser }

// MaxChain is how many slots of a chain are looked at. A longer one is Go's: of full tables
// of a million, one in thousands has one.
const MaxChain = 10

// slotShift turns a slot's number into an offset.
const slotShift = 6

// headerSlots is how many elements of the array the table's header takes.
const headerSlots = shtab.HeaderSize / shtab.SlotSize

// Where the words of an IPv6 key that no register has are in the header.
var words6 = [...]struct{ word, off int16 }{{2, 16}, {3, 24}, {4, 32}}

// hashKey leaves the number of the key's home slot in R2.
//
// in: addrs ports data; out: R2; lost: R0 R1
func (f *finder) hashKey() {
	defer f.step("hashKey", "the key's hash, and its home slot")()
	if f.Hashed != 0 {
		return
	}
	f.sumKey()
	if f.six && f.opens() {
		f.emit(save(stackSum, asm.R2)) // insertConn would go through the words again
	}
	f.homeSlot(f.Homes)
}

// homeSlot makes of the hash in R2 the number of its home slot among so many (shtab's
// homeOf).
func (f *finder) homeSlot(homes uint32) {
	if bits.OnesCount32(homes) == 1 { // the same, in fewer steps
		f.emit(asm.RSh.Imm(asm.R2, int32(64-bits.TrailingZeros32(homes))))
		return
	}
	f.emit(
		asm.RSh.Imm(asm.R2, 32),
		asm.Mul.Imm(asm.R2, int32(homes)),
		asm.RSh.Imm(asm.R2, 32),
	)
}

// sumKey leaves the key's hash in R2 (shtab.Hash). An IPv4 key has two words that are
// not 0.
func (f *finder) sumKey() {
	if f.six {
		f.addHalves(8, f.Seed[5])
		for _, w := range words6 {
			f.addHalves(w.off, f.Seed[w.word])
		}
	} else {
		f.emit(asm.Mov.Reg(asm.R2, addrs))
	}
	f.mixSum(f.Seed)
}

// mixSum makes the hash in R2 of its first part and word 1.
func (f *finder) mixSum(seed [6]uint64) {
	f.emit(
		asm.LoadImm(asm.R0, int64(seed[0]), asm.DWord),
		asm.Mul.Reg(asm.R2, asm.R0),
		asm.LoadImm(asm.R0, int64(seed[1]), asm.DWord),
		asm.Mul.Reg(asm.R0, ports),
		asm.Add.Reg(asm.R2, asm.R0),
		asm.Mov.Reg(asm.R0, asm.R2),
		asm.RSh.Imm(asm.R0, shtab.HashShift),
		asm.Xor.Reg(asm.R2, asm.R0),
		asm.Mul.Reg(asm.R2, asm.R2),
	)
}

// addHalves adds a word of the header to R2 (shtab's halves), or begins with it.
func (f *finder) addHalves(off int16, seed uint64) {
	sum := asm.Add.Reg(asm.R2, asm.R0)
	if off == 8 {
		sum = asm.Mov.Reg(asm.R2, asm.R0)
	}
	f.emit(
		asm.LoadMem(asm.R0, data, f.atIP()+off, asm.Word),
		asm.Add.Imm32(asm.R0, int32(uint32(seed))),
		asm.LoadMem(asm.R1, data, f.atIP()+off+4, asm.Word),
		asm.Add.Imm32(asm.R1, int32(seed>>32)),
		asm.Mul.Reg(asm.R0, asm.R1),
		sum,
	)
}

// lookup looks into the home slot, whose number is in R2, into the one beside it, and
// then into the home slot's chain (shtab.Lookup). It leaves the slot and its word.
//
// in: R2 addrs ports kept data; out: R2 addrs ports kept word slot; lost: R0 R1
func (f *finder) lookup() {
	defer f.step("lookup", "the connection: home slot, the one beside it, the chain")()
	if f.Hashed != 0 {
		f.lookupHashed()
		return
	}
	for i := range 2 + MaxChain {
		next := f.label(fmt.Sprint("next", i+1))
		switch i {
		case 0:
			f.emit(asm.Mov.Reg(asm.R1, asm.R2))
			f.slotAddress(asm.R1, 0)
		case 1:
			f.emit(
				asm.Mov.Reg(asm.R1, asm.R2),
				asm.Xor.Imm(asm.R1, 1),
				passIf(asm.JGE, asm.R1, int32(f.Homes)), // never: for the verifier
			)
			f.slotAddress(asm.R1, 0)
		case 2:
			f.emit(asm.Mov.Reg(asm.R1, asm.R2))
			f.slotAddress(asm.R1, 0)
			fallthrough
		default:
			f.emit(
				asm.LoadMem(asm.R1, slot, shtab.OffNext, asm.Word),
				asm.JEq.Imm(asm.R1, 0, f.label("miss")),
				passIf(asm.JGT, asm.R1, int32(f.Slots)),
			)
			f.slotAddress(asm.R1, -1)
		}
		// The word comes first, see shtab. Its tag is only looked at for being
		// there, as the whole key is compared.
		f.emit(asm.LoadMem(word, slot, shtab.OffWord, asm.DWord))
		f.compareWord(0, addrs, next)
		f.compareWord(1, ports, next)
		if f.six {
			for _, w := range words6 {
				f.emit(asm.LoadMem(asm.R1, data, f.atIP()+w.off, asm.DWord))
				f.compareWord(w.word, asm.R1, next)
			}
		}
		f.emit(asm.JSLT.Imm(word, 0, f.label("found")))
		f.symbol = next
	}
	// The connection may be further on: no second one is to be opened, for which findFreeSlot
	// wants a home slot.
	f.emit(
		asm.LoadMem(asm.R1, slot, shtab.OffNext, asm.Word),
		asm.JEq.Imm(asm.R1, 0, f.label("miss")),
		asm.Mov.Imm(asm.R2, nowhere),
		asm.Ja.Label(f.label("miss")),
	)
}

// compareWord goes to next if a word of the slot's key is another than with.
func (f *finder) compareWord(n int16, with asm.Register, next string) {
	f.emit(asm.LoadMem(asm.R0, slot, shtab.OffKey+8*n, asm.DWord), asm.JNE.Reg(asm.R0, with, next))
}

// slotAddress finds the slot by its number in i, to which add is added. What i was is lost.
func (f *finder) slotAddress(i asm.Register, add int32) {
	if !f.LookupHelper {
		f.element(slot, f.Conns, i, slotShift, uint32(shtab.HeaderSize+add*shtab.SlotSize))
		return
	}
	f.emit(
		asm.Add.Imm(i, headerSlots+add),
		asm.StoreMem(asm.RFP, stackIndex, i, asm.Word),
		save(stackHome, asm.R2),
		save(stackKey, addrs),
		save(stackKey+8, ports),
		save(stackKept, kept),
		asm.LoadMapPtr(asm.R1, f.Conns),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, stackIndex),
		asm.FnMapLookupElem.Call(),
		passIf(asm.JEq, asm.R0, 0),
		asm.Mov.Reg(slot, asm.R0),
		restore(asm.R2, stackHome),
		restore(addrs, stackKey),
		restore(ports, stackKey+8),
		restore(kept, stackKept),
	)
}

// lookupHashed asks a BPF hash map.
//
// in: addrs ports kept; out: kept word slot; lost: R0 R1 R2 addrs ports
func (f *finder) lookupHashed() {
	defer f.step("lookupHashed", "the connection, in a BPF hash map")()
	f.emit(
		save(stackKey, addrs),
		save(stackKey+8, ports),
	)
	if f.HashedWords > 2 {
		f.emit(asm.Mov.Imm(asm.R1, 0))
	}
	for w := int16(2); w < f.HashedWords; w++ {
		f.emit(save(stackKey+8*w, asm.R1))
	}
	f.emit(
		save(stackKept, kept),
		asm.LoadMapPtr(asm.R1, f.Hashed),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, stackKey),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, f.label("miss")),
		restore(kept, stackKept),
		asm.Mov.Reg(slot, asm.R0),
		asm.LoadMem(word, slot, shtab.OffWord, asm.DWord),
	)
}
