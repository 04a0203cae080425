package program

import (
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/conn"
)

// nextSCTP is nextState for SCTP. INIT goes to unchanged, and what leaves the state as it is to stays.
//
// in: R1 data total; out: -; lost: R0 R1 R2 R3 R4
func (o changer) nextSCTP() {
	defer o.step("nextSCTP", "which one that is, by the first chunk or an ABORT behind it")()
	o.mark("chunk")
	o.readChunk("changing", o.label("unchanged"))
	o.emit(asm.JEq.Imm(asm.R0, conn.ChunkInit, o.label("unchanged")))
	for chunk := uint8(conn.SCTPChunks - 1); chunk > conn.ChunkInit; chunk-- {
		if row := conn.SCTPNext(chunk); row != conn.SCTPNext(0) {
			o.emit(
				asm.LoadImm(asm.R2, int64(row), asm.DWord),
				asm.JEq.Imm(asm.R0, int32(chunk), o.label("event")),
			)
		}
	}
	o.emit(asm.LoadImm(asm.R2, int64(conn.SCTPNext(0)), asm.DWord))
	o.mark("event")
	o.nextWord(conn.SCTPMeaning)
	o.emit(
		restore(asm.R0, stackWas),
		asm.Xor.Reg(asm.R0, asm.R1),
		asm.And.Imm(asm.R0, conn.StateMask),
		asm.JEq.Imm(asm.R0, 0, o.label("stays")),
	)
}

// readChunk reads the type of the packet's first chunk of SCTP, R0, or ABORT's, if that is behind
// COOKIE ECHO or COOKIE ACK (ip_vs_proto_sctp.c, set_sctp_state).
//
// in: data total; out: R0; lost: R2 R3 R4
func (p *parser) readChunk(name, no string) {
	defer p.step("readChunk", "the first chunk, or an ABORT behind a cookie")()
	at, header := int32(p.atPorts()), int32(p.atPorts()-p.atIP())
	first := p.label("first-" + name)
	p.emit(
		restore(asm.R2, stackContext),
	)
	p.readEnd(asm.R3, asm.R2)
	p.emit(
		asm.Mov.Reg(asm.R2, data),
		asm.Add.Imm(asm.R2, at+16),
		asm.JGT.Reg(asm.R2, asm.R3, no), // never: for the verifier
		asm.LoadMem(asm.R0, data, int16(at)+12, asm.Byte),
		asm.Mov.Reg(asm.R2, asm.R0),
		asm.Or.Imm(asm.R2, conn.ChunkCookieEcho^conn.ChunkCookieAck),
		asm.JNE.Imm(asm.R2, conn.ChunkCookieAck, first),
		asm.LoadMem(asm.R2, data, int16(at)+14, asm.Half),
		asm.HostTo(asm.BE, asm.R2, asm.Half),
		asm.JLT.Imm(asm.R2, 4, first),
		asm.Add.Imm(asm.R2, 3),
		asm.And.Imm(asm.R2, 0x1fffc),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, header+16),
		asm.JGT.Reg(asm.R4, total, first),
		asm.JGT.Imm(asm.R2, 0x7fff, no), // no frame is as long: for the verifier
		asm.Add.Reg(asm.R2, data),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, at+16),
		asm.JGT.Reg(asm.R4, asm.R3, no), // never: for the verifier
		asm.LoadMem(asm.R2, asm.R2, int16(at)+12, asm.Byte),
		asm.JNE.Imm(asm.R2, conn.ChunkAbort, first),
		asm.Mov.Imm(asm.R0, conn.ChunkAbort),
	)
	p.symbol = first
}
