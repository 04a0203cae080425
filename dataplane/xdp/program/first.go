package program

import (
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/accel"
)

// firstState finds the state word, R0, of a connection that has had its first packet, and counts the
// connection for dest.
//
// in: dest data; out: R0; lost: R1 R2
func (o *opener) firstState() {
	defer o.step("firstState", "the state that the first packet leads to")()
	const fin, syn, ack = 1, 2, 16
	o.emit(
		asm.LoadMem(asm.R1, data, o.atProto(), asm.Byte),
		asm.Mov.Imm(asm.R0, conn.OpenedUDP),
		asm.JEq.Imm(asm.R1, ProtoUDP, o.label("inactive")),
		restore(asm.R2, stackFirst),
		asm.JEq.Imm(asm.R1, ProtoSCTP, o.label("first-chunk")),
		asm.Mov.Imm(asm.R0, conn.OpenedTCP),
		asm.Mov.Reg(asm.R1, asm.R2),
		asm.And.Imm(asm.R1, syn),
		asm.JNE.Imm(asm.R1, 0, o.label("active")),
		asm.Mov.Imm(asm.R0, conn.EstablishedTCP),
		asm.And.Imm(asm.R2, fin|ack),
		asm.JEq.Imm(asm.R2, ack, o.label("active")),
		asm.Mov.Imm(asm.R0, conn.ClosedTCP),
		asm.Ja.Label(o.label("inactive")),
	)
	o.mark("first-chunk")
	o.emit(
		asm.JLT.Imm(asm.R2, conn.SCTPChunks, o.label("first-state")),
		asm.Mov.Imm(asm.R2, 0), // as DATA
	)
	o.mark("first-state")
	o.emit(
		asm.LSh.Imm(asm.R2, 2),
		asm.LoadImm(asm.R0, int64(conn.SCTPFirst()), asm.DWord),
		asm.RSh.Reg(asm.R0, asm.R2),
		asm.And.Imm(asm.R0, conn.StateMask),
		asm.Or.Imm(asm.R0, conn.PendingFlag),
		asm.JNE.Imm(asm.R0, conn.EstablishedSCTP&conn.StateMask|conn.PendingFlag, o.label("inactive")),
		asm.Mov.Imm(asm.R0, conn.EstablishedSCTP),
	)
	o.mark("active")
	o.countConn(accel.ActiveConn)
	o.emit(asm.Ja.Label(o.label("state")))
	o.mark("inactive")
	o.countConn(accel.InactiveConn)
	o.mark("state")
}
