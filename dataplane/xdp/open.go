package xdp

import (
	"fmt"
	"math/bits"

	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/preselect"
	"github.com/ulvs/ulvs/internal/shtab"
)

// More of the stack.
const (
	stackTick     = -120
	stackRings    = -128
	stackTemplate = -168 // the five words of a template's key
	stackHash     = -176 // its hash
	stackNew      = -184 // whether a template is to be made
)

// makes reports whether the program opens connections: where there are sockets for
// what it leaves to Go.
func (p *program) makes() bool { return p.asks() && p.services != 0 && !p.looked }

// open opens a connection, as the director has decided ahead (package ahead), and has
// the packet go on as one of it. R0 is the claim in which the service's number is. What
// is not clear is Go's, whose words for all of it are in the root's schedule.go.
func (p *program) open() {
	conns, templates := p.connTable(), p.templateTable()
	p.opens()
	p.source()
	p.ring()
	p.room(conns)
	p.spot(conns)
	p.choose(templates)
	p.placeTemplate(templates)
	p.place(conns)
	p.emit(asm.Mov.Reg(slot, asm.R5), asm.Ja.Label(p.here("stays")))
}

// fresh is where packets of a connection go, whose state is in R1, that is not as
// expected: one that a program has made and Go has not seen yet is expected too.
func (p *program) fresh() {
	p.label("fresh")
	p.emit(
		asm.Mov.Reg(asm.R0, asm.R1),
		asm.And.Imm(asm.R0, conn.PendingFlag),
		asm.JNE.Imm(asm.R0, 0, p.here("expected")),
		asm.Ja.Label(pass),
	)
}

// opens finds the service, R6, and whether it and the packet are such as the program
// deals with.
func (p *program) opens() {
	const service = asm.R6
	no := p.here("ask")
	p.emit(
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
		asm.JGE.Imm(asm.R1, preselect.Services, no),
		asm.Mul.Imm(asm.R1, preselect.Stride),
		asm.LoadMapValue(service, p.services, 0),
		asm.Add.Reg(service, asm.R1),
		asm.LoadMem(asm.R1, service, preselect.OffBy, asm.Word),
		asm.JEq.Imm(asm.R1, 0, no),
		asm.LoadMapValue(asm.R1, p.settings, settingsMaking),
		asm.LoadMem(asm.R1, asm.R1, 0, asm.Word),
		asm.And.Imm(asm.R1, int32(makingBit(p.six))),
		asm.JEq.Imm(asm.R1, 0, no),
	)
	// The claims are told of later than the services.
	for off := int16(0); off < int16(claimSize); off += 4 {
		p.emit(
			asm.LoadMem(asm.R1, service, preselect.OffKey+off, asm.Word),
			asm.LoadMem(asm.R2, asm.RFP, stackClaim+off, asm.Word),
			asm.JNE.Reg(asm.R1, asm.R2, no),
		)
	}
	at := p.atPorts()
	const ftpData, synRst, syn = 20, 0x06, 0x02
	p.emit(
		asm.LoadMem(asm.R1, data, at, asm.Half),
		asm.JEq.Imm(asm.R1, int32(bits.ReverseBytes16(ftpData)), no),
		asm.LoadMem(asm.R1, data, p.atProto(), asm.Byte),
		asm.JEq.Imm(asm.R1, protoUDP, p.here("source")),
		asm.JNE.Imm(asm.R1, protoTCP, no),
		asm.LoadMem(asm.R1, asm.RFP, stackContext, asm.DWord),
		asm.LoadMem(end, asm.R1, 4, asm.Word),
		asm.Mov.Reg(asm.R1, data),
		asm.Add.Imm(asm.R1, int32(at)+20),
		asm.JGT.Reg(asm.R1, end, no),
		asm.LoadMem(asm.R1, data, at+13, asm.Byte),
		asm.And.Imm(asm.R1, synRst),
		asm.JNE.Imm(asm.R1, syn, no),
	)
	p.label("source")
}

// atPorts is where the transport header is in a frame.
func (p *program) atPorts() int16 {
	if p.six {
		return p.atIP() + 40
	}
	return p.atIP() + 20
}

// source leaves to Go what comes from an address that no packet from the wire has, or
// that may be one of the host's own (the director's martian).
func (p *program) source() {
	no, atIP, locals := p.here("ask"), p.atIP(), uint32(settingsLocals)
	if p.six {
		locals += localsSize
		p.emit(
			asm.LoadMem(asm.R1, data, atIP+8, asm.DWord),
			asm.JEq.Imm(asm.R1, 0, no), // ::1
			asm.And.Imm(asm.R1, 0xff),
			asm.JEq.Imm(asm.R1, 0xff, no),
			asm.LoadMem(asm.R1, data, atIP+8, asm.Word),
		)
		for off := int16(12); off < 24; off += 4 {
			p.emit(asm.LoadMem(asm.R2, data, atIP+off, asm.Word), asm.Xor.Reg(asm.R1, asm.R2))
		}
	} else {
		p.emit(
			asm.LoadMem(asm.R1, data, atIP+12, asm.Byte),
			asm.JEq.Imm(asm.R1, 0, no),
			asm.JEq.Imm(asm.R1, 127, no),
			asm.JGE.Imm(asm.R1, 224, no),
			asm.LoadMem(asm.R1, data, atIP+12, asm.Word),
		)
	}
	factor := uint32(dataplane.LocalFactor)
	p.emit(
		asm.Mul.Imm32(asm.R1, int32(factor)),
		asm.RSh.Imm32(asm.R1, dataplane.LocalShift),
		asm.Mov.Reg(asm.R2, asm.R1),
		asm.RSh.Imm(asm.R2, 5),
		asm.LSh.Imm(asm.R2, 2),
		asm.LoadMapValue(asm.R3, p.settings, locals),
		asm.Add.Reg(asm.R3, asm.R2),
		asm.LoadMem(asm.R2, asm.R3, 0, asm.Word),
		asm.And.Imm(asm.R1, 31),
		asm.RSh.Reg(asm.R2, asm.R1),
		asm.And.Imm(asm.R2, 1),
		asm.JNE.Imm(asm.R2, 0, no),
	)
}

// choose finds the real server: that of the client's template, or the scheduler's next
// choice, for which a template is to be made if the service is persistent. Its number
// goes to dest, in place of the service.
func (p *program) choose(templates entries) {
	const service = asm.R6
	no := p.here("ask")
	p.emit(
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, stackNew, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, service, preselect.OffBy, asm.Word),
		asm.And.Imm(asm.R1, preselect.ByTemplate),
		asm.JEq.Imm(asm.R1, 0, p.here("turns")),
	)
	p.template(templates)

	p.label("turns")
	p.emit(
		asm.LoadMem(asm.R1, service, preselect.OffBy, asm.Word),
		asm.And.Imm(asm.R1, preselect.ByPicks),
		asm.JEq.Imm(asm.R1, 0, no),
		// The next choice is read, and is taken if it still is the next (preselect.Take).
		asm.LoadMem(asm.R3, service, preselect.OffPosition, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R3),
		asm.RSh.Imm(asm.R1, 32),
		asm.Mov.Reg32(asm.R2, asm.R3),
		asm.JEq.Reg(asm.R1, asm.R2, no),
		asm.Sub.Reg(asm.R1, asm.R2),
		asm.JGE.Imm(asm.R1, preselect.Picks/2, p.here("many")),
	)
	p.wake(p.here("many"))
	p.emit(
		asm.And.Imm(asm.R2, preselect.Picks-1),
		asm.LSh.Imm(asm.R2, 3),
		asm.Add.Reg(asm.R2, service),
		asm.LoadMem(asm.R2, asm.R2, preselect.OffPicks, asm.DWord),
		asm.RSh.Imm(asm.R2, 32),
	)
	p.reachable(asm.R2)
	p.emit(
		asm.Mov.Reg(asm.R0, asm.R3),
		asm.Mov.Reg(asm.R1, asm.R3),
		asm.Add.Imm(asm.R1, 1),
		atomically(asm.CmpXchg, service, asm.R1, asm.DWord, preselect.OffPosition),
		asm.JNE.Reg(asm.R0, asm.R3, no),
		asm.Mov.Reg(dest, asm.R2),
	)
}

// reachable leaves packets to Go that cannot be sent to the real server in a register.
// It clobbers R1, R4 and R5.
func (p *program) reachable(number asm.Register) {
	no := p.here("ask")
	p.emit(
		asm.JGE.Imm(number, int32(p.rooms), no),
		asm.Mov.Reg(asm.R4, number),
		asm.LSh.Imm(asm.R4, serverShift),
		asm.LoadMapValue(asm.R5, p.servers, 0),
		asm.Add.Reg(asm.R5, asm.R4),
		asm.LoadMem(asm.R1, asm.R5, serverMTU, asm.Word),
		asm.JGT.Reg(total, asm.R1, no),
	)
}

// template finds the client's template, and restarts its time. If it has none, there
// is a place for one, unless Go is to make it.
func (p *program) template(t entries) {
	p.templateKey(t)
	p.findTemplate(t)
	p.label("templated")
	p.emit(
		asm.Mov.Reg(dest, asm.R1),
		asm.And.Imm(dest, conn.DestMask),
	)
	p.reachable(dest)
	p.emit(
		asm.LoadMem(asm.R1, asm.RFP, stackTick, asm.DWord),
		asm.StoreMem(asm.R0, shtab.OffStamp, asm.R1, asm.Word),
		asm.LoadMem(asm.R8, asm.RFP, stackRings, asm.DWord),
		asm.Ja.Label(p.here("place")),
	)
	p.label("newcomer")
	p.emit(
		asm.LoadMem(asm.R8, asm.RFP, stackRings, asm.DWord),
		asm.LoadMapValue(asm.R1, p.settings, settingsTemplates),
		asm.LoadMem(asm.R1, asm.R1, 0, asm.Word),
		asm.JEq.Imm(asm.R1, 0, p.here("ask")),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreMem(asm.RFP, stackNew, asm.R1, asm.DWord),
		asm.Add.Imm(asm.R8, t.rings),
	)
	p.room(t)
	p.spot(t)
	p.emit(asm.Sub.Imm(asm.R8, t.rings))
}

// templateKey makes the key of the template on the stack, and its hash and home slot.
func (p *program) templateKey(t entries) {
	const service = asm.R6
	p.emit(
		asm.LoadMem(addrs, asm.RFP, stackKey, asm.DWord),
		asm.LoadMem(asm.R0, service, preselect.OffKeep, asm.DWord),
		asm.And.Reg(addrs, asm.R0),
		asm.LoadMem(ports, asm.RFP, stackKey+8, asm.DWord),
		asm.LoadMem(asm.R0, service, preselect.OffKeep+8, asm.DWord),
		asm.And.Reg(ports, asm.R0),
		asm.StoreMem(asm.RFP, stackTemplate, addrs, asm.DWord),
		asm.StoreMem(asm.RFP, stackTemplate+8, ports, asm.DWord),
		asm.Mov.Imm(asm.R0, 0),
	)
	for _, w := range words6 {
		if p.six {
			p.emit(
				asm.LoadMem(asm.R0, data, p.atIP()+w.off, asm.DWord),
				asm.LoadMem(asm.R1, service, preselect.OffKeep+8*w.word, asm.DWord),
				asm.And.Reg(asm.R0, asm.R1),
			)
		}
		p.emit(asm.StoreMem(asm.RFP, stackTemplate+8*w.word, asm.R0, asm.DWord))
	}
	seed := p.Templates.Seed
	if p.six {
		p.emit(asm.Mov.Imm(asm.R2, 0))
		half := func(word int16, seed uint64) {
			p.emit(
				asm.LoadMem(asm.R0, asm.RFP, stackTemplate+8*word, asm.Word),
				asm.Add.Imm32(asm.R0, int32(uint32(seed))),
				asm.LoadMem(asm.R1, asm.RFP, stackTemplate+8*word+4, asm.Word),
				asm.Add.Imm32(asm.R1, int32(seed>>32)),
				asm.Mul.Reg(asm.R0, asm.R1),
				asm.Add.Reg(asm.R2, asm.R0),
			)
		}
		half(0, seed[5])
		for _, w := range words6 {
			half(w.word, seed[w.word])
		}
	} else {
		p.emit(asm.Mov.Reg(asm.R2, addrs))
	}
	p.mix(seed)
	p.emit(asm.StoreMem(asm.RFP, stackHash, asm.R2, asm.DWord))
	p.home(t.homes)
	p.emit(asm.StoreMem(asm.RFP, t.stack+entryHome, asm.R2, asm.DWord))
}

// findTemplate goes to templated with the slot in R0 and its word in R1, or to
// newcomer. It is find for a key on the stack: home slot, the one beside it, the chain.
func (p *program) findTemplate(t entries) {
	const scratch = asm.R8
	for i := range 2 + chain {
		next := p.here(fmt.Sprint("held", i+1))
		switch i {
		case 0, 2:
			p.emit(asm.Mov.Reg(asm.R1, asm.R2))
			p.entryAt(t, 0)
		case 1:
			p.emit(
				asm.Mov.Reg(asm.R1, asm.R2),
				asm.Xor.Imm(asm.R1, 1),
				asm.JGE.Imm(asm.R1, int32(t.homes), p.here("ask")), // never: for the verifier
			)
			p.entryAt(t, 0)
		}
		if i >= 2 {
			p.emit(
				asm.LoadMem(asm.R1, asm.R0, shtab.OffNext, asm.Word),
				asm.JEq.Imm(asm.R1, 0, p.here("newcomer")),
				asm.JGT.Imm(asm.R1, int32(t.slots), p.here("ask")),
			)
			p.entryAt(t, -1)
		}
		p.emit(
			asm.LoadMem(asm.R1, asm.R0, shtab.OffWord, asm.DWord),
			asm.LoadMem(asm.R5, asm.R0, shtab.OffKey, asm.DWord), asm.JNE.Reg(asm.R5, addrs, next),
			asm.LoadMem(asm.R5, asm.R0, shtab.OffKey+8, asm.DWord), asm.JNE.Reg(asm.R5, ports, next),
		)
		if p.six {
			for _, w := range words6 {
				p.emit(
					asm.LoadMem(asm.R5, asm.R0, shtab.OffKey+8*w.word, asm.DWord),
					asm.LoadMem(scratch, asm.RFP, stackTemplate+8*w.word, asm.DWord),
					asm.JNE.Reg(asm.R5, scratch, next),
				)
			}
		}
		p.emit(asm.JSLT.Imm(asm.R1, 0, p.here("templated")))
		p.symbol = next
	}
	p.emit(asm.Ja.Label(p.here("ask"))) // a longer chain is Go's
}
