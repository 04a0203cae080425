package xdp

import (
	"math/bits"

	"github.com/cilium/ebpf/asm"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/shtab"
)

// The registers, from the packet's way in to its way out. R1 to R5 are scratch,
// and are lost at calls; R0 is a call's result.
const (
	ctx   = asm.R6
	data  = asm.R7
	slot  = asm.R8 // the end of the packet until the connection was found
	end   = asm.R8
	total = asm.R9 // bytes from the IP header on
)

// The stack, from the frame pointer down.
const (
	stackIndex = -4  // the key of map look-ups
	stackTag   = -16 // of the hash
	stackKey   = -56 // five words, as packet.Flow has them
	stackFlags = -64 // TCP's
	stackDest  = -72 // the real server's number
)

// Where things are in a frame without VLAN tags.
const (
	atType = 12
	atIP   = 14
)

// chain is how many slots of a chain are looked at. A longer one is Go's.
const chain = 6

const (
	actionPass = 2 // XDP_PASS
	actionTX   = 3 // XDP_TX
)

// program is a program to be: the configuration that it is made for, and what
// was emitted so far.
type program struct {
	dataplane.Acceleration
	conns, servers, counts int // file descriptors of maps
	mac                    []dataplane.MAC
	ticks                  ticks
	rooms                  int // of one CPU in counts

	out    asm.Instructions
	symbol string // of the next instruction
}

// assemble is the program, in the order in which a packet goes through it.
func (p *program) assemble() asm.Instructions {
	p.ours()
	p.ipv4()
	p.ipv6()
	p.find()
	p.decide()
	p.account()
	p.send()
	p.label("pass")
	p.emit(asm.Mov.Imm(asm.R0, actionPass), asm.Return())
	return p.out
}

func (p *program) label(name string) { p.symbol = name }

func (p *program) emit(list ...asm.Instruction) {
	for _, i := range list {
		if p.symbol != "" {
			i = i.WithSymbol(p.symbol)
			p.symbol = ""
		}
		p.out = append(p.out, i)
	}
}

// ours passes what is not addressed to this interface, and parts by family.
func (p *program) ours() {
	p.emit(
		asm.Mov.Reg(ctx, asm.R1),
		asm.LoadMem(data, ctx, 0, asm.Word),
		asm.LoadMem(end, ctx, 4, asm.Word),
	)
	p.need(atIP + 20 + 8)
	p.emit(asm.LoadMem(asm.R2, data, 0, asm.Word), asm.LoadMem(asm.R3, data, 4, asm.Half))
	for i, m := range p.mac {
		if i > 0 {
			p.label("mac" + string(rune('0'+i)))
		}
		next := "pass"
		if i < len(p.mac)-1 {
			next = "mac" + string(rune('1'+i))
		}
		p.emit(
			asm.Mov.Imm32(asm.R1, int32(le32(m[:4]))),
			asm.JNE.Reg(asm.R2, asm.R1, next),
			asm.JNE.Imm(asm.R3, int32(le16(m[4:])), next),
			asm.Ja.Label("ours"),
		)
	}
	p.label("ours")
	p.emit(
		asm.LoadMem(asm.R1, data, atType, asm.Half),
		asm.JEq.Imm(asm.R1, int32(bits.ReverseBytes16(0x86dd)), "ipv6"),
		asm.JNE.Imm(asm.R1, int32(bits.ReverseBytes16(0x0800)), "pass"),
	)
}

// need passes frames of fewer than n bytes.
func (p *program) need(n int32) {
	p.emit(asm.Mov.Reg(asm.R1, data), asm.Add.Imm(asm.R1, n), asm.JGT.Reg(asm.R1, end, "pass"))
}

// whole passes what is shorter than its total length, which is in total, or
// longer than any Ethernet carries.
func (p *program) whole(least int32) {
	p.emit(
		asm.JLT.Imm(total, least, "pass"),
		asm.JGT.Imm(total, 9216, "pass"),
		asm.Mov.Reg(asm.R1, data),
		asm.Add.Reg(asm.R1, total),
		asm.Add.Imm(asm.R1, atIP),
		asm.JGT.Reg(asm.R1, end, "pass"),
	)
}

// ipv4 reads a packet without options that is no fragment, and can live on.
func (p *program) ipv4() {
	p.emit(
		asm.LoadMem(asm.R1, data, atIP, asm.Byte),
		asm.JNE.Imm(asm.R1, 0x45, "pass"),
		asm.LoadMem(asm.R1, data, atIP+6, asm.Half),
		asm.And.Imm(asm.R1, int32(bits.ReverseBytes16(0x3fff))),
		asm.JNE.Imm(asm.R1, 0, "pass"),
		asm.LoadMem(asm.R1, data, atIP+8, asm.Byte),
		asm.JLE.Imm(asm.R1, 1, "pass"),
		asm.LoadMem(total, data, atIP+2, asm.Half),
		asm.HostTo(asm.BE, total, asm.Half),
	)
	p.whole(20 + 8)
	// The header's checksum: damaged packets are for the host to count.
	p.emit(asm.LoadMem(asm.R2, data, atIP, asm.Word))
	for off := int16(4); off < 20; off += 4 {
		p.emit(asm.LoadMem(asm.R1, data, atIP+off, asm.Word), asm.Add.Reg(asm.R2, asm.R1))
	}
	for range 3 {
		p.emit(asm.Mov.Reg(asm.R1, asm.R2), asm.RSh.Imm(asm.R1, 16), asm.And.Imm(asm.R2, 0xffff), asm.Add.Reg(asm.R2, asm.R1))
	}
	p.emit(
		asm.JNE.Imm(asm.R2, 0xffff, "pass"),
		asm.LoadMem(asm.R2, data, atIP+12, asm.DWord),
		asm.StoreMem(asm.RFP, stackKey, asm.R2, asm.DWord),
		asm.LoadMem(asm.R3, data, atIP+20, asm.Word),
		asm.LoadMem(asm.R5, data, atIP+9, asm.Byte),
	)
	p.ports(4, 20)
	p.hash(2)
	p.emit(asm.Ja.Label("find"))
}

// ipv6 reads a packet without extension headers that can live on.
func (p *program) ipv6() {
	p.label("ipv6")
	p.need(atIP + 40 + 8)
	p.emit(
		asm.LoadMem(asm.R1, data, atIP, asm.Byte),
		asm.RSh.Imm(asm.R1, 4),
		asm.JNE.Imm(asm.R1, 6, "pass"),
		asm.LoadMem(asm.R1, data, atIP+7, asm.Byte),
		asm.JLE.Imm(asm.R1, 1, "pass"),
		asm.LoadMem(total, data, atIP+4, asm.Half),
		asm.HostTo(asm.BE, total, asm.Half),
		asm.Add.Imm(total, 40),
	)
	p.whole(40 + 8)
	for _, w := range [...]struct{ word, off int16 }{{0, 8}, {2, 16}, {3, 24}, {4, 32}} {
		p.emit(asm.LoadMem(asm.R2, data, atIP+w.off, asm.DWord), asm.StoreMem(asm.RFP, stackKey+8*w.word, asm.R2, asm.DWord))
	}
	p.emit(
		asm.LoadMem(asm.R3, data, atIP+40, asm.Word),
		asm.LoadMem(asm.R5, data, atIP+6, asm.Byte),
	)
	p.ports(6, 40)
	p.hash(5)
}

// ports makes word 1 of the key from the ports in R3 and the protocol in R5,
// and keeps the flags of TCP.
func (p *program) ports(family int32, header int16) {
	v := "v" + string(rune('0'+family))
	p.emit(
		asm.Mov.Reg(asm.R1, asm.R5),
		asm.LSh.Imm(asm.R1, 32),
		asm.Or.Reg(asm.R3, asm.R1),
		asm.Mov.Imm(asm.R1, family),
		asm.LSh.Imm(asm.R1, 40),
		asm.Or.Reg(asm.R3, asm.R1),
		asm.StoreMem(asm.RFP, stackKey+8, asm.R3, asm.DWord),
		asm.Mov.Imm(asm.R4, 0),
		asm.JEq.Imm(asm.R5, protoUDP, v+"read"),
		asm.JNE.Imm(asm.R5, protoTCP, "pass"),
	)
	p.need(int32(atIP + header + 20))
	p.emit(asm.JLT.Imm(total, int32(header)+20, "pass"), asm.LoadMem(asm.R4, data, atIP+header+13, asm.Byte))
	p.label(v + "read")
	p.emit(asm.StoreMem(asm.RFP, stackFlags, asm.R4, asm.DWord))
}

const (
	protoTCP = 6
	protoUDP = 17
)

// hash leaves the key's home slot on the stack, and its tag (shtab.Hash,
// homeOf, tagOf). An IPv4 key has two words that are not 0.
func (p *program) hash(words int) {
	p.emit(asm.LoadImm(asm.R2, int64(p.Seed[0]), asm.DWord))
	for w := range words {
		p.emit(
			asm.LoadMem(asm.R3, asm.RFP, stackKey+8*int16(w), asm.DWord),
			asm.Mov.Reg32(asm.R4, asm.R3), // the lower half
			asm.LoadImm(asm.R1, int64(p.Seed[2*w+1]), asm.DWord),
			asm.Mul.Reg(asm.R4, asm.R1),
			asm.Add.Reg(asm.R2, asm.R4),
			asm.RSh.Imm(asm.R3, 32),
			asm.LoadImm(asm.R1, int64(p.Seed[2*w+2]), asm.DWord),
			asm.Mul.Reg(asm.R3, asm.R1),
			asm.Add.Reg(asm.R2, asm.R3),
		)
	}
	mix := uint64(shtab.Mix)
	p.emit(
		asm.Mov.Reg(asm.R1, asm.R2),
		asm.RSh.Imm(asm.R1, 32),
		asm.Xor.Reg(asm.R2, asm.R1),
		asm.LoadImm(asm.R1, int64(mix), asm.DWord),
		asm.Mul.Reg(asm.R2, asm.R1),
		asm.Mov.Reg(asm.R1, asm.R2),
		asm.RSh.Imm(asm.R1, 29),
		asm.Xor.Reg(asm.R2, asm.R1),
		// The tag.
		asm.Mov.Reg(asm.R1, asm.R2),
		asm.RSh.Imm(asm.R1, 16),
		asm.Or.Imm(asm.R1, 1),
		asm.And.Imm(asm.R1, 0xffff),
		asm.StoreMem(asm.RFP, stackTag, asm.R1, asm.DWord),
		// The home.
		asm.RSh.Imm(asm.R2, 32),
		asm.Mov.Imm32(asm.R1, int32(p.Homes)),
		asm.Mul.Reg(asm.R2, asm.R1),
		asm.RSh.Imm(asm.R2, 32),
		asm.Add.Imm(asm.R2, headerSlots),
		asm.StoreMem(asm.RFP, stackIndex, asm.R2, asm.Word),
	)
}

// headerSlots is how many elements of the array the table's header takes.
const headerSlots = shtab.HeaderSize / shtab.SlotSize

func le32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}
func le16(b []byte) uint16 { return uint16(b[0]) | uint16(b[1])<<8 }
