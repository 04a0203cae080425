package xdp

import "github.com/cilium/ebpf/asm"

// miss is where a packet goes that has no connection. Of those without a VLAN tag,
// the first packets of a service open one, or are for the sockets; the rest is passed.
func (p *program) miss() {
	p.label("miss")
	if !p.asks() {
		p.emit(asm.Ja.Label(pass))
		return
	}
	if p.makes() {
		p.emit(
			asm.StoreMem(asm.RFP, stackKey, addrs, asm.DWord),
			asm.StoreMem(asm.RFP, stackKey+8, ports, asm.DWord),
			asm.StoreMem(asm.RFP, p.connTable().stack+entryHome, asm.R2, asm.DWord),
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
	p.claimed()
	known := p.here("ask")
	if p.makes() {
		known = p.here("service")
	}
	p.emit(
		asm.JNE.Imm(asm.R0, 0, known),
		asm.Mov.Imm(asm.R1, 0), // a service of every port
		asm.StoreMem(asm.RFP, claim+16, asm.R1, asm.Half),
	)
	p.claimed()
	p.emit(asm.JEq.Imm(asm.R0, 0, pass))
	if p.makes() {
		p.label("service")
		p.open()
		p.fresh()
	}
	p.ask()
}

func (p *program) claimed() {
	p.emit(
		asm.LoadMapPtr(asm.R1, p.claims),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, stackClaim),
		asm.FnMapLookupElem.Call(),
	)
}

// ask gives a packet to the socket of its queue, if that fits it; otherwise, and
// where there is no socket, it is passed.
func (p *program) ask() {
	p.label("ask")
	p.emit(
		asm.JGT.Imm(total, int32(socketFrame-p.atIP()), pass),
		asm.LoadMem(asm.R1, data, p.atProto(), asm.Byte),
		asm.JEq.Imm(asm.R1, protoSCTP, pass), // its checksum may be missing
		asm.LoadMem(asm.R1, asm.RFP, stackContext, asm.DWord),
		asm.LoadMem(asm.R2, asm.R1, 16, asm.Word), // rx_queue_index
		asm.LoadMapPtr(asm.R1, p.sockets),
		asm.Mov.Imm(asm.R3, actionPass),
		asm.FnRedirectMap.Call(),
		asm.Return(),
	)
}

// undecided is the label of what a connection's packet goes to that is Go's.
func (p *program) undecided() string {
	if p.asks() {
		return p.here("ask")
	}
	return pass
}

// unexpected is the label of what a packet goes to whose connection is not for the
// program alone.
func (p *program) unexpected() string {
	if p.makes() {
		return p.here("fresh")
	}
	return pass
}

// asks reports whether there are sockets to ask: they know no VLAN.
func (p *program) asks() bool { return p.sockets != 0 && p.tags == 0 }

// atProto is where the transport protocol is in a frame.
func (p *program) atProto() int16 {
	if p.six {
		return p.atIP() + 6
	}
	return p.atIP() + 9
}
