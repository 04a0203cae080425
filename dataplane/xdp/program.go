package xdp

import (
	"fmt"
	"math/bits"

	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/shtab"
)

// The registers, from the packet's way in to its way out. R0 to R2 are scratch,
// and with R3 to R5 are lost at calls.
const (
	addrs = asm.R3 // words 0 and 1 of the key, as packet.Flow has them
	ports = asm.R4
	kept  = asm.R5 // a bit for each state that the packet leaves as it is
	dest  = asm.R6 // the real server's number
	data  = asm.R7
	slot  = asm.R8 // the end of the packet until the connection is looked for
	end   = asm.R8
	total = asm.R9 // bytes from the IP header on

	word = dest // the slot's, until dest is all that is left of it
)

// The stack, from the frame pointer down.
const (
	stackIndex   = -4  // the key of map look-ups
	stackKey     = -56 // five words, as packet.Flow has them, where a hash map is asked
	stackKept    = -64
	stackHome    = -72 // the home slot, while its pair and chain are gone through
	stackOut     = -80 // the interface that leads to the server
	stackContext = -88
	stackClaim   = -112 // a key of claims
)

// Where the EtherType and the IP header are in a frame, behind so many VLAN tags.
func (p *program) atType() int16 { return int16(12 + 4*p.tags) }
func (p *program) atIP() int16   { return int16(14 + 4*p.tags) }

// maxTags is how many there may be: 802.1Q in 802.1ad.
const maxTags = 2

// chain is how many slots of a chain are looked at. A longer one is Go's: of full tables
// of a million, one in thousands has one.
const chain = 10

const (
	actionPass = 2 // XDP_PASS
	actionTX   = 3 // XDP_TX

	actionRedirect = 4 // XDP_REDIRECT
)

// program is a program to be: the configuration that it is made for, and what
// was emitted so far.
type program struct {
	accel.Acceleration
	conns, servers, counts, settings int // file descriptors of maps
	// sockets are those of the interface's queues, and claims the services whose
	// first packets they get; 0 where there are none.
	sockets, claims int
	// services, templates and rings are what connections are made by; 0 where none
	// are.
	services, templates, rings int
	// looked says that the connection table is an array of slots, in which a
	// helper function looks, and not one large element, which is addressed as
	// memory. That is limited to verifierReach bytes.
	looked  bool
	ifindex int // of the interface that the program is for
	mac     []dataplane.MAC
	ticks   ticks
	rooms   int // of one CPU in counts
	cpus    int
	tags    int  // VLAN tags before what is being emitted
	six     bool // it is for IPv6
	// hashed, if not 0, is a BPF hash map with the table's IPv4 entries, to be used
	// in its place: what others do, to compare with. Its keys have all five words, or
	// only the two that IPv4 needs.
	hashed      int
	hashedWords int16

	// path is the way of a packet whose connection was found.
	path []step

	out    asm.Instructions
	symbol string // of the next instruction
}

// step emits a step of a packet's way.
type step func(*program)

// forward is what is done with a packet whose connection was found.
func forward() []step {
	return []step{(*program).decide, (*program).address, (*program).count, (*program).stamp, (*program).hop, (*program).send}
}

// assemble is the program, in the order in which a packet goes through it. Frames
// with VLAN tags have all of it again, with other offsets.
func (p *program) assemble() asm.Instructions {
	p.ours()
	for p.tags = 0; p.tags <= maxTags; p.tags++ {
		p.six = false
		p.family()
		for _, p.six = range p.families() {
			if p.six {
				p.ipv6()
			} else {
				p.ipv4()
			}
			p.find()
			for _, step := range p.path {
				step(p)
			}
			p.miss()
		}
	}
	p.symbol = pass
	p.emit(asm.Mov.Imm(asm.R0, actionPass), asm.Return())
	return p.out
}

// families is which the program knows: IPv4, and IPv6.
func (p *program) families() []bool {
	if p.hashed != 0 {
		return []bool{false}
	}
	return []bool{false, true}
}

// pass is the label of the way out to the plane behind.
const pass = "pass"

// here is the name of a label for this family and so many tags; label puts it.
func (p *program) here(name string) string {
	if p.six {
		name += "6"
	}
	return fmt.Sprintf("%s.%d", name, p.tags)
}
func (p *program) label(name string) { p.symbol = p.here(name) }

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
	if p.sockets != 0 {
		p.emit(asm.StoreMem(asm.RFP, stackContext, asm.R1, asm.DWord))
	}
	p.emit(
		asm.LoadMem(data, asm.R1, 0, asm.Word),
		asm.LoadMem(end, asm.R1, 4, asm.Word),
	)
	p.need(14 + 20 + 8)
	p.emit(asm.LoadMem(asm.R2, data, 0, asm.DWord), asm.LSh.Imm(asm.R2, 16))
	for i, m := range p.mac {
		if i > 0 {
			p.symbol = fmt.Sprint("mac", i)
		}
		next := pass
		if i < len(p.mac)-1 {
			next = fmt.Sprint("mac", i+1)
		}
		p.emit(
			asm.LoadImm(asm.R1, int64(uint64(le32(m[:4]))<<16|uint64(le16(m[4:]))<<48), asm.DWord),
			asm.JNE.Reg(asm.R2, asm.R1, next),
		)
		if next != pass {
			p.emit(asm.Ja.Label(p.here("family")))
		}
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
	if p.tags > 0 {
		p.need(int32(p.atIP()) + 20 + 8)
	}
	p.emit(asm.LoadMem(asm.R1, data, p.atType(), asm.Half))
	for _, p.six = range p.families() {
		etherType := typeIPv4
		if p.six {
			etherType = typeIPv6
		}
		p.emit(asm.JEq.Imm(asm.R1, etherType, p.here("ip")))
	}
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

// whole passes what is shorter than its total length, which is in total.
func (p *program) whole() {
	// Linux 6.12 does not take a length whose bytes were swapped for a small one, so
	// it is compared as a number; that takes CAP_PERFMON.
	p.emit(
		asm.Mov.Reg(asm.R1, end),
		asm.Sub.Reg(asm.R1, data),
		asm.Sub.Imm(asm.R1, int32(p.atIP())),
		asm.JGT.Reg(total, asm.R1, pass),
	)
}

// ipv4 reads a packet without options that is no fragment, and can live on.
func (p *program) ipv4() {
	atIP := p.atIP()
	p.label("ip")
	const versionLength, fragment = 0xff, 0x3fff // in bytes 0, and 6 and 7
	p.emit(
		asm.LoadMem(asm.R0, data, atIP, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.R0),
		asm.LoadImm(asm.R1, int64(bytesOf(0, versionLength)|bytesOf(6, fragment>>8)|bytesOf(7, fragment&0xff)), asm.DWord),
		asm.And.Reg(asm.R0, asm.R1),
		asm.JNE.Imm(asm.R0, 0x45, pass),
		asm.LoadMem(asm.R0, data, atIP+8, asm.Byte),
		asm.JLE.Imm(asm.R0, 1, pass),
		asm.LoadMem(total, data, atIP+2, asm.Half),
		asm.HostTo(asm.BE, total, asm.Half),
	)
	p.whole()
	// The header's checksum: damaged packets are for the host to count. The sum of
	// its words, carries included, is a multiple of 65535; of those, and of no other
	// number, the product with the inverse of 65535 is below 2^48. The first eight
	// bytes, whose last one is of the offset and so 0, leave room for the others.
	for off := int16(8); off < 20; off += 4 {
		p.emit(asm.LoadMem(asm.R0, data, atIP+off, asm.Word), asm.Add.Reg(asm.R2, asm.R0))
	}
	p.emit(
		asm.LoadImm(asm.R0, -0x0001_0001_0001_0001, asm.DWord),
		asm.Mul.Reg(asm.R2, asm.R0),
		asm.RSh.Imm(asm.R2, 48),
		asm.JNE.Imm(asm.R2, 0, pass),
		asm.LoadMem(addrs, data, atIP+12, asm.DWord),
		asm.LoadMem(ports, data, atIP+20, asm.Word),
		asm.LoadMem(asm.R0, data, p.atProto(), asm.Byte),
	)
	p.ports(20)
	p.hash()
}

// bytesOf is a word that has b in the byte at offset i in memory.
func bytesOf(i int, b uint64) uint64 { return b << (8 * i) }

// ipv6 reads a packet without extension headers that can live on.
func (p *program) ipv6() {
	atIP := p.atIP()
	p.label("ip")
	p.need(int32(atIP) + 40 + 8)
	p.emit(
		asm.LoadMem(asm.R0, data, atIP, asm.Byte),
		asm.RSh.Imm(asm.R0, 4),
		asm.JNE.Imm(asm.R0, 6, pass),
		asm.LoadMem(asm.R0, data, atIP+7, asm.Byte),
		asm.JLE.Imm(asm.R0, 1, pass),
		asm.LoadMem(total, data, atIP+4, asm.Half),
		asm.HostTo(asm.BE, total, asm.Half),
		asm.Add.Imm(total, 40),
	)
	p.whole()
	p.emit(
		asm.LoadMem(addrs, data, atIP+8, asm.DWord),
		asm.LoadMem(ports, data, atIP+40, asm.Word),
		asm.LoadMem(asm.R0, data, p.atProto(), asm.Byte),
	)
	p.ports(40)
	p.hash()
}

// Where the words of an IPv6 key that no register has are in the header.
var words6 = [...]struct{ word, off int16 }{{2, 16}, {3, 24}, {4, 32}}

// ports makes word 1 of the key from the ports and the protocol in R0, and works
// out which states the packet leaves as they are (conn.StatesKept).
func (p *program) ports(header int16) {
	at := p.atIP() + header
	read, sctp, udp := p.here("read"), p.here("sctp"), p.here("udp")
	p.emit(
		asm.JEq.Imm(asm.R0, protoUDP, udp),
		asm.JNE.Imm(asm.R0, protoTCP, sctp),
	)
	p.proto(protoTCP)
	p.need(int32(at) + 20)
	p.emit(
		asm.JLT.Imm(total, int32(header)+20, pass),
		asm.LoadMem(asm.R0, data, at+13, asm.Byte),
	)
	p.flags(read)
	p.symbol = sctp
	p.emit(asm.JNE.Imm(asm.R0, protoSCTP, pass))
	p.proto(protoSCTP)
	p.need(int32(at) + 16)
	p.emit(
		asm.JLT.Imm(total, int32(header)+16, pass),
		asm.LoadMem(asm.R0, data, at+12, asm.Byte),
		// A chunk that means something is Go's.
		asm.JGT.Imm(asm.R0, 31, pass),
		asm.Mov.Imm32(asm.R1, int32(conn.SCTPEvents())),
		asm.RSh.Reg(asm.R1, asm.R0),
		asm.And.Imm(asm.R1, 1),
		asm.JNE.Imm(asm.R1, 0, pass),
		asm.Mov.Imm32(kept, int32(conn.SCTPKept())),
		asm.Ja.Label(read),
	)
	p.symbol = udp
	p.proto(protoUDP)
	p.emit(
		asm.JLT.Imm(total, int32(header)+8, pass),
		asm.Mov.Imm(kept, -1),
	)
	p.symbol = read
}

// proto adds what the upper half of word 1 says to the ports.
func (p *program) proto(number int64) {
	family := int64(4)
	if p.six {
		family = 6
	}
	p.emit(asm.LoadImm(asm.R1, (family<<8|number)<<32, asm.DWord), asm.Or.Reg(ports, asm.R1))
}

// flags goes to read with the states in kept that the TCP flags in R0 do not change.
func (p *program) flags(read string) {
	const fin, syn, rst, ack = 1, 2, 4, 16
	states := conn.TCPKept()
	p.emit(
		asm.And.Imm(asm.R0, fin|syn|rst|ack),
		asm.Mov.Imm32(kept, int32(states.OnACK)),
		asm.JEq.Imm(asm.R0, ack, read),
		asm.Mov.Imm32(kept, 0), // Go looks at each
		asm.JSet.Imm(asm.R0, syn, read),
		asm.Mov.Imm32(kept, int32(states.OnRST)),
		asm.JSet.Imm(asm.R0, rst, read),
		asm.Mov.Imm32(kept, int32(states.OnFIN)),
		asm.JSet.Imm(asm.R0, fin, read),
		asm.Mov.Imm32(kept, int32(states.OnNone)),
		asm.Ja.Label(read),
	)
}

const (
	protoTCP  = 6
	protoUDP  = 17
	protoSCTP = 132
)

// slotShift turns a slot's number into an offset.
const slotShift = 6

// headerSlots is how many elements of the array the table's header takes.
const headerSlots = shtab.HeaderSize / shtab.SlotSize

func le32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}
func le16(b []byte) uint16 { return uint16(b[0]) | uint16(b[1])<<8 }
