package program

import (
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/preselect"
)

// takesRare reports whether sockets get fragments and ICMP errors: the plane behind has what else cannot be
// read, and all of it where Go has no way to give the host what is the host's.
func (e *emitter) takesRare() bool { return e.Hook == XDP && e.hasSockets() && e.GivesBack }

// rare gives to the socket what the host is kept from of packets without ports of their own: fragments for an
// address and a protocol that have services, and ICMP errors about what a service's address and port have
// sent. Later fragments go where the first one does, and so behind it. All else is for the plane behind.
//
// in: data end; out: -; lost: R0 R1 R2 R3 R4 R5 end
func (p *Program) rare() {
	defer p.step("rare", "not to be read: a fragment, or an ICMP error, of a service?")()
	const icmp4, icmp6, fragmented, icmpSize = 1, 58, 44, 8
	p.mark("strange")
	atIP := p.atIP()
	header, version, shift := int32(20), int32(0x45), int32(0)
	if p.six {
		header, version, shift = 40, 6, 4
	}
	isVersion := func(at int16) {
		p.emit(
			asm.LoadMem(asm.R0, data, at, asm.Byte),
			asm.RSh.Imm(asm.R0, shift),
			passIf(asm.JNE, asm.R0, version),
		)
	}
	p.checkBounds(int32(atIP) + header + icmpSize)
	isVersion(atIP)
	p.emit( // what does not fit the socket's frame
		asm.Mov.Reg(asm.R0, data),
		asm.Add.Imm(asm.R0, SocketFrame),
		asm.JGT.Reg(end, asm.R0, PassLabel),
		asm.LoadMem(asm.R2, data, p.atProto(), asm.Byte),
	)
	upper := atIP + int16(header)
	quoted, fragment := upper+icmpSize, p.label("fragment")
	if p.six {
		p.emit(
			asm.JEq.Imm(asm.R2, fragmented, fragment),
			passIf(asm.JNE, asm.R2, icmp6),
			asm.LoadMem(asm.R0, data, upper, asm.Byte),
			passIf(asm.JGE, asm.R0, 128),
		)
		p.checkBounds(int32(quoted) + header + 4)
		isVersion(quoted)
		p.claimKey(quoted+6, quoted+40, quoted+8)
	} else {
		const unreachable, slower, exceeded, offset = 3, 4, 11, 0x1fff
		p.emit(
			asm.LoadMem(asm.R0, data, atIP+6, asm.Half),
			asm.HostTo(asm.BE, asm.R0, asm.Half),
			asm.And.Imm(asm.R0, 0x3fff),
			asm.JNE.Imm(asm.R0, 0, fragment),
			passIf(asm.JNE, asm.R2, icmp4),
			asm.LoadMem(asm.R0, data, upper, asm.Byte),
			asm.JEq.Imm(asm.R0, unreachable, p.label("error")),
			asm.JEq.Imm(asm.R0, slower, p.label("error")),
			passIf(asm.JNE, asm.R0, exceeded),
		)
		p.mark("error")
		p.checkBounds(int32(quoted) + header + 4)
		isVersion(quoted)
		p.emit(
			asm.LoadMem(asm.R0, data, quoted+6, asm.Half),
			asm.HostTo(asm.BE, asm.R0, asm.Half),
			asm.And.Imm(asm.R0, offset),
			passIf(asm.JNE, asm.R0, 0),
		)
		p.claimKey(quoted+9, quoted+20, quoted+12)
	}
	p.lookupClaim("quoted", p.label("of-service"))
	p.everyPort()
	p.lookupClaim("quoted-every", p.label("of-service"))
	p.emit(asm.Ja.Label(PassLabel))
	p.mark("of-service")
	p.emit(
		asm.Mov.Reg32(asm.R1, end),
		passIf(asm.JEq, asm.R1, dataplane.Elsewhere),
		asm.Ja.Label(p.label("handed")),
	)
	p.mark("fragment")
	family, to := uint64(4), atIP+16
	if p.six {
		family, to = 6, atIP+24
		p.emit(asm.LoadMem(asm.R2, data, upper, asm.Byte))
	}
	p.emit(
		asm.JEq.Imm(asm.R2, ProtoTCP, p.label("ported")),
		passIf(asm.JNE, asm.R2, ProtoUDP),
	)
	p.mark("ported")
	p.emit(
		asm.Mov.Reg(asm.R1, asm.R2),
		asm.LSh.Imm(asm.R1, 40), // in the place of a port's lower byte (preselect.FragmentClaim)
	)
	p.claimAddress(to)
	p.emit(
		asm.LoadImm(asm.R0, int64(family<<56|preselect.AnyPacket<<48), asm.DWord),
		asm.Or.Reg(asm.R1, asm.R0),
	)
	p.lookupClaim("fragments", p.label("handed"))
	p.emit(asm.Ja.Label(PassLabel))
}
