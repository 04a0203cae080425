package program

import "github.com/cilium/ebpf/asm"

// miss decides about a packet that has no connection. The first packets of a service open
// one or, without a VLAN tag, are for the sockets; the rest is passed.
//
// in: R2 addrs ports data; out: dest data total slot; lost: R0 R1 R2 R3 R4 R5
func (p *Program) miss() {
	defer p.step("miss", "no connection: is it for a service?")()
	p.mark("miss")
	if !p.hasSockets() && !p.opens() {
		p.emit(asm.Ja.Label(PassLabel))
		return
	}
	if p.opens() {
		p.emit(
			save(stackKey, addrs),
			save(stackKey+8, ports),
			save(p.connTable().stack+entryHome, asm.R2),
		)
	}
	const claim = stackClaim
	atIP := p.atIP()
	at, address, size, family := atIP+20, atIP+16, int16(4), int32(4)
	if p.six {
		at, address, size, family = atIP+40, atIP+24, 16, 6
	}
	for off := int16(0); off < 16; off += 4 {
		if off < size {
			p.emit(asm.LoadMem(asm.R1, data, address+off, asm.Word))
		} else {
			p.emit(asm.Mov.Imm(asm.R1, 0))
		}
		p.emit(asm.StoreMem(asm.RFP, claim+off, asm.R1, asm.Word))
	}
	p.emit(
		asm.LoadMem(asm.R1, data, at+2, asm.Half),
		asm.StoreMem(asm.RFP, claim+16, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, data, p.atProto(), asm.Byte),
		asm.StoreMem(asm.RFP, claim+18, asm.R1, asm.Byte),
		asm.Mov.Imm(asm.R1, family),
		asm.StoreMem(asm.RFP, claim+19, asm.R1, asm.Byte),
	)
	p.lookupClaim()
	known := p.label("go")
	if p.opens() {
		known = p.label("service")
	}
	p.emit(
		asm.JNE.Imm(asm.R0, 0, known),
		asm.Mov.Imm(asm.R1, 0), // a service of every port
		asm.StoreMem(asm.RFP, claim+16, asm.R1, asm.Half),
	)
	p.lookupClaim()
	p.emit(passIf(asm.JEq, asm.R0, 0))
	if p.opens() {
		p.mark("service")
		p.openConn()
		p.acceptPending()
		p.changeState()
	}
	p.redirectToSocket()
}

// lookupClaim asks for the claim of the key on the stack.
//
// in: -; out: R0; lost: R1 R2 R3 R4 R5
func (e *emitter) lookupClaim() {
	defer e.step("lookupClaim", "the claim of this address, protocol and port")()
	e.emit(
		asm.LoadMapPtr(asm.R1, e.Claims),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, stackClaim),
		asm.FnMapLookupElem.Call(),
	)
}

// redirectToSocket gives a packet to the socket of its queue, if that fits it; otherwise, and
// where there is no socket, it is passed, to the plane behind.
//
// in: data total; out: -; lost: R0 R1 R2 R3 R4 R5
func (p *Program) redirectToSocket() {
	defer p.step("redirectToSocket", "Go's, by the socket of its queue")()
	p.mark("go")
	if !p.hasSockets() {
		p.emit(asm.Ja.Label(PassLabel))
		return
	}
	p.emit(
		passIf(asm.JGT, total, int32(SocketFrame-p.atIP())),
		asm.LoadMem(asm.R1, data, p.atProto(), asm.Byte),
		passIf(asm.JEq, asm.R1, ProtoSCTP), // its checksum may be missing
		restore(asm.R1, stackContext),
		asm.LoadMem(asm.R2, asm.R1, 16, asm.Word), // rx_queue_index
		asm.LoadMapPtr(asm.R1, p.Sockets),
		asm.Mov.Imm(asm.R3, ActionPass),
		asm.FnRedirectMap.Call(),
		asm.Return(),
	)
}
