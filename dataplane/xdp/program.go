package xdp

import (
	"fmt"
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
	stackKey   = -56 // five words, as packet.Flow has them
	stackFlags = -64 // TCP's, or SCTP's chunk
	stackDest  = -72 // the real server's number
)

// Where the EtherType and the IP header are in a frame, behind so many VLAN tags.
func (p *program) atType() int16 { return int16(12 + 4*p.tags) }
func (p *program) atIP() int16   { return int16(14 + 4*p.tags) }

// maxTags is how many there may be: 802.1Q in 802.1ad.
const maxTags = 2

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
	tags                   int // VLAN tags before what is being emitted
	// hashed, if not 0, is a BPF hash map with the table's entries, to be used in
	// its place: what others do, to compare with.
	hashed int

	out    asm.Instructions
	symbol string // of the next instruction
}

// assemble is the program, in the order in which a packet goes through it. Frames
// with VLAN tags have all of it again, with other offsets.
func (p *program) assemble() asm.Instructions {
	p.ours()
	for p.tags = 0; p.tags <= maxTags; p.tags++ {
		p.family()
		p.ipv4()
		p.ipv6()
		p.find()
		p.decide()
		p.account()
		p.send()
	}
	p.symbol = pass
	p.emit(asm.Mov.Imm(asm.R0, actionPass), asm.Return())
	return p.out
}

// pass is the label of the way out to the plane behind.
const pass = "pass"

// here is the name of a label for so many tags; label puts it.
func (p *program) here(name string) string { return fmt.Sprintf("%s.%d", name, p.tags) }
func (p *program) label(name string)       { p.symbol = p.here(name) }

func (p *program) emit(list ...asm.Instruction) {
	for _, i := range list {
		if p.symbol != "" {
			i = i.WithSymbol(p.symbol)
			p.symbol = ""
		}
		p.out = append(p.out, i)
	}
}

// ours passes what is not addressed to this interface.
func (p *program) ours() {
	p.emit(
		asm.Mov.Reg(ctx, asm.R1),
		asm.LoadMem(data, ctx, 0, asm.Word),
		asm.LoadMem(end, ctx, 4, asm.Word),
	)
	p.need(14 + 20 + 8)
	p.emit(asm.LoadMem(asm.R2, data, 0, asm.Word), asm.LoadMem(asm.R3, data, 4, asm.Half))
	for i, m := range p.mac {
		if i > 0 {
			p.symbol = fmt.Sprint("mac", i)
		}
		next := pass
		if i < len(p.mac)-1 {
			next = fmt.Sprint("mac", i+1)
		}
		p.emit(
			asm.Mov.Imm32(asm.R1, int32(le32(m[:4]))),
			asm.JNE.Reg(asm.R2, asm.R1, next),
			asm.JNE.Imm(asm.R3, int32(le16(m[4:])), next),
			asm.Ja.Label(p.here("family")),
		)
	}
}

// EtherTypes, as they are loaded.
var (
	typeIPv4  = int32(bits.ReverseBytes16(0x0800))
	typeIPv6  = int32(bits.ReverseBytes16(0x86dd))
	typeVLAN  = int32(bits.ReverseBytes16(0x8100))
	typeOuter = int32(bits.ReverseBytes16(0x88a8))
)

// family parts by what is behind the tags so far.
func (p *program) family() {
	p.label("family")
	p.need(int32(p.atIP()) + 20 + 8)
	p.emit(
		asm.LoadMem(asm.R1, data, p.atType(), asm.Half),
		asm.JEq.Imm(asm.R1, typeIPv6, p.here("ipv6")),
		asm.JEq.Imm(asm.R1, typeIPv4, p.here("ipv4")),
	)
	if p.tags < maxTags {
		next := fmt.Sprintf("family.%d", p.tags+1)
		p.emit(asm.JEq.Imm(asm.R1, typeVLAN, next), asm.JEq.Imm(asm.R1, typeOuter, next))
	}
	p.emit(asm.Ja.Label(pass))
}

// need passes frames of fewer than n bytes.
func (p *program) need(n int32) {
	p.emit(asm.Mov.Reg(asm.R1, data), asm.Add.Imm(asm.R1, n), asm.JGT.Reg(asm.R1, end, pass))
}

// whole passes what is shorter than its total length, which is in total, or
// longer than any Ethernet carries.
func (p *program) whole(least int32) {
	p.emit(
		asm.JLT.Imm(total, least, pass),
		asm.JGT.Imm(total, 9216, pass),
		asm.Mov.Reg(asm.R1, data),
		asm.Add.Reg(asm.R1, total),
		asm.Add.Imm(asm.R1, int32(p.atIP())),
		asm.JGT.Reg(asm.R1, end, pass),
	)
}

// ipv4 reads a packet without options that is no fragment, and can live on.
func (p *program) ipv4() {
	atIP := p.atIP()
	p.label("ipv4")
	p.emit(
		asm.LoadMem(asm.R1, data, atIP, asm.Byte),
		asm.JNE.Imm(asm.R1, 0x45, pass),
		asm.LoadMem(asm.R1, data, atIP+6, asm.Half),
		asm.And.Imm(asm.R1, int32(bits.ReverseBytes16(0x3fff))),
		asm.JNE.Imm(asm.R1, 0, pass),
		asm.LoadMem(asm.R1, data, atIP+8, asm.Byte),
		asm.JLE.Imm(asm.R1, 1, pass),
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
		asm.JNE.Imm(asm.R2, 0xffff, pass),
		asm.LoadMem(asm.R2, data, atIP+12, asm.DWord),
		asm.StoreMem(asm.RFP, stackKey, asm.R2, asm.DWord),
		asm.LoadMem(asm.R3, data, atIP+20, asm.Word),
		asm.LoadMem(asm.R5, data, atIP+9, asm.Byte),
	)
	if p.hashed != 0 { // whose keys are whole
		p.emit(asm.Mov.Imm(asm.R1, 0))
		for w := int16(2); w < 5; w++ {
			p.emit(asm.StoreMem(asm.RFP, stackKey+8*w, asm.R1, asm.DWord))
		}
	}
	p.ports(4, 20)
	p.hash(2)
	p.emit(asm.Ja.Label(p.here("find")))
}

// ipv6 reads a packet without extension headers that can live on.
func (p *program) ipv6() {
	atIP := p.atIP()
	p.label("ipv6")
	p.need(int32(atIP) + 40 + 8)
	p.emit(
		asm.LoadMem(asm.R1, data, atIP, asm.Byte),
		asm.RSh.Imm(asm.R1, 4),
		asm.JNE.Imm(asm.R1, 6, pass),
		asm.LoadMem(asm.R1, data, atIP+7, asm.Byte),
		asm.JLE.Imm(asm.R1, 1, pass),
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
// and keeps what the state depends on: TCP's flags, SCTP's first chunk's type.
func (p *program) ports(family int32, header int16) {
	at := p.atIP() + header
	read := p.here(fmt.Sprint("read", family))
	tcp := p.here(fmt.Sprint("tcp", family))
	p.emit(
		asm.Mov.Reg(asm.R1, asm.R5),
		asm.LSh.Imm(asm.R1, 32),
		asm.Or.Reg(asm.R3, asm.R1),
		asm.Mov.Imm(asm.R1, family),
		asm.LSh.Imm(asm.R1, 40),
		asm.Or.Reg(asm.R3, asm.R1),
		asm.StoreMem(asm.RFP, stackKey+8, asm.R3, asm.DWord),
		asm.Mov.Imm(asm.R4, 0),
		asm.JEq.Imm(asm.R5, protoUDP, read),
		asm.JEq.Imm(asm.R5, protoTCP, tcp),
		asm.JNE.Imm(asm.R5, protoSCTP, pass),
	)
	p.need(int32(at) + 16)
	p.emit(
		asm.JLT.Imm(total, int32(header)+16, pass),
		asm.LoadMem(asm.R4, data, at+12, asm.Byte),
		asm.Ja.Label(read),
	)
	p.symbol = tcp
	p.need(int32(at) + 20)
	p.emit(
		asm.JLT.Imm(total, int32(header)+20, pass),
		asm.LoadMem(asm.R4, data, at+13, asm.Byte),
	)
	p.symbol = read
	p.emit(asm.StoreMem(asm.RFP, stackFlags, asm.R4, asm.DWord))
}

const (
	protoTCP  = 6
	protoUDP  = 17
	protoSCTP = 132
)

// hash leaves the number of the key's home slot on the stack (shtab.Hash, homeOf).
// An IPv4 key has two words that are not 0.
func (p *program) hash(words int) {
	if p.hashed != 0 {
		return
	}
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
