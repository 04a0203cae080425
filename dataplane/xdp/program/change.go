package program

import (
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/shtab"
)

// changer changes the states of connections that there are.
type changer struct{ *opener }

// changeState changes the state of a connection by the tables of TCP or SCTP, whose state word is in
// R1, and tells that in the completion ring (conn's changed.go says by what rules). What is not to
// be changed here goes to unchanged, or is Go's.
//
// in: R1 dest data total slot; out: slot; lost: R0 R1 R2 R3 R4 R5
func (o changer) changeState() {
	defer o.step("changeState", "the connection's next state, told in the completion ring")()
	o.mark("change")
	o.emit(save(stackWas, asm.R1), save(stackSlot, slot))
	o.setting(asm.R2, SettingsChanging)
	o.emit(asm.JEq.Imm(asm.R2, 0, o.label("unchanged")))
	o.nextState()
	o.nextSCTP()
	o.mark("moved")
	o.checkSendable()
	o.readTime()
	o.emit(
		restore(entry, stackSlot),
		// Before the swap: Go may set the timer from there as soon as it sees that.
		asm.StoreMem(entry, shtab.OffStamp, asm.R0, asm.Word),
	)
	o.decideToTell()
	conns := o.connTable()
	o.findRings()
	o.readCourse(conns)
	o.findRoom(conns, o.label("full"), o.label("awake"))
	o.swapState("left-told")
	o.emit(
		asm.Mov.Reg(asm.R2, entry),
		asm.LoadMapValue(asm.R1, o.Conns, shtab.HeaderSize),
		asm.Sub.Reg(asm.R2, asm.R1),
		asm.RSh.Imm(asm.R2, slotShift),
		asm.Add.Imm32(asm.R2, 1-1<<31), // shtab.ChangedCell
	)
	o.completeCell(conns)
	o.countAnswer("answered-told", func() {})
	if o.namesTemplates() {
		o.tellAssured(o.templateTable())
	}
	o.mark("quiet")
	o.swapState("left")
	o.countAnswer("answered", o.findRings)
	o.mark("full")
	o.emit(restore(slot, stackSlot), asm.Ja.Label(o.label("unchanged")))
	o.mark("awake") // what comes behind it is not to overtake it
	o.emit(restore(slot, stackSlot), asm.Ja.Label(o.labelCrosses(o.label("go"))))
}

// checkSendable leaves to Go what cannot be sent to dest, before anything is done about it: of what a host has
// made or merged the segments count.
//
// in: dest data total; out: -; lost: R0 R1 R3 R4 R5
func (o changer) checkSendable() {
	defer o.step("checkSendable", "can the real server be reached?")()
	if o.Hook != TC {
		o.checkReachable(dest, o.labelCrosses(o.label("go")))
		return
	}
	o.emit(asm.Mov.Reg(asm.R4, dest))
	o.element(asm.R5, o.Servers, asm.R4, ServerShift, 0)
	o.emit(asm.LoadMem(asm.R1, asm.R5, ServerMTU, asm.Word))
	o.checkSegments("changes-")
}

// readCourse keeps what decides which packets keep the daemon awake: one of many, by the ports, which
// are as good as any number.
//
// in: -; out: entry; lost: R1
func (o changer) readCourse(conns entries) {
	defer o.step("readCourse", "which packets keep the daemon awake")()
	o.emit(
		restore(entry, stackSlot),
		asm.LoadMem(asm.R1, entry, shtab.OffKey+8, asm.DWord),
		asm.RSh.Imm(asm.R1, 8),
		save(conns.stack+entryHome, asm.R1),
	)
}

// tellAssured changes the state, and tells of the template, which the connection names, in the
// templates' ring.
//
// in: dest; out: slot; lost: R0 R1 R2 R3 R4 R5
func (o changer) tellAssured(t entries) {
	defer o.step("tellAssured", "the state, and that its template is ASSURED")()
	o.mark("assures")
	o.findRings()
	o.emit(asm.Add.Imm(asm.R8, t.rings))
	o.findCompletion(t, o.label("full"))
	o.swapState("left-assured")
	o.emit(
		restore(asm.R2, stackControl), // not the word's now: the connection may have ended
		asm.Add.Imm32(asm.R2, -1<<31), // shtab.ChangedCell
	)
	o.completeCell(t)
	o.emit(asm.Sub.Imm(asm.R8, t.rings))
	o.countAnswer("answered-assured", func() {})
}

// decideToTell goes to quiet where Go need not be told, and to assures where that is only that the
// connection's template becomes ASSURED.
//
// in: data; out: -; lost: R1 R2 R3 R4 entry
func (o changer) decideToTell() {
	defer o.step("decideToTell", "has Go to know of it soon?")()
	o.emit(
		restore(asm.R1, stackWas),
		asm.JSet.Imm32(asm.R1, conn.ToldFlag|conn.PendingFlag, o.label("quiet")), // it will
		restore(asm.R2, stackIs),
		asm.And.Imm(asm.R1, conn.HalfOpenFlag),
		asm.JEq.Imm(asm.R1, 0, o.label("tell")),
		asm.Mov.Reg(asm.R3, asm.R2),
		asm.And.Imm(asm.R3, conn.StateMask),
		asm.LoadMem(asm.R4, data, o.atProto(), asm.Byte),
		asm.JNE.Imm(asm.R4, ProtoSCTP, o.label("untold")),
		asm.Add.Imm(asm.R3, conn.UntoldSCTP),
	)
	o.mark("untold")
	o.setting(asm.R4, SettingsUntold)
	o.emit(
		asm.RSh.Reg(asm.R4, asm.R3),
		asm.And.Imm(asm.R4, 1),
		asm.JEq.Imm(asm.R4, 0, o.label("tell")),
		// A template that becomes ASSURED.
		restore(asm.R1, stackWas),
		asm.Xor.Reg(asm.R1, asm.R2),
		asm.And.Imm(asm.R1, conn.EstablishedFlag),
		asm.JEq.Imm(asm.R1, 0, o.label("quiet")),
	)
	if o.namesTemplates() {
		o.emit(
			restore(entry, stackSlot),
			asm.LoadMem(asm.R3, entry, shtab.OffWord, asm.DWord),
			asm.RSh.Imm(asm.R3, conn.TemplateShift),
			asm.And.Imm(asm.R3, conn.MaxNamed),
			asm.JEq.Imm(asm.R3, 0, o.label("quiet")),
			save(stackControl, asm.R3),
			asm.Ja.Label(o.label("assures")),
		)
	}
	o.mark("tell")
	o.emit(
		asm.Or.Imm(asm.R2, conn.ToldFlag),
		save(stackIs, asm.R2),
	)
}

// countAnswer counts that a connection which was half-open to Go was established, in the CPU's
// rings, which find finds, and goes on as its state stays.
//
// in: rings; out: slot; lost: R0 R1 R2 R3 R4 R5
func (o changer) countAnswer(no string, find func()) {
	defer o.step("countAnswer", "was it half-open to Go, and is it not?")()
	o.emit(
		restore(asm.R1, stackWas),
		restore(asm.R2, stackIs),
		asm.Xor.Reg(asm.R2, asm.R1),
		asm.And.Imm(asm.R2, conn.EstablishedFlag),
		asm.JEq.Imm(asm.R2, 0, o.label(no)),
		asm.And.Imm(asm.R1, conn.HalfOpenFlag),
		asm.JEq.Imm(asm.R1, 0, o.label(no)),
	)
	find()
	o.emit(
		asm.LoadMem(asm.R1, asm.R8, shtab.OffAnswered, asm.Word),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R8, shtab.OffAnswered, asm.R1, asm.Word),
	)
	o.mark(no)
	o.emit(restore(slot, stackSlot), asm.Ja.Label(o.label("stays")))
}

// swapState puts the next state in the place of the one before, and counts the connection as
// that has it, or goes to full.
//
// in: dest; out: entry; lost: R0 R1 R2
func (o changer) swapState(counted string) {
	defer o.step("swapState", "if nobody else has changed it")()
	o.emit(
		restore(entry, stackSlot),
		restore(asm.R0, stackWas),
		restore(asm.R1, stackIs),
		compareAndSwap(entry, shtab.OffState, asm.R1, asm.Word),
		restore(asm.R1, stackWas),
		asm.JNE.Reg(asm.R0, asm.R1, o.label("full")),
		restore(asm.R2, stackIs),
		asm.Xor.Reg(asm.R1, asm.R2),
		asm.And.Imm(asm.R1, conn.ActiveFlag),
		asm.JEq.Imm(asm.R1, 0, o.label(counted)),
	)
	o.moveConn()
	o.mark(counted)
}

// moveConn counts a connection of dest's in the other column: in that which the state word in R2 says.
//
// in: R2 dest; out: -; lost: R0 R1 R2
func (o changer) moveConn() {
	defer o.step("moveConn", "the real server's other column")()
	o.emit(
		asm.And.Imm(asm.R2, conn.ActiveFlag),
		asm.RSh.Imm(asm.R2, activeShift-1),
		asm.Sub.Imm(asm.R2, 1), // 1 or -1
		asm.LoadImm(asm.R0, accel.ActiveConn-accel.InactiveConn, asm.DWord),
		asm.Mul.Reg(asm.R2, asm.R0),
		asm.Mov.Reg(asm.R0, dest),
	)
	o.element(asm.R1, o.ConnCounts, asm.R0, 3, 0)
	o.emit(asm.StoreXAdd(asm.R1, asm.R2, asm.DWord))
}

// countConn adds to what is counted of dest's connections.
//
// in: dest; out: -; lost: R1 R2
func (o *opener) countConn(n int64) {
	defer o.step("countConn", "the real server's connections")()
	o.emit(asm.Mov.Reg(asm.R2, dest))
	o.element(asm.R1, o.ConnCounts, asm.R2, 3, 0)
	o.emit(
		asm.LoadImm(asm.R2, n, asm.DWord),
		asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),
	)
}

// nextState keeps the state word that the packet leads to from the one in R1. One of SCTP goes to
// sctp, and what is neither, or has SYN, to unchanged.
//
// in: R1 data; out: -; lost: R0 R1 R2 R3
func (o changer) nextState() {
	defer o.step("nextState", "which one that is")()
	const fin, syn, rst, ack = 1, 2, 4, 16
	at := o.atPorts()
	no := o.label("unchanged")
	next := conn.NextStates()
	row := func(flag int32, row uint64, name string) {
		o.emit(
			asm.LoadImm(asm.R2, int64(row), asm.DWord),
			asm.JSet.Imm(asm.R0, flag, o.label(name)),
		)
	}
	o.emit(
		asm.LoadMem(asm.R0, data, o.atProto(), asm.Byte),
		asm.JEq.Imm(asm.R0, ProtoSCTP, o.label("chunk")),
	)
	o.readBehind(13, o.label("flags"), no)
	o.emit(
		asm.JNE.Imm(asm.R0, ProtoTCP, no),
		restore(asm.R2, stackContext),
	)
	o.readEnd(asm.R3, asm.R2)
	o.emit(
		asm.Mov.Reg(asm.R2, data),
		asm.Add.Imm(asm.R2, int32(at)+20),
		asm.JGT.Reg(asm.R2, asm.R3, no), // never: for the verifier
		asm.LoadMem(asm.R0, data, at+13, asm.Byte),
	)
	o.mark("flags")
	o.emit(asm.JSet.Imm(asm.R0, syn, no))
	row(rst, next.OnRST, "row")
	row(fin, next.OnFIN, "row")
	row(ack, next.OnACK, "row")
	o.emit(asm.LoadImm(asm.R2, int64(next.OnNone), asm.DWord))
	o.mark("row")
	o.nextWord(conn.TCPMeaning)
	o.emit(asm.Ja.Label(o.label("moved")))
}

// nextWord keeps the state word, of the one in R1, with the state that the row in R2 has for its own,
// and what that means.
//
// in: R1 R2; out: R1; lost: R0 R2
func (o changer) nextWord(meaning int64) {
	defer o.step("nextWord", "the state word with that")()
	o.emit(
		asm.Mov.Reg(asm.R0, asm.R1),
		asm.And.Imm(asm.R0, conn.StateMask),
		asm.LSh.Imm(asm.R0, 2),
		asm.RSh.Reg(asm.R2, asm.R0),
		asm.And.Imm(asm.R2, conn.StateMask),
		asm.And.Imm32(asm.R1, ^(conn.StateMask|conn.ActiveFlag)),
		asm.Or.Reg(asm.R1, asm.R2),
		asm.Or.Imm(asm.R1, conn.ChangedFlag),
		asm.LoadImm(asm.R0, meaning, asm.DWord),
		asm.RSh.Reg(asm.R0, asm.R2),
		asm.Mov.Reg(asm.R2, asm.R0),
		asm.And.Imm(asm.R0, 1<<conn.StateActive),
		asm.LSh.Imm(asm.R0, activeShift-conn.StateActive),
		asm.Or.Reg(asm.R1, asm.R0),
		asm.And.Imm(asm.R2, 1<<conn.StateEstablished),
		asm.RSh.Imm(asm.R2, conn.StateEstablished-establishedShift),
		asm.Or.Reg(asm.R1, asm.R2),
		save(stackIs, asm.R1),
	)
}

// Which bits conn's flags are.
const (
	activeShift      = 8
	establishedShift = 7
)

var (
	_ = [1]struct{}{}[conn.ActiveFlag-1<<activeShift]
	_ = [1]struct{}{}[conn.EstablishedFlag-1<<establishedShift]
)
