package program

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/conn"
)

// parser reads the headers, and passes what is not the program's.
type parser struct{ emitter }

// EtherTypes, as they are loaded.
var (
	typeIPv4  = int32(bits.ReverseBytes16(0x0800))
	typeARP   = int32(bits.ReverseBytes16(0x0806))
	typeIPv6  = int32(bits.ReverseBytes16(0x86dd))
	typeVLAN  = int32(bits.ReverseBytes16(0x8100))
	typeOuter = int32(bits.ReverseBytes16(0x88a8))
)

// filterMAC passes what is not addressed to this interface.
//
// in: R1; out: data end; lost: R1 R2
func (p *parser) filterMAC() {
	defer p.step("filterMAC", "only frames to this interface")()
	if p.Claims != 0 && p.Hook == XDP {
		p.emit(save(stackContext, asm.R1))
	}
	p.readPacket(data, asm.R1)
	p.readEnd(end, asm.R1)
	p.checkBounds(14 + p.shortest())
	p.emit(asm.LoadMem(asm.R2, data, 0, asm.DWord), asm.LSh.Imm(asm.R2, 16))
	for i, m := range p.MACs {
		if i > 0 {
			p.symbol = fmt.Sprint("mac", i)
		}
		next := PassLabel
		if i < len(p.MACs)-1 {
			next = fmt.Sprint("mac", i+1)
		}
		address := uint64(binary.LittleEndian.Uint32(m[:]))<<16 | uint64(binary.LittleEndian.Uint16(m[4:]))<<48
		p.emit(
			asm.LoadImm(asm.R1, int64(address), asm.DWord),
			asm.JNE.Reg(asm.R2, asm.R1, next),
		)
		if next != PassLabel {
			p.emit(asm.Ja.Label(p.label("family")))
		}
	}
}

// parseEther parts by what is behind the tags so far.
//
// in: data end; out: -; lost: R1
func (p *parser) parseEther() {
	defer p.step("parseEther", "IPv4, IPv6, or one VLAN tag more")()
	p.mark("family")
	if p.tags > 0 {
		p.checkBounds(int32(p.atIP()) + p.shortest())
	}
	p.emit(asm.LoadMem(asm.R1, data, p.atType(), asm.Half))
	for _, p.six = range p.families() {
		etherType := typeIPv4
		if p.six {
			etherType = typeIPv6
		}
		p.emit(asm.JEq.Imm(asm.R1, etherType, p.label("ip")))
	}
	if p.tags < p.maxTags() {
		next := fmt.Sprintf("family.%d", p.tags+1)
		p.emit(asm.JEq.Imm(asm.R1, typeVLAN, next), asm.JEq.Imm(asm.R1, typeOuter, next))
	}
	p.emit(asm.Ja.Label(PassLabel))
}

// checkBounds passes frames of fewer than n bytes.
func (p *parser) checkBounds(n int32) {
	p.emit(asm.Mov.Reg(asm.R1, data), asm.Add.Imm(asm.R1, n), asm.JGT.Reg(asm.R1, end, PassLabel))
}

// checkLength passes what is shorter than its total length, which is in total.
//
// in: data end total; out: -; lost: R1
func (p *parser) checkLength() {
	defer p.step("checkLength", "no shorter than its total length")()
	if p.Hook == TC { // part of it is elsewhere
		p.emit(
			restore(asm.R1, stackContext),
			asm.LoadMem(asm.R1, asm.R1, skbLen, asm.Word),
			asm.Sub.Imm(asm.R1, int32(p.atIP())),
			asm.JGT.Reg(total, asm.R1, p.labelStrange()),
		)
		return
	}
	// Linux 6.12 does not take a length whose bytes were swapped for a small one, so
	// it is compared as a number; that takes CAP_PERFMON.
	p.emit(
		asm.Mov.Reg(asm.R1, end),
		asm.Sub.Reg(asm.R1, data),
		asm.Sub.Imm(asm.R1, int32(p.atIP())),
		asm.JGT.Reg(total, asm.R1, PassLabel),
	)
}

// readTotal reads how long the packet is.
func (e *emitter) readTotal() {
	if e.six {
		e.emit(
			asm.LoadMem(total, data, e.atIP()+4, asm.Half),
			asm.HostTo(asm.BE, total, asm.Half),
			asm.Add.Imm(total, 40),
		)
		return
	}
	e.emit(asm.LoadMem(total, data, e.atIP()+2, asm.Half), asm.HostTo(asm.BE, total, asm.Half))
}

// parseIPv4 reads a packet without options that is no fragment, and can live on.
//
// in: data end; out: addrs ports kept total; lost: R0 R1 R2
func (p *parser) parseIPv4() {
	defer p.step("parseIPv4", "IPv4 without options, whole, alive, with a right checksum")()
	atIP := p.atIP()
	p.mark("ip")
	const versionLength, fragment = 0xff, 0x3fff // in bytes 0, and 6 and 7
	p.emit(
		asm.LoadMem(asm.R0, data, atIP, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.R0),
		asm.LoadImm(asm.R1, int64(bytesOf(0, versionLength)|bytesOf(6, fragment>>8)|bytesOf(7, fragment&0xff)),
			asm.DWord),
		asm.And.Reg(asm.R0, asm.R1),
		p.strangeIf(asm.JNE, asm.R0, 0x45),
		asm.LoadMem(asm.R0, data, atIP+8, asm.Byte),
		p.strangeIf(asm.JLE, asm.R0, 1),
	)
	p.readTotal()
	p.readLarge()
	p.checkLength()
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
		p.strangeIf(asm.JNE, asm.R2, 0),
		asm.LoadMem(addrs, data, atIP+12, asm.DWord),
	)
	if !p.portsLater() {
		p.emit(asm.LoadMem(ports, data, atIP+20, asm.Word))
	}
	p.emit(asm.LoadMem(asm.R0, data, p.atProto(), asm.Byte))
	p.parsePorts(20)
}

// bytesOf returns a word that has b in the byte at offset i in memory.
func bytesOf(i int, b uint64) uint64 { return b << (8 * i) }

// parseIPv6 reads a packet without extension headers that can live on.
//
// in: data end; out: addrs ports kept total; lost: R0 R1
func (p *parser) parseIPv6() {
	defer p.step("parseIPv6", "IPv6 without extension headers, alive")()
	atIP := p.atIP()
	p.mark("ip")
	p.emit(
		asm.LoadMem(asm.R0, data, atIP, asm.Byte),
		asm.RSh.Imm(asm.R0, 4),
		p.strangeIf(asm.JNE, asm.R0, 6),
		asm.LoadMem(asm.R0, data, atIP+7, asm.Byte),
		p.strangeIf(asm.JLE, asm.R0, 1),
	)
	p.readTotal()
	p.readLarge()
	p.checkLength()
	p.emit(
		asm.LoadMem(addrs, data, atIP+8, asm.DWord),
		asm.LoadMem(asm.R0, data, p.atProto(), asm.Byte),
	)
	p.parsePorts(40)
}

// parsePorts makes word 1 of the key from the ports and the protocol in R0, and works
// out which states the packet leaves as they are (conn.StatesKept).
//
// in: R0 ports data end total; out: ports kept; lost: R0 R1
func (p *parser) parsePorts(header int16) {
	defer p.step("parsePorts", "the ports and the protocol, and which states this packet leaves as they are")()
	at := p.atIP() + header
	read, sctp, udp, other := p.label("read"), p.label("sctp"), p.label("udp"), p.labelStrange()
	if p.jumbos() {
		other = p.label("option")
	}
	p.emit(
		asm.JEq.Imm(asm.R0, ProtoUDP, udp),
		asm.JNE.Imm(asm.R0, ProtoTCP, sctp),
	)
	p.readPorts(ProtoTCP, 20)
	p.emit(
		p.strangeIf(asm.JLT, total, int32(header)+20),
		asm.LoadMem(asm.R0, data, at+13, asm.Byte),
	)
	p.parseFlags(read)
	p.symbol = sctp
	p.emit(asm.JNE.Imm(asm.R0, ProtoSCTP, other))
	p.readPorts(ProtoSCTP, 16)
	p.emit(
		p.strangeIf(asm.JLT, total, int32(header)+16),
		asm.LoadMem(asm.R0, data, at+12, asm.Byte),
		asm.Mov.Imm32(kept, int32(conn.SCTPKept())),
		asm.JGE.Imm(asm.R0, conn.SCTPChunks, read),
		asm.Mov.Imm32(asm.R1, int32(conn.SCTPEvents())),
		asm.RSh.Reg(asm.R1, asm.R0),
		asm.And.Imm(asm.R1, 1),
		asm.JEq.Imm(asm.R1, 0, read),
		asm.Mov.Imm32(kept, 0), // a chunk that means something is looked at again
		asm.Ja.Label(read),
	)
	if p.jumbos() {
		p.symbol = other
		p.parseJumbo(read)
	}
	p.symbol = udp
	p.readPorts(ProtoUDP, 8)
	p.emit(
		p.strangeIf(asm.JLT, total, int32(header)+8),
		asm.Mov.Imm(kept, -1),
	)
	p.symbol = read
}

// shortest is how much there is of the shortest IP packet that the program looks at. At TC's hook that has no
// more than IPv4's header: of a fragment, which is Go's, there may be a byte behind that, where no wire has
// padded it.
func (p *parser) shortest() int32 {
	if p.Hook == TC {
		return 20
	}
	return 20 + 8
}

// portsLater reports whether it is not known that there are ports before the protocol is.
func (p *parser) portsLater() bool { return p.six || p.Hook == TC }

// readPorts passes frames that end before so many bytes of the transport header, which at TC's hook is all that there
// is of it, and has the ports and the protocol in word 1. What of an IPv4 frame filterMAC has seen to be there need not
// be looked at again.
func (p *parser) readPorts(number int64, length int32) {
	family := int64(4)
	if p.six {
		family = 6
	}
	if at := p.atPorts(); p.portsLater() {
		short := PassLabel
		if p.Hook == TC {
			short = p.labelStrange()
		}
		p.emit(
			asm.Mov.Reg(asm.R1, data), asm.Add.Imm(asm.R1, int32(at)+length), asm.JGT.Reg(asm.R1, end, short),
			asm.LoadMem(ports, data, at, asm.Word),
		)
	}
	p.emit(asm.LoadImm(asm.R1, (family<<8|number)<<32, asm.DWord), asm.Or.Reg(ports, asm.R1))
	if !p.portsLater() && number != ProtoUDP {
		p.checkBounds(int32(p.atPorts()) + length)
	}
}

// parseFlags goes to read with the states in kept that the TCP flags in R0 do not change.
func (p *parser) parseFlags(read string) {
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
