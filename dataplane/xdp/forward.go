package xdp

import (
	"fmt"
	"math/bits"

	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/shtab"
)

// hash leaves the number of the key's home slot in R2.
func (p *program) hash() {
	if p.hashed != 0 {
		return
	}
	p.sum()
	p.home(p.Homes)
}

// home makes of the hash in R2 the number of its home slot among so many (shtab's
// homeOf).
func (p *program) home(homes uint32) {
	if bits.OnesCount32(homes) == 1 { // the same, in fewer steps
		p.emit(asm.RSh.Imm(asm.R2, int32(64-bits.TrailingZeros32(homes))))
		return
	}
	p.emit(
		asm.RSh.Imm(asm.R2, 32),
		asm.Mul.Imm(asm.R2, int32(homes)),
		asm.RSh.Imm(asm.R2, 32),
	)
}

// sum leaves the key's hash in R2 (shtab.Hash). An IPv4 key has two words that are
// not 0.
func (p *program) sum() {
	if p.six {
		p.halves(8, p.Seed[5])
		for _, w := range words6 {
			p.halves(w.off, p.Seed[w.word])
		}
	} else {
		p.emit(asm.Mov.Reg(asm.R2, addrs))
	}
	p.mix(p.Seed)
}

// mix makes the hash in R2 of its first part and word 1.
func (p *program) mix(seed [6]uint64) {
	p.emit(
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

// halves adds a word of the header to R2 (shtab's halves), or begins with it.
func (p *program) halves(off int16, seed uint64) {
	sum := asm.Add.Reg(asm.R2, asm.R0)
	if off == 8 {
		sum = asm.Mov.Reg(asm.R2, asm.R0)
	}
	p.emit(
		asm.LoadMem(asm.R0, data, p.atIP()+off, asm.Word),
		asm.Add.Imm32(asm.R0, int32(uint32(seed))),
		asm.LoadMem(asm.R1, data, p.atIP()+off+4, asm.Word),
		asm.Add.Imm32(asm.R1, int32(seed>>32)),
		asm.Mul.Reg(asm.R0, asm.R1),
		sum,
	)
}

// find looks into the home slot, whose number is in R2, into the one beside it, and
// then into the home slot's chain (shtab.Lookup). It leaves the slot and its word.
func (p *program) find() {
	if p.hashed != 0 {
		p.findHashed()
		return
	}
	for i := range 2 + chain {
		next := p.here(fmt.Sprint("next", i+1))
		switch i {
		case 0:
			p.emit(asm.Mov.Reg(asm.R1, asm.R2))
			p.slotAt(asm.R1, 0)
		case 1:
			p.emit(
				asm.Mov.Reg(asm.R1, asm.R2),
				asm.Xor.Imm(asm.R1, 1),
				asm.JGE.Imm(asm.R1, int32(p.Homes), pass), // never: for the verifier
			)
			p.slotAt(asm.R1, 0)
		case 2:
			p.emit(asm.Mov.Reg(asm.R1, asm.R2))
			p.slotAt(asm.R1, 0)
			fallthrough
		default:
			p.emit(
				asm.LoadMem(asm.R1, slot, shtab.OffNext, asm.Word),
				asm.JEq.Imm(asm.R1, 0, p.here("miss")),
				asm.JGT.Imm(asm.R1, int32(p.Slots), pass),
			)
			p.slotAt(asm.R1, -1)
		}
		// The word comes first, see shtab. Its tag is only looked at for being
		// there, as the whole key is compared.
		p.emit(asm.LoadMem(word, slot, shtab.OffWord, asm.DWord))
		p.compare(0, addrs, next)
		p.compare(1, ports, next)
		if p.six {
			for _, w := range words6 {
				p.emit(asm.LoadMem(asm.R1, data, p.atIP()+w.off, asm.DWord))
				p.compare(w.word, asm.R1, next)
			}
		}
		p.emit(asm.JSLT.Imm(word, 0, p.here("found")))
		p.symbol = next
	}
	// The connection may be further on: no second one is to be opened, for which spot
	// wants a home slot.
	p.emit(
		asm.LoadMem(asm.R1, slot, shtab.OffNext, asm.Word),
		asm.JEq.Imm(asm.R1, 0, p.here("miss")),
		asm.Mov.Imm(asm.R2, nowhere),
		asm.Ja.Label(p.here("miss")),
	)
}

// compare goes to next if a word of the slot's key is another than with.
func (p *program) compare(n int16, with asm.Register, next string) {
	p.emit(asm.LoadMem(asm.R0, slot, shtab.OffKey+8*n, asm.DWord), asm.JNE.Reg(asm.R0, with, next))
}

// slotAt finds the slot by its number in i, to which add is added. What i was is lost.
func (p *program) slotAt(i asm.Register, add int32) {
	if !p.looked {
		p.emit(
			asm.LSh.Imm(i, slotShift),
			asm.LoadMapValue(slot, p.conns, uint32(shtab.HeaderSize+add*shtab.SlotSize)),
			asm.Add.Reg(slot, i),
		)
		return
	}
	p.emit(
		asm.Add.Imm(i, headerSlots+add),
		asm.StoreMem(asm.RFP, stackIndex, i, asm.Word),
		asm.StoreMem(asm.RFP, stackHome, asm.R2, asm.DWord),
		asm.StoreMem(asm.RFP, stackKey, addrs, asm.DWord),
		asm.StoreMem(asm.RFP, stackKey+8, ports, asm.DWord),
		asm.StoreMem(asm.RFP, stackKept, kept, asm.DWord),
		asm.LoadMapPtr(asm.R1, p.conns),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, stackIndex),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, pass),
		asm.Mov.Reg(slot, asm.R0),
		asm.LoadMem(asm.R2, asm.RFP, stackHome, asm.DWord),
		asm.LoadMem(addrs, asm.RFP, stackKey, asm.DWord),
		asm.LoadMem(ports, asm.RFP, stackKey+8, asm.DWord),
		asm.LoadMem(kept, asm.RFP, stackKept, asm.DWord),
	)
}

// findHashed asks a BPF hash map.
func (p *program) findHashed() {
	p.emit(
		asm.StoreMem(asm.RFP, stackKey, addrs, asm.DWord),
		asm.StoreMem(asm.RFP, stackKey+8, ports, asm.DWord),
	)
	if p.hashedWords > 2 {
		p.emit(asm.Mov.Imm(asm.R1, 0))
	}
	for w := int16(2); w < p.hashedWords; w++ {
		p.emit(asm.StoreMem(asm.RFP, stackKey+8*w, asm.R1, asm.DWord))
	}
	p.emit(
		asm.StoreMem(asm.RFP, stackKept, kept, asm.DWord),
		asm.LoadMapPtr(asm.R1, p.hashed),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, stackKey),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, p.here("miss")),
		asm.LoadMem(kept, asm.RFP, stackKept, asm.DWord),
		asm.Mov.Reg(slot, asm.R0),
		asm.LoadMem(word, slot, shtab.OffWord, asm.DWord),
	)
}

// found takes the number of the real server out of the slot's word.
func (p *program) found() {
	p.label("found")
	p.emit(
		asm.And.Imm(dest, conn.DestMask),
		asm.JGE.Imm(dest, int32(p.rooms), pass),
	)
}

// decide passes what would change the connection: what is not for a real server
// of direct routing, what is a connection's first packet, one of other timeouts
// than the present (it gets those from Go), and what moves it to another state
// (conn.Table.TCP, enter).
func (p *program) decide() {
	p.found()
	p.emit(
		asm.LoadMem(asm.R1, slot, shtab.OffState, asm.Word),
		asm.LoadMapValue(asm.R2, p.settings, settingsExpected),
		asm.LoadMem(asm.R2, asm.R2, 0, asm.Word),
		asm.Xor.Reg(asm.R2, asm.R1),
		asm.JSet.Imm32(asm.R2, -1<<conn.GenShift|7<<(conn.OwnerShift+1)|conn.SetFlag, p.unexpected()), // the owner's other three bits are the forwarding method
	)
	p.label("expected")
	p.emit(
		asm.And.Imm(asm.R1, conn.StateMask),
		asm.RSh.Reg(kept, asm.R1),
		asm.JSet.Imm(kept, 1, p.here("stays")),
		// Nobody will change the state where no daemon has shown itself for a while:
		// better to send the packet.
		asm.FnJiffies64.Call(),
	)
	p.ticks.emit(p)
	p.emit(
		asm.LoadMapValue(asm.R1, p.settings, settingsAttended),
		asm.LoadMem(asm.R1, asm.R1, 0, asm.Word),
		asm.Sub.Reg32(asm.R0, asm.R1),
		asm.JSLT.Imm32(asm.R0, int32(unattended*p.Hz), p.undecided()), // its clock may be a tick ahead
	)
	p.label("stays")
}

// unattended is after how many seconds without Heartbeat no daemon is there.
const unattended = 2

// address finds the real server and writes the link addresses. From there on,
// nothing passes.
func (p *program) address() {
	server, address := asm.R2, asm.R4
	p.emit(
		asm.Mov.Reg(asm.R1, dest),
		asm.LSh.Imm(asm.R1, serverShift),
		asm.LoadMapValue(server, p.servers, 0),
		asm.Add.Reg(server, asm.R1),
		asm.LoadMem(asm.R1, server, serverMTU, asm.Word),
		asm.JGT.Reg(total, asm.R1, pass),
		asm.LoadMem(asm.R3, server, serverIfindex, asm.Word),
	)
	if p.tags > 0 { // the tag is this interface's
		p.emit(asm.JNE.Imm(asm.R3, int32(p.ifindex), pass))
	}
	p.emit(
		asm.LoadMem(address, server, serverMACs, asm.DWord),
		asm.StoreMem(data, 0, address, asm.DWord),
		asm.LoadMem(address, server, serverMACs+8, asm.Word),
		asm.StoreMem(data, 8, address, asm.Word),
		asm.StoreMem(asm.RFP, stackOut, asm.R3, asm.DWord),
	)
}

// count counts the packet in the counters of this CPU and server.
func (p *program) count() {
	p.emit(
		asm.FnGetSmpProcessorId.Call(),
		asm.JGE.Imm(asm.R0, int32(p.cpus), p.here("counted")), // never: for the verifier
		asm.Mul.Imm(asm.R0, int32(p.rooms)),
		asm.Add.Reg(asm.R0, dest),
		asm.LSh.Imm(asm.R0, countShift),
		asm.LoadMapValue(asm.R1, p.counts, 0),
		asm.Add.Reg(asm.R1, asm.R0),
		asm.LoadMem(asm.R0, asm.R1, 0, asm.DWord),
		asm.Add.Imm(asm.R0, 1),
		asm.StoreMem(asm.R1, 0, asm.R0, asm.DWord),
		asm.LoadMem(asm.R0, asm.R1, 8, asm.DWord),
		asm.Add.Reg(asm.R0, total),
		asm.StoreMem(asm.R1, 8, asm.R0, asm.DWord),
	)
	p.label("counted")
}

// stamp says in the connection that it was used, and how often.
func (p *program) stamp() {
	p.emit(asm.FnJiffies64.Call())
	p.ticks.emit(p)
	p.emit(
		asm.StoreMem(slot, shtab.OffStamp, asm.R0, asm.Word),
		asm.LoadMem(asm.R1, slot, shtab.OffCount, asm.Word),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(slot, shtab.OffCount, asm.R1, asm.Word),
	)
}

// hop takes one off the time to live (packet.DecrementTTL).
func (p *program) hop() {
	atIP := p.atIP()
	if p.six {
		p.emit(
			asm.LoadMem(asm.R1, data, atIP+7, asm.Byte),
			asm.Sub.Imm(asm.R1, 1),
			asm.StoreMem(data, atIP+7, asm.R1, asm.Byte),
		)
	} else {
		// ip_decrease_ttl (include/net/ip.h), on a word that has the time to live in
		// its lowest byte and the checksum in the upper half. It stays in its bounds
		// but when that was 0xfffe or more.
		p.emit(
			asm.LoadMem(asm.R1, data, atIP+8, asm.Word),
			asm.JLT.Imm32(asm.R1, -2<<16, p.here("sum")),
			asm.Add.Imm(asm.R1, 1<<16),
		)
		p.label("sum")
		p.emit(asm.Add.Imm(asm.R1, 1<<16-1), asm.StoreMem(data, atIP+8, asm.R1, asm.Word))
	}
}

// send ends the program: the packet leaves as it came, or by the interface that
// leads to the server.
func (p *program) send() {
	p.emit(asm.Mov.Imm(asm.R0, actionTX))
	if p.tags > 0 {
		p.emit(asm.Return())
		return
	}
	p.emit(
		asm.LoadMem(asm.R1, asm.RFP, stackOut, asm.DWord),
		asm.JEq.Imm(asm.R1, int32(p.ifindex), p.here("sent")),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
	)
	p.label("sent")
	p.emit(asm.Return())
}
