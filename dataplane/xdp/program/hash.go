package program

import (
	"math/bits"

	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/internal/preselect"
)

// bucketShift turns a bucket's number into an offset.
const bucketShift = 2

var _ = [1]struct{}{}[preselect.BucketSize-1<<bucketShift]

// chooseByHash finds the real server of the packet's bucket (sched.Hash). R1 is what connections
// of the service are opened by.
//
// in: R1 service data total; out: dest; lost: R0 R1 R2 R3 R4 R5
func (o *opener) chooseByHash() {
	defer o.step("chooseByHash", "the real server of the address's bucket")()
	key, number := asm.R2, asm.R2
	client, virtual, words := o.atIP()+12, o.atIP()+16, int16(1)
	if o.six {
		client, virtual, words = o.atIP()+8, o.atIP()+24, 4
	}
	o.emit(
		save(stackBy, asm.R1),
		asm.And.Imm(asm.R1, preselect.OfVirtual),
		asm.JNE.Imm(asm.R1, 0, o.label("virtual")),
	)
	o.foldAddress(key, client, words)
	o.emit(asm.Ja.Label(o.label("folded")))
	o.mark("virtual")
	o.foldAddress(key, virtual, words)
	o.mark("folded")
	o.emit(
		asm.HostTo(asm.BE, key, asm.Word),
		restore(asm.R1, stackBy),
		asm.Mov.Reg(asm.R4, asm.R1),
		asm.And.Imm(asm.R4, preselect.WithPort),
		asm.JEq.Imm(asm.R4, 0, o.label("portless")),
		asm.LoadMem(asm.R4, data, o.atPorts(), asm.Half),
		asm.HostTo(asm.BE, asm.R4, asm.Half),
		asm.Add.Reg32(key, asm.R4),
	)
	o.mark("portless")
	golden := uint32(preselect.Golden)
	o.emit(
		asm.And.Imm(asm.R1, preselect.BySip),
		asm.JNE.Imm(asm.R1, 0, o.label("sip")),
		asm.Mul.Imm32(key, int32(golden)),
		asm.RSh.Imm32(key, 24),
		asm.Ja.Label(o.label("bucket")),
	)
	o.mark("sip")
	o.sipKey()
	o.emit(
		asm.Mod.Imm32(key, preselect.SipBuckets),
		o.leaveIf(asm.JGE, key, preselect.SipBuckets), // never: for the verifier
	)
	o.mark("bucket")
	o.emit(asm.LSh.Imm(key, bucketShift))
	o.inSequence(key, asm.R1)
	o.emit(asm.LoadMem(number, key, 0, asm.Word))
	o.takeServer("hashed")
}

// foldAddress puts the words of an address together, as they lie.
func (o *opener) foldAddress(to asm.Register, at, words int16) {
	o.emit(asm.LoadMem(to, data, at, asm.Word))
	for i := int16(1); i < words; i++ {
		o.emit(asm.LoadMem(asm.R4, data, at+4*i, asm.Word), asm.Xor.Reg(to, asm.R4))
	}
}

// sipKey hashes the key in R2, which is a number of 32 bits, as the scheduler mh does
// (sched.halfSip: SipHash-1-3 of one word). What the first round makes of constants is worked out
// here, and the last one leaves out what is not in the result.
func (o *opener) sipKey() {
	const v0, v1, v2, v3, last, scratch = asm.R0, asm.R1, asm.R2, asm.R3, asm.R5, asm.R4
	rotate := func(v asm.Register, by int32) {
		o.emit(
			asm.Mov.Reg(scratch, v),
			asm.LSh.Imm(v, by),
			asm.RSh.Imm(scratch, 64-by),
			asm.Or.Reg(v, scratch),
		)
	}
	mixLater := func() {
		o.emit(asm.Add.Reg(v2, v3))
		rotate(v3, 16)
		o.emit(asm.Xor.Reg(v3, v2))
	}
	round := func() {
		o.emit(asm.Add.Reg(v0, v1))
		rotate(v1, 13)
		o.emit(asm.Xor.Reg(v1, v0))
		rotate(v0, 32)
		mixLater()
		o.emit(asm.Add.Reg(v0, v3))
		rotate(v3, 21)
		o.emit(asm.Xor.Reg(v3, v0), asm.Add.Reg(v2, v1))
		rotate(v1, 17)
		o.emit(asm.Xor.Reg(v1, v2))
		rotate(v2, 32)
	}
	key := uint64(preselect.SipKey)
	c0, c1 := 0x736f6d6570736575^key, 0x646f72616e646f6d^key
	c0 += c1
	c1 = bits.RotateLeft64(c1, 13) ^ c0
	c0 = bits.RotateLeft64(c0, 32)
	o.emit(
		asm.LoadImm(last, 4<<56, asm.DWord), // the length in the top byte
		asm.Or.Reg(last, asm.R2),
		asm.LoadImm(v2, int64(0x6c7967656e657261^key), asm.DWord),
		asm.LoadImm(v3, int64(0x7465646279746573^key), asm.DWord),
		asm.Xor.Reg(v3, last),
	)
	mixLater()
	o.emit(asm.LoadImm(v0, int64(c0), asm.DWord), asm.Add.Reg(v0, v3))
	rotate(v3, 21)
	o.emit(
		asm.Xor.Reg(v3, v0),
		asm.LoadImm(v1, int64(c1), asm.DWord),
		asm.Add.Reg(v2, v1),
		asm.LoadImm(v1, int64(bits.RotateLeft64(c1, 17)), asm.DWord),
		asm.Xor.Reg(v1, v2),
	)
	rotate(v2, 32)
	o.emit(asm.Xor.Reg(v0, last), asm.Xor.Imm(v2, 0xff))
	round()
	round()
	o.emit(asm.Add.Reg(v0, v1))
	rotate(v1, 13)
	o.emit(asm.Xor.Reg(v1, v0))
	mixLater()
	o.emit(
		// v0 is in the result twice, and so not at all.
		asm.Add.Reg(v2, v1),
		asm.Mov.Reg(scratch, v2), asm.RSh.Imm(scratch, 32), asm.Xor.Reg(v2, scratch),
		asm.Mov.Reg(scratch, v3), asm.LSh.Imm(scratch, 21), asm.Xor.Reg(v2, scratch),
		asm.RSh.Imm(v3, 64-21), asm.Xor.Reg(v2, v3),
		asm.Mov.Reg(scratch, v1), asm.LSh.Imm(scratch, 17), asm.Xor.Reg(v2, scratch),
		asm.RSh.Imm(v1, 64-17), asm.Xor.Reg(v2, v1),
		asm.Mov.Reg32(v2, v2),
	)
}

// SipInstructions returns how many instructions the hash of mh is (SipHash-1-3): BPF has no rotation, so that
// each takes four. What opens connections by mh takes as many more than by sh.
func SipInstructions() int {
	o := new(opener)
	o.sipKey()
	return len(o.out)
}
