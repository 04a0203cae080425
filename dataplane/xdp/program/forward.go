package program

import (
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/shtab"
)

// forwarder sends a packet of a connection on.
type forwarder struct{ finder }

// TakeServer takes the number of the real server out of the slot's word.
//
// in: word; out: dest; lost: -
func (f *forwarder) TakeServer() {
	defer f.step("TakeServer", "the number of the real server")()
	f.mark("found")
	f.emit(
		asm.And.Imm(dest, conn.DestMask),
		asm.JGE.Imm(dest, int32(f.ServersPerCPU), f.labelGo()),
	)
}

// checkState passes what is not for a real server of direct routing, what is a
// connection's first packet, and one of other timeouts than the present (it gets those from
// Go). What moves it to another state goes to changeState, or is passed too (conn.Table.TCP,
// enter).
//
// in: kept word slot; out: dest R1; lost: R0 R2 R3 R4 R5
func (f *forwarder) checkState() {
	defer f.step("checkState", "does the packet leave the connection in its state?")()
	f.TakeServer()
	f.emit(
		asm.LoadMem(asm.R1, slot, shtab.OffState, asm.Word),
	)
	f.setting(asm.R2, SettingsExpected)
	f.emit(
		asm.Xor.Reg(asm.R2, asm.R1),
		asm.JSet.Imm32(asm.R2, -1<<conn.GenShift|7<<(conn.OwnerShift+1)|conn.SetFlag, f.labelUnexpected()), // the owner's other three bits are the forwarding method
	)
	f.mark("expected")
	f.emit(
		asm.RSh.Reg(kept, asm.R1), // by the lowest six bits, which are the state
		asm.JSet.Imm(kept, 1, f.label("stays")),
	)
	if f.opens() {
		f.emit(asm.Ja.Label(f.label("change")))
	}
	// Nobody will change the state where no daemon has shown itself for a while:
	// better to send the packet.
	f.mark("unchanged")
	f.emit(
		asm.FnJiffies64.Call(),
	)
	f.Ticks.emit(&f.emitter)
	f.setting(asm.R1, SettingsHeartbeat)
	f.emit(
		asm.Sub.Reg32(asm.R0, asm.R1),
		asm.JSLT.Imm32(asm.R0, int32(HeartbeatTimeout*f.Hz), f.labelUndecided()), // its clock may be a tick ahead
	)
	f.mark("stays")
}

// HeartbeatTimeout is after how many seconds without Heartbeat no daemon is there.
const HeartbeatTimeout = 2

// rewriteMACs finds the real server and writes the link addresses. From there on,
// nothing passes.
//
// in: dest data total; out: -; lost: R0 R1 R2 R3 R4
func (f *forwarder) rewriteMACs() {
	defer f.step("rewriteMACs", "the real server's address, and the interface's")()
	server, address := asm.R2, asm.R4
	f.emit(
		asm.Mov.Reg(asm.R1, dest),
	)
	f.element(server, f.Servers, asm.R1, ServerShift, 0)
	f.emit(
		asm.LoadMem(asm.R1, server, ServerMTU, asm.Word),
	)
	f.checkSegments("")
	f.checkTag()
	f.emit(
		asm.LoadMem(address, server, ServerMACs, asm.DWord),
		asm.StoreMem(data, 0, address, asm.DWord),
		asm.LoadMem(address, server, ServerMACs+8, asm.Word),
		asm.StoreMem(data, 8, address, asm.Word),
		save(stackOut, asm.R3),
	)
}

// countPacket counts the packet in the counters of this CPU and server.
//
// in: dest total; out: -; lost: R0 R1 R2 R3 R4 R5
func (f *forwarder) countPacket() {
	defer f.step("countPacket", "the real server's count on this CPU")()
	f.emit(
		asm.FnGetSmpProcessorId.Call(),
		asm.JGE.Imm(asm.R0, int32(f.CPUs), f.label("counted")), // never: for the verifier
		asm.Mul.Imm(asm.R0, int32(f.ServersPerCPU)),
		asm.Add.Reg(asm.R0, dest),
	)
	f.element(asm.R1, f.Counts, asm.R0, countShift, 0)
	f.emit(
		asm.LoadMem(asm.R0, asm.R1, 0, asm.DWord),
		asm.Add.Imm(asm.R0, 1),
		asm.StoreMem(asm.R1, 0, asm.R0, asm.DWord),
		asm.LoadMem(asm.R0, asm.R1, 8, asm.DWord),
		asm.Add.Reg(asm.R0, total),
		asm.StoreMem(asm.R1, 8, asm.R0, asm.DWord),
	)
	f.mark("counted")
}

// stampEntry says in the connection that it was used, and how often.
//
// in: slot; out: -; lost: R0 R1 R2 R3 R4 R5
func (f *forwarder) stampEntry() {
	defer f.step("stampEntry", "the connection was used now")()
	f.emit(asm.FnJiffies64.Call())
	f.Ticks.emit(&f.emitter)
	f.emit(
		asm.StoreMem(slot, shtab.OffStamp, asm.R0, asm.Word),
		asm.LoadMem(asm.R1, slot, shtab.OffCount, asm.Word),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(slot, shtab.OffCount, asm.R1, asm.Word),
	)
}

// decrementTTL takes one off the time to live (packet.DecrementTTL).
//
// in: data; out: -; lost: R0 R1 R2 R3 R4 R5
func (f *forwarder) decrementTTL() {
	defer f.step("decrementTTL", "one off the time to live")()
	atIP := f.atIP()
	if f.six {
		f.emit(
			asm.LoadMem(asm.R1, data, atIP+7, asm.Byte),
			asm.Sub.Imm(asm.R1, 1),
			asm.StoreMem(data, atIP+7, asm.R1, asm.Byte),
		)
		if f.Hook == TC { // the sum that the card has made of the whole; IPv4's header has its own in it
			f.emit(
				restore(asm.R1, stackContext),
				asm.Mov.Imm(asm.R2, oneLess),
				asm.FnCsumUpdate.Call(),
			)
		}
	} else {
		// ip_decrease_ttl (include/net/ip.h), on a word that has the time to live in
		// its lowest byte and the checksum in the upper half. It stays in its bounds
		// but when that was 0xfffe or more.
		f.emit(
			asm.LoadMem(asm.R1, data, atIP+8, asm.Word),
			asm.JLT.Imm32(asm.R1, -2<<16, f.label("sum")),
			asm.Add.Imm(asm.R1, 1<<16),
		)
		f.mark("sum")
		f.emit(asm.Add.Imm(asm.R1, 1<<16-1), asm.StoreMem(data, atIP+8, asm.R1, asm.Word))
	}
}

// send ends the program: the packet leaves as it came, or by the interface that
// leads to the server.
//
// in: slot; out: -; lost: R0 R1 R2 R3 R4 R5
func (f *forwarder) send() {
	defer f.step("send", "out, by the interface that leads to the real server")()
	if f.Hook == TC {
		f.untag()
		f.emit(
			asm.Mov.Imm(asm.R2, 0),
			asm.FnRedirect.Call(),
			asm.Return(),
		)
		f.mark("drop")
		f.emit(asm.Mov.Imm(asm.R0, tcxDrop), asm.Return())
		return
	}
	f.emit(asm.Mov.Imm(asm.R0, ActionTX))
	if f.tags > 0 {
		f.emit(asm.Return())
		return
	}
	f.emit(
		restore(asm.R1, stackOut),
		asm.JEq.Imm(asm.R1, int32(f.Ifindex), f.label("sent")),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
	)
	f.mark("sent")
	f.emit(asm.Return())
}

// Back has the packet leave by the interface by which it came: for benchmarks, in the
// place of the step that looks for the real server.
//
// in: -; out: -; lost: R1
func (f *forwarder) Back() {
	defer f.step("Back", "out by where it came from")()
	f.emit(
		asm.Mov.Imm(asm.R1, int32(f.Ifindex)),
		save(stackOut, asm.R1),
	)
}
