package program

import (
	"fmt"
	"math/bits"

	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/preselect"
	"github.com/ulvs/ulvs/internal/shtab"
)

// opener opens connections.
type opener struct{ forwarder }

// openConn opens a connection, by the director's picks (internal/preselect), and has
// the packet go on as one of it. R0 is the claim in which the service's number is. What
// is not clear is Go's, which does the same in package forward's schedule.go.
func (o *opener) openConn() {
	conns, templates := o.connTable(), o.templateTable()
	o.checkService()
	o.leaveBehind()
	o.mark("source")
	o.checkSource()
	comparer{o}.compareByCounts(templates)
	o.readTime()
	o.findRings()
	o.findRoom(conns, o.label("go"), o.label("go"))
	o.findFreeSlot(conns)
	o.chooseServer(templates)
	o.sendOnce()
	o.insertTemplate(templates)
	o.insertConn(conns)
	o.emit(asm.Mov.Reg(slot, asm.R5), asm.Ja.Label(o.label("stays")))
	o.tellTemplate(templates)
}

// sendOnce sends a UDP packet of a service that schedules each for itself. It has no connection;
// what the way out writes into its slot goes into the head of this CPU's rings.
//
// in: dest data; out: -; lost: R1 R2
func (o *opener) sendOnce() {
	defer o.step("sendOnce", "a packet that is a connection by itself")()
	o.emit(restore(asm.R1, stackBy))
	o.unlessBy(preselect.OnePacket, "lasts")
	o.emit(
		asm.LoadMem(asm.R1, data, o.atProto(), asm.Byte),
		asm.JNE.Imm(asm.R1, ProtoUDP, o.label("lasts")),
		asm.Mov.Reg(asm.R2, dest),
	)
	o.element(asm.R1, o.ConnCounts, asm.R2, 3, 8*accel.Counted)
	o.emit(
		asm.Mov.Imm(asm.R2, 1),
		asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),
		asm.Ja.Label(o.label("stays")),
	)
	o.mark("lasts")
}

// checkService finds the service, R6, and whether it and the packet are such as the program
// deals with. TCP's flags are kept, or the chunk of SCTP.
//
// in: R0 end; out: service data total; lost: R0 R1 R2 R3 R4 R5 end
func (o *opener) checkService() {
	defer o.step("checkService", "may connections of the service be opened, and does this packet open one?")()
	no := o.label("go")
	o.emit(
		asm.Mov.Reg32(asm.R1, end),
		asm.RSh.Imm(end, 32),
		asm.JLT.Imm(asm.R1, preselect.Services, o.label("numbered")),
		passIf(asm.JEq, asm.R1, dataplane.Elsewhere),
	)
	follower{o}.followList()
	o.mark("numbered")
	o.emit(
		asm.Mul.Imm(asm.R1, preselect.Stride),
		asm.LoadMapValue(service, o.Services, 0),
		asm.Add.Reg(service, asm.R1),
		// The number may be another service's before all is read: the version is to be the same then.
		asm.LoadMem(asm.R1, service, preselect.OffVersion, asm.Word),
		save(stackVersion, asm.R1),
	)
	o.readFirst(asm.R1, asm.R2)
	o.emit(
		asm.LoadMem(asm.R1, service, preselect.OffBy, asm.Word),
		o.leaveIf(asm.JEq, asm.R1, 0),
		// The claims come later than the services.
		asm.LoadMem(asm.R1, service, preselect.OffSerial, asm.Word),
		asm.JNE.Reg(asm.R1, end, no),
	)
	o.setting(asm.R1, SettingsOpening)
	o.emit(
		asm.And.Imm(asm.R1, int32(OpeningBit(o.six))),
		o.leaveIf(asm.JEq, asm.R1, 0),
	)
	at := o.atPorts()
	const ftpData, synRst, syn, rst = 20, 0x06, 0x02, 0x04
	o.emit(
		asm.LoadMem(asm.R1, data, at, asm.Half),
		o.leaveIf(asm.JEq, asm.R1, int32(bits.ReverseBytes16(ftpData))),
		asm.LoadMem(asm.R1, data, at+2, asm.Half),
		o.leaveIf(asm.JEq, asm.R1, 0), // a claim of every port has that too
		save(stackFirst, asm.R1),      // UDP has nothing to be kept
		asm.LoadMem(asm.R1, data, o.atProto(), asm.Byte),
		asm.JEq.Imm(asm.R1, ProtoTCP, o.label("segment")),
		asm.JEq.Imm(asm.R1, ProtoSCTP, o.label("association")),
		// First for the verifier: what is kept may be more, and less is known of the packet.
		asm.Ja.Label(o.labelBehind()),
	)
	o.mark("segment")
	o.emit(
		restore(asm.R1, stackContext),
	)
	o.readEnd(end, asm.R1)
	o.emit(
		asm.Mov.Reg(asm.R1, data),
		asm.Add.Imm(asm.R1, int32(at)+20),
		asm.JGT.Reg(asm.R1, end, no),
		asm.LoadMem(asm.R1, data, at+13, asm.Byte),
		save(stackFirst, asm.R1),
		asm.And.Imm(asm.R1, synRst),
		asm.JEq.Imm(asm.R1, syn, o.label("source")),
		asm.And.Imm(asm.R1, rst),
		o.leaveIf(asm.JNE, asm.R1, 0),
	)
	sloppy := func(bit int32) {
		o.setting(asm.R1, SettingsOpening)
		o.emit(
			asm.And.Imm(asm.R1, bit),
			o.leaveIf(asm.JEq, asm.R1, 0),
		)
	}
	sloppy(SloppyTCP)
	o.emit(asm.Ja.Label(o.labelBehind()))
	o.mark("association")
	o.readChunk("opening", no)
	o.emit(
		save(stackFirst, asm.R0),
		asm.LoadMem(asm.R1, data, at+12, asm.Byte),
		asm.JEq.Imm(asm.R1, conn.ChunkInit, o.label("source")),
		o.leaveIf(asm.JEq, asm.R1, conn.ChunkAbort),
	)
	sloppy(SloppySCTP)
}

// checkSource leaves to Go what comes from an address that no packet from the wire has, or
// that may be one of the host's own (the director's martian).
//
// in: data; out: -; lost: R1 R2 R3
func (o *opener) checkSource() {
	defer o.step("checkSource", "not from an address that may be the host's own")()
	atIP, locals := o.atIP(), uint32(SettingsLocals)
	if o.six {
		locals += LocalsSize
		o.emit(
			asm.LoadMem(asm.R1, data, atIP+8, asm.DWord),
			o.leaveIf(asm.JEq, asm.R1, 0), // ::1
			asm.And.Imm(asm.R1, 0xff),
			o.leaveIf(asm.JEq, asm.R1, 0xff),
			asm.LoadMem(asm.R1, data, atIP+8, asm.Word),
		)
		for off := int16(12); off < 24; off += 4 {
			o.emit(asm.LoadMem(asm.R2, data, atIP+off, asm.Word), asm.Xor.Reg(asm.R1, asm.R2))
		}
	} else {
		o.emit(
			asm.LoadMem(asm.R1, data, atIP+12, asm.Byte),
			o.leaveIf(asm.JEq, asm.R1, 0),
			o.leaveIf(asm.JEq, asm.R1, 127),
			o.leaveIf(asm.JGE, asm.R1, 224),
			asm.LoadMem(asm.R1, data, atIP+12, asm.Word),
		)
	}
	factor := uint32(dataplane.LocalFactor)
	o.emit(
		asm.Mul.Imm32(asm.R1, int32(factor)),
		asm.RSh.Imm32(asm.R1, dataplane.LocalShift),
		asm.Mov.Reg(asm.R2, asm.R1),
		asm.RSh.Imm(asm.R2, 5),
		asm.LSh.Imm(asm.R2, 2),
		asm.LoadMapValue(asm.R3, o.Settings, locals),
		asm.Add.Reg(asm.R3, asm.R2),
		asm.LoadMem(asm.R2, asm.R3, 0, asm.Word),
		asm.And.Imm(asm.R1, 31),
		asm.RSh.Reg(asm.R2, asm.R1),
		asm.And.Imm(asm.R2, 1),
		o.leaveIf(asm.JNE, asm.R2, 0),
	)
}

// chooseByTemplate finds the client's template, and restarts its time. If it has none, there
// is a place for one, unless Go is to make it.
//
// in: service data total; out: dest rings; lost: R0 R1 R2 R3 R4 R5
func (o *opener) chooseByTemplate(t entries) {
	defer o.step("chooseByTemplate", "the real server of the client's template")()
	o.makeTemplateKey(t)
	o.lookupTemplate(t, "templated", "newcomer")
	o.mark("templated")
	o.emit(
		// By another service's form it may be another service's.
		asm.LoadMem(asm.R2, service, preselect.OffVersion, asm.Word),
		restore(asm.R5, stackVersion),
		asm.JNE.Reg(asm.R2, asm.R5, o.label("go")),
		asm.Mov.Reg(dest, asm.R1),
		asm.And.Imm(dest, conn.DestMask),
	)
	if o.namesTemplates() {
		o.emit(
			asm.Mov.Reg(asm.R1, asm.R0),
			asm.LoadMapValue(asm.R2, o.TemplateTable, shtab.HeaderSize-shtab.SlotSize),
			asm.Sub.Reg(asm.R1, asm.R2),
			asm.RSh.Imm(asm.R1, slotShift),
			save(stackControl, asm.R1),
		)
	}
	o.checkReachable(dest, o.label("go"))
	o.emit(
		asm.LoadMem(asm.R1, asm.R5, ServerQuiescent, asm.Word),
		o.leaveIf(asm.JNE, asm.R1, 0),
		restore(asm.R1, stackTick),
		asm.StoreMem(asm.R0, shtab.OffStamp, asm.R1, asm.Word),
		restore(asm.R8, stackRings),
		asm.Ja.Label(o.label("insert")),
	)
	o.mark("newcomer")
	o.emit(
		restore(asm.R8, stackRings),
	)
	o.setting(asm.R1, SettingsTemplates)
	o.emit(
		o.leaveIf(asm.JEq, asm.R1, 0),
		asm.Mov.Imm(asm.R1, 1),
		save(stackNew, asm.R1),
		asm.Add.Imm(asm.R8, t.rings),
	)
	o.findCompletion(t, o.label("go"))
	o.findFreeSlot(t)
	o.emit(asm.Sub.Imm(asm.R8, t.rings))
}

// makeTemplateKey makes the key of the template on the stack, and its hash and home slot.
//
// in: service data; out: R2 addrs ports; lost: R0 R1
func (o *opener) makeTemplateKey(t entries) {
	defer o.step("makeTemplateKey", "the key of the client's template")()
	o.emit(
		restore(addrs, stackKey),
		asm.LoadMem(asm.R0, service, preselect.OffKeep, asm.DWord),
		asm.And.Reg(addrs, asm.R0),
	)
	put := int16(preselect.PutWord(o.six))
	if put == 0 {
		o.emit(
			asm.LoadMem(asm.R0, service, preselect.OffPut, asm.DWord),
			asm.Or.Reg(addrs, asm.R0),
		)
	}
	o.emit(
		restore(ports, stackKey+8),
		asm.LoadMem(asm.R0, service, preselect.OffKeep+8, asm.DWord),
		asm.And.Reg(ports, asm.R0),
		save(stackTemplate, addrs),
		save(stackTemplate+8, ports),
	)
	seed := o.Templates.Seed
	if o.six {
		for _, w := range words6 {
			o.emit(
				asm.LoadMem(asm.R0, data, o.atIP()+w.off, asm.DWord),
				asm.LoadMem(asm.R1, service, preselect.OffKeep+8*w.word, asm.DWord),
				asm.And.Reg(asm.R0, asm.R1),
			)
			if w.word == put {
				o.emit(
					asm.LoadMem(asm.R1, service, preselect.OffPut, asm.DWord),
					asm.Or.Reg(asm.R0, asm.R1),
				)
			}
			o.emit(save(stackTemplate+8*w.word, asm.R0))
		}
		o.emit(asm.Mov.Imm(asm.R2, 0))
		half := func(word int16, seed uint64) {
			o.emit(
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
		o.emit(asm.Mov.Reg(asm.R2, addrs))
	}
	o.mixSum(seed)
	o.emit(save(stackHash, asm.R2))
	o.homeSlot(t.homes)
	o.emit(save(t.stack+entryHome, asm.R2))
}

// lookupTemplate goes to found with the slot in R0 and its word in R1, or to none. It is find for a
// key on the stack: home slot, the one beside it, the chain.
//
// in: R2 addrs ports; out: R0 R1; lost: R5 R8
func (o *opener) lookupTemplate(t entries, found, none string) {
	defer o.step("lookupTemplate", "the template: home slot, the one beside it, the chain")()
	const scratch = asm.R8
	for i := range 2 + MaxChain {
		next := o.label(fmt.Sprint(found, "-", i+1))
		switch i {
		case 0, 2:
			o.emit(asm.Mov.Reg(asm.R1, asm.R2))
			o.entryAddress(t, 0)
		case 1:
			o.emit(
				asm.Mov.Reg(asm.R1, asm.R2),
				asm.Xor.Imm(asm.R1, 1),
				o.leaveIf(asm.JGE, asm.R1, int32(t.homes)), // never: for the verifier
			)
			o.entryAddress(t, 0)
		}
		if i >= 2 {
			o.emit(
				asm.LoadMem(asm.R1, asm.R0, shtab.OffNext, asm.Word),
				asm.JEq.Imm(asm.R1, 0, o.label(none)),
				o.leaveIf(asm.JGT, asm.R1, int32(t.slots)),
			)
			o.entryAddress(t, -1)
		}
		o.emit(
			asm.LoadMem(asm.R1, asm.R0, shtab.OffWord, asm.DWord),
			asm.LoadMem(asm.R5, asm.R0, shtab.OffKey, asm.DWord), asm.JNE.Reg(asm.R5, addrs, next),
			asm.LoadMem(asm.R5, asm.R0, shtab.OffKey+8, asm.DWord), asm.JNE.Reg(asm.R5, ports, next),
		)
		if o.six {
			for _, w := range words6 {
				o.emit(
					asm.LoadMem(asm.R5, asm.R0, shtab.OffKey+8*w.word, asm.DWord),
					restore(scratch, stackTemplate+8*w.word),
					asm.JNE.Reg(asm.R5, scratch, next),
				)
			}
		}
		o.emit(asm.JSLT.Imm(asm.R1, 0, o.label(found)))
		o.symbol = next
	}
	o.emit(asm.Ja.Label(o.label("go"))) // a longer chain is Go's
}
