package program

import (
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/internal/shtab"
)

// An interface that goes to another network namespace takes the program at its ingress along, where the numbers
// that the program has are other interfaces' (net/core/filter.c, skb_do_redirect). The daemon takes it away;
// where none runs, it does nothing there: a frame is the host's whose interface has another number than it had, and
// one is sent by no other interface where the private interface is not to be found.

// PrivateMTU is the MTU that a private interface has, and hardly any other: by that it is known.
const PrivateMTU = 65533

// checkNamespace goes to a label where the private interface is not there.
//
// in: -; out: -; lost: R0 R1 R2 R3 R4 R5
func (e *emitter) checkNamespace(moved string) {
	defer e.step("checkNamespace", "is this the namespace of the private interface?")()
	e.emit(
		asm.Mov.Imm(asm.R0, 1), // a length that fits: all that is asked for is the MTU
		asm.StoreMem(asm.RFP, stackIndex, asm.R0, asm.Word),
		restore(asm.R1, stackContext),
		asm.Mov.Imm(asm.R2, int32(e.Private)),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, stackIndex),
		asm.Mov.Imm(asm.R4, 0),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnCheckMtu.Call(),
		asm.LoadMem(asm.R0, asm.RFP, stackIndex, asm.Word),
		asm.JNE.Imm(asm.R0, PrivateMTU, moved),
	)
}

// unlessMoved drops what would be sent by another interface, if the program's has gone to another namespace: it is
// asked where no daemon has shown itself for a while.
//
// in: slot; out: -; lost: R0 R1 R2 R3 R4 R5
func (f *forwarder) unlessMoved() {
	if f.Private == 0 {
		return
	}
	defer f.step("unlessMoved", "by another interface, if the numbers are right")()
	f.emit(asm.LoadMem(asm.R0, slot, shtab.OffStamp, asm.Word))
	f.setting(asm.R1, SettingsHeartbeat)
	f.emit(
		asm.Sub.Reg32(asm.R0, asm.R1),
		asm.JSLT.Imm32(asm.R0, int32(HeartbeatTimeout*f.Hz), f.label("here")),
	)
	f.checkNamespace(f.label("drop"))
	f.mark("here")
}
