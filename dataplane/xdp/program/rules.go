package program

import (
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/preselect"
)

// follower gives packets marks, by lists of rules.
type follower struct{ *opener }

// steps is how many steps of a list were followed.
const steps = asm.R8

// followList goes to numbered with a service's number in R1 and its serial in end. There was that of
// a list of rules, and R0 is the number of the service by address: it is the one of the mark that the
// packet gets by those or, if there is none, the one by address. What has no list, and what the rules do not decide, is Go's.
//
// The next step is read from memory and checked, so that the verifier takes the loop's turns for
// the same.
//
// in: R0 R1 end; out: R1 data total end; lost: R0 R2 R3 R4 R5
func (o follower) followList() {
	defer o.step("followList", "no number: the mark by the claim's list of rules, and the mark's service")()
	no := o.label("go")
	o.emit(
		o.leaveIf(asm.JLT, asm.R1, preselect.FirstList),
		asm.Sub.Imm(asm.R1, preselect.FirstList),
		o.leaveIf(asm.JGE, asm.R1, RuleDone),
		asm.LSh.Imm(end, 32),
		asm.Or.Reg(end, asm.R0),
		save(stackElse, end),
		asm.LoadMapValue(asm.R3, o.Services, preselect.OffZero),
		asm.LoadMem(asm.R3, asm.R3, 0, asm.DWord),
	)
	o.forget()
	o.readInputs()
	o.emit(asm.Mov.Imm(steps, 0))
	o.mark("rule")
	o.emit(
		asm.JGT.Imm(asm.R1, RuleDone-RuleSize, o.label("ruled")),
		asm.LoadMapValue(asm.R2, o.Rules, 0),
		asm.Add.Reg(asm.R2, asm.R1),
		asm.LoadMem(asm.R3, asm.R2, RuleField, asm.Word),
		asm.And.Imm(asm.R3, inputsSize-4),
		asm.Mov.Reg(asm.R4, asm.RFP),
		asm.Add.Reg(asm.R4, asm.R3),
		asm.LoadMem(asm.R3, asm.R4, stackInputs, asm.Word),
		asm.LoadMem(asm.R4, asm.R2, RuleMask, asm.Word),
		asm.And.Reg(asm.R3, asm.R4),
		asm.LoadMem(asm.R4, asm.R2, RuleLow, asm.Word),
		asm.Sub.Reg32(asm.R3, asm.R4),
		asm.LoadMem(asm.R4, asm.R2, RuleSpan, asm.Word),
		asm.LoadMem(asm.R1, asm.R2, RuleNo, asm.Word),
		asm.JGT.Reg(asm.R3, asm.R4, o.label("next-rule")),
		asm.LoadMem(asm.R1, asm.R2, RuleYes, asm.Word),
		asm.LoadMem(asm.R3, asm.RFP, stackInputs+4*dataplane.MarkField, asm.Word),
		asm.LoadMem(asm.R4, asm.R2, RuleAnd, asm.Word),
		asm.And.Reg(asm.R3, asm.R4),
		asm.LoadMem(asm.R4, asm.R2, RuleXor, asm.Word),
		asm.Xor.Reg(asm.R3, asm.R4),
		asm.StoreMem(asm.RFP, stackInputs+4*dataplane.MarkField, asm.R3, asm.Word),
	)
	o.mark("next-rule")
	o.emit(
		asm.Add.Imm(steps, 1),
		asm.JLE.Imm(steps, dataplane.MostSteps, o.label("rule")),
		asm.Ja.Label(no), // never: for the verifier
	)
	o.mark("ruled")
	o.emit(
		o.leaveIf(asm.JNE, asm.R1, RuleDone),
		asm.LoadMem(asm.R1, asm.RFP, stackInputs+4*dataplane.MarkField, asm.Word),
		asm.JEq.Imm(asm.R1, 0, o.label("unmarked")),
	)
	family := uint64(4)
	if o.six {
		family = 6
		o.emit(asm.Mov.Reg(asm.R4, asm.R1), asm.Mov.Imm(asm.R5, 0), asm.Mov.Imm(asm.R1, 0))
	}
	o.emit(asm.LoadImm(asm.R0, int64(family<<56), asm.DWord), asm.Or.Reg(asm.R1, asm.R0))
	o.lookupClaim("mark", o.label("marked"))
	o.emit(asm.Ja.Label(o.label("unmarked")))
	o.mark("marked")
	o.emit(
		asm.Mov.Reg32(asm.R1, end),
		asm.RSh.Imm(end, 32),
		asm.JLT.Imm(asm.R1, preselect.Services, o.label("numbered")),
		asm.Ja.Label(no),
	)
	o.mark("unmarked")
	o.emit(
		restore(end, stackElse),
		asm.Mov.Reg32(asm.R1, end),
		asm.RSh.Imm(end, 32),
		passIf(asm.JEq, asm.R1, dataplane.Elsewhere),
		o.leaveIf(asm.JGE, asm.R1, preselect.Services),
	)
}

// inputsSize is how many bytes the inputs take, a power of two.
const inputsSize = 32

// readInputs puts on the stack what steps look at.
//
// in: data; out: -; lost: R2
func (o follower) readInputs() {
	defer o.step("readInputs", "what rules may look at: the source, the interface, the port, no mark yet")()
	input := func(field int16) int16 { return stackInputs + 4*field }
	o.emit(asm.Mov.Imm(asm.R2, 0))
	for off := int16(0); off < inputsSize-8; off += 8 {
		o.emit(asm.StoreMem(asm.RFP, stackInputs+off, asm.R2, asm.DWord))
	}
	o.emit(
		asm.LoadMapValue(asm.R2, o.Services, preselect.OffZero),
		asm.LoadMem(asm.R2, asm.R2, 0, asm.Word),
		asm.StoreMem(asm.RFP, stackInputs+4*dataplane.MarkField, asm.R2, asm.Word),
	)
	at, words := o.atIP()+12, int16(1)
	if o.six {
		at, words = o.atIP()+8, 4
	}
	for w := range words {
		o.emit(
			asm.LoadMem(asm.R2, data, at+4*w, asm.Word),
			asm.HostTo(asm.BE, asm.R2, asm.Word),
			asm.StoreMem(asm.RFP, input(dataplane.SourceField+w), asm.R2, asm.Word),
		)
	}
	o.emit(
		asm.LoadMem(asm.R2, data, o.atPorts(), asm.Half),
		asm.HostTo(asm.BE, asm.R2, asm.Half),
		asm.StoreMem(asm.RFP, input(dataplane.PortField), asm.R2, asm.Word),
		asm.LoadMem(asm.R2, data, o.atPorts()+2, asm.Half),
		asm.HostTo(asm.BE, asm.R2, asm.Half),
		asm.StoreMem(asm.RFP, input(dataplane.DestPortField), asm.R2, asm.Word),
	)
	if o.tags == 0 && o.Hook == TC {
		o.emit(
			restore(asm.R2, stackContext),
			asm.LoadMem(asm.R2, asm.R2, skbVLANPresent, asm.Word),
			asm.JNE.Imm(asm.R2, 0, o.label("inputs")),
		)
	}
	if o.tags == 0 { // with tags it is another interface's
		o.emit(
			asm.Mov.Imm(asm.R2, int32(o.Ifindex)),
			asm.StoreMem(asm.RFP, input(dataplane.InterfaceField), asm.R2, asm.Word),
		)
	}
	o.mark("inputs")
}
