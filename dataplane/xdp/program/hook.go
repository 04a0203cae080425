package program

import "github.com/cilium/ebpf/asm"

// Hook is where a program is attached: what it is given there, and how a packet leaves it.
type Hook int

// The hooks. At TC's the frame is an skb: the outermost VLAN tag is beside it, what is behind the
// headers may be elsewhere, it may be as large as segmentation offload has it, and its checksum
// unfinished.
const (
	XDP Hook = iota // the driver (struct xdp_md), or in generic mode what stands in for it
	TC              // ingress of tcx or clsact (struct __sk_buff)
)

// Where things are in a program's context (include/uapi/linux/bpf.h).
const (
	xdpData  = 0
	xdpEnd   = 4
	xdpQueue = 16

	skbLen         = 0
	skbMark        = 8
	skbProtocol    = 16
	skbVLANPresent = 20
	skbIfindex     = 40
	skbData        = 76
	skbEnd         = 80
	skbGSOSize     = 176
)

// What programs return, and are asked for, at TC's hook.
const (
	tcxNext   = -1 // TCX_NEXT, or for clsact TC_ACT_UNSPEC
	tcxDrop   = 2  // TCX_DROP, TC_ACT_SHOT
	toIngress = 1  // BPF_F_INGRESS
)

// longest is how many bytes of a frame are looked at: Ethernet, a tag, IPv6, a jumbo payload option and TCP.
const longest = 14 + 4 + 40 + jumboLen + 20

// oneLess is what taking one off a byte at an odd offset adds to a sum.
const oneLess = 0xfeff

// HostMark is the mark of frames that come back to the host by way of the private interface.
const HostMark = 0x756c7673

// readPacket loads where the packet starts, by the context in a register, and readEnd where it ends.
func (e *emitter) readPacket(to, context asm.Register) { e.readContext(to, context, xdpData, skbData) }
func (e *emitter) readEnd(to, context asm.Register)    { e.readContext(to, context, xdpEnd, skbEnd) }

func (e *emitter) readContext(to, context asm.Register, xdp, tc int16) {
	at := xdp
	if e.Hook == TC {
		at = tc
	}
	e.emit(asm.LoadMem(to, context, at, asm.Word))
}

// actionPass returns what a program returns for what is not ours.
func (c *Config) actionPass() int32 {
	if c.Hook == TC {
		return tcxNext
	}
	return ActionPass
}

// alone reports whether what the program passes is the host's for good: no plane behind sees it.
func (e *emitter) alone() bool { return e.Hook == TC && e.Private != 0 }

// unlessSeen returns a label of what is alone's to decide about, or that of the way out where a plane behind
// sees what is passed.
func (e *emitter) unlessSeen(name string) string {
	if e.alone() {
		return e.label(name)
	}
	return PassLabel
}

// labelStrange returns the label of what a packet goes to that the program cannot read, labelGo of one
// of which Go alone knows what to do, though no socket may take it, and labelUnclaimed of one for no
// service.
func (e *emitter) labelStrange() string {
	if e.takesRare() {
		return e.label("strange")
	}
	return e.unlessSeen("strange")
}
func (e *emitter) labelGo() string        { return e.unlessSeen("go") }
func (e *emitter) labelUnclaimed() string { return e.unlessSeen("unclaimed") }

// takesGo reports whether there is a way by which what is Go's leaves the program, and the stack does
// not get it.
func (e *emitter) takesGo() bool { return e.hasSockets() || e.alone() }

// strangeIf leaves a packet that cannot be read, if a register compares so with a number.
func (e *emitter) strangeIf(op asm.JumpOp, r asm.Register, n int32) asm.Instruction {
	return op.Imm(r, n, e.labelStrange())
}

// begin has the headers be in the linear part, and leaves to the host what comes back to it.
//
// in: R1; out: -; lost: R0 R1 R2 R3 R4 R5
func (p *parser) begin() {
	if p.Hook != TC {
		return
	}
	defer p.step("begin", "headers in one piece")()
	left := PassLabel
	if p.alone() {
		left = leftLabel
	}
	p.emit(
		asm.LoadMem(asm.R2, asm.R1, skbIfindex, asm.Word),
		asm.JNE.Imm32(asm.R2, int32(p.Ifindex), left), // it has gone to another namespace
		save(stackContext, asm.R1),
		asm.LoadMem(asm.R2, asm.R1, skbMark, asm.Word),
		asm.JNE.Imm32(asm.R2, HostMark, "remote"),
		asm.Mov.Imm(asm.R2, 0),
		asm.StoreMem(asm.R1, skbMark, asm.R2, asm.Word),
		asm.Ja.Label(left),
	)
	p.symbol = "remote"
	p.emit(
		asm.LoadMem(asm.R2, asm.R1, skbLen, asm.Word),
		asm.LoadMem(asm.R3, asm.R1, skbEnd, asm.Word),
		asm.LoadMem(asm.R4, asm.R1, skbData, asm.Word),
		asm.Sub.Reg(asm.R3, asm.R4),
		asm.JGE.Reg(asm.R3, asm.R2, "linear"),
		asm.JGE.Imm(asm.R3, longest, "linear"),
		asm.JLE.Imm(asm.R2, longest, "pull"),
		asm.Mov.Imm(asm.R2, longest),
	)
	p.symbol = "pull"
	p.emit(asm.FnSkbPullData.Call(), restore(asm.R1, stackContext))
	p.symbol = "linear"
}

// readLarge finds how long a packet is whose length does not fit its header, where that says 0 (BIG TCP;
// include/linux/ip.h, iph_totlen).
//
// in: total; out: total; lost: R1
func (p *parser) readLarge() {
	if p.Hook != TC {
		return
	}
	defer p.step("readLarge", "longer than its header can say")()
	own := int32(0)
	if p.six {
		own = 40
	}
	p.emit(
		asm.JNE.Imm(total, own, p.label("said")),
		restore(asm.R1, stackContext),
		asm.LoadMem(total, asm.R1, skbGSOSize, asm.Word),
		p.strangeIf(asm.JEq, total, 0),
		asm.LoadMem(total, asm.R1, skbLen, asm.Word),
		asm.Sub.Imm(total, int32(p.atIP())),
	)
	p.mark("said")
}

// strange has Go look at a packet that the program cannot read, if it is for an address that has
// services: a fragment, an ICMP error, one with options, a damaged one. All else is not ours.
//
// in: data end; out: -; lost: R0 R1 R2 R3 R4 R5 end
func (p *Program) strange() {
	if p.takesRare() {
		p.rare()
		return
	}
	if !p.alone() {
		return
	}
	defer p.step("strange", "not to be read: is it for an address that has services?")()
	p.mark("strange")
	p.checkBounds(int32(p.atPorts()))
	p.discovery()
	p.lookupAddress("address", p.label("handed"))
	p.large()
}

// unclaimed passes what is for no service, unless it may be by a mark: then it is Go's.
//
// in: -; out: -; lost: R1
func (p *Program) unclaimed() {
	if !p.alone() {
		return
	}
	defer p.step("unclaimed", "for no service, unless a mark that no claim knows is one's")()
	p.mark("unclaimed")
	p.passUnclaimed(p.label("go"))
}

// passUnclaimed goes to a label with what is for no service, where it may be for one by a mark.
func (p *Program) passUnclaimed(marked string) {
	p.setting(asm.R1, SettingsUnclaimed)
	p.emit(
		asm.And.Imm(asm.R1, int32(OpeningBit(p.six))),
		asm.JNE.Imm(asm.R1, 0, marked),
		asm.Ja.Label(PassLabel),
	)
}

// leftLabel is that of the way out of what Go need not see.
const leftLabel = "left"

// pass leaves a packet to the plane behind, or to the host. Of what goes by alone Go gets a copy
// if it is ARP or neighbour discovery, which the host answers too: who has an address (director/conflict.go,
// forward/standby.go). What comes so is not given back (dataplane/afpacket, copied).
//
// in: -; out: -; lost: R0 R1 R2 R3 R4 R5
func (p *Program) pass() {
	defer p.step("pass", "left to the plane behind")()
	p.symbol = PassLabel
	if p.alone() {
		const atType = 14 + 40
		p.emit(
			restore(asm.R1, stackContext),
			asm.LoadMem(asm.R2, asm.R1, skbProtocol, asm.Word),
			asm.JEq.Imm(asm.R2, typeARP, "copy"),
			asm.JNE.Imm(asm.R2, typeIPv6, leftLabel),
			asm.LoadMem(asm.R3, asm.R1, skbData, asm.Word),
			asm.LoadMem(asm.R2, asm.R1, skbEnd, asm.Word),
			asm.Mov.Reg(asm.R4, asm.R3),
			asm.Add.Imm(asm.R4, atType+1),
			asm.JGT.Reg(asm.R4, asm.R2, leftLabel),
			asm.LoadMem(asm.R4, asm.R3, 14+6, asm.Byte),
			asm.JNE.Imm(asm.R4, protoICMPv6, leftLabel),
			asm.LoadMem(asm.R4, asm.R3, atType, asm.Byte),
			asm.Sub.Imm(asm.R4, solicitation),
			asm.JGT.Imm(asm.R4, advertisement-solicitation, leftLabel),
		)
		p.symbol = "copy"
		p.checkNamespace(leftLabel)
		p.emit(
			restore(asm.R1, stackContext),
			asm.Mov.Imm(asm.R2, int32(p.Private)),
			asm.Mov.Imm(asm.R3, toIngress),
			asm.FnCloneRedirect.Call(),
		)
		p.symbol = leftLabel
	}
	p.emit(asm.Mov.Imm(asm.R0, p.actionPass()), asm.Return())
}

// ICMPv6 as the next header, and its types of neighbour discovery that say where an address is (RFC 4861).
const (
	protoICMPv6   = 58
	solicitation  = 135
	advertisement = 136
)

// discovery passes neighbour discovery.
//
// in: data end; out: -; lost: R1
func (p *Program) discovery() {
	if !p.six {
		return
	}
	defer p.step("discovery", "neighbour discovery is the host's too")()
	at := p.atIP() + 40
	p.emit(
		asm.LoadMem(asm.R1, data, p.atProto(), asm.Byte),
		asm.JNE.Imm(asm.R1, protoICMPv6, p.label("other")),
	)
	p.checkBounds(int32(at) + 1)
	p.emit(
		asm.LoadMem(asm.R1, data, at, asm.Byte),
		asm.Sub.Imm(asm.R1, solicitation),
		asm.JLE.Imm(asm.R1, advertisement-solicitation, PassLabel),
	)
	p.mark("other")
}

// redirectToPrivate gives a packet to Go, by the private interface.
func (p *Program) redirectToPrivate() {
	p.checkNamespace(PassLabel)
	p.emit(
		asm.Mov.Imm(asm.R1, int32(p.Private)),
		asm.Mov.Imm(asm.R2, toIngress),
		asm.FnRedirect.Call(),
		asm.Return(),
	)
}

// checkSegments leaves to Go what is larger than the real server's MTU, which is in R1, and is no frame
// of which each segment fits (include/linux/skbuff.h, skb_gso_validate_network_len). Labels begin with what.
//
// in: R1 data total; out: -; lost: R0 R3 R4
func (f *forwarder) checkSegments(what string) {
	defer f.step("checkSegments", "no larger than may be, or in segments that are")()
	if f.Hook != TC {
		f.emit(asm.JGT.Reg(total, asm.R1, f.labelCrosses(PassLabel)))
		return
	}
	at, no := f.atPorts(), f.labelCrosses(f.labelGo())
	header := int32(at - f.atIP())
	f.emit(
		asm.JLE.Reg(total, asm.R1, f.label(what+"fits")),
		restore(asm.R3, stackContext),
		asm.LoadMem(asm.R4, asm.R3, skbGSOSize, asm.Word),
		asm.JEq.Imm(asm.R4, 0, no),
	)
	f.readEnd(asm.R3, asm.R3)
	f.emit(
		asm.Mov.Reg(asm.R0, data),
		asm.Add.Imm(asm.R0, int32(at)+20),
		asm.JGT.Reg(asm.R0, asm.R3, no), // never: for the verifier
		asm.LoadMem(asm.R0, data, f.atProto(), asm.Byte),
	)
	f.readBehind(12, f.label(what+"offset"), no)
	f.emit(
		asm.Mov.Imm(asm.R3, 8),
		asm.JNE.Imm(asm.R0, ProtoTCP, f.label(what+"headers")),
		asm.LoadMem(asm.R0, data, at+12, asm.Byte),
	)
	f.mark(what + "offset")
	f.emit(
		asm.RSh.Imm(asm.R0, 4),
		asm.LSh.Imm(asm.R0, 2),
		asm.Mov.Reg(asm.R3, asm.R0),
	)
	f.mark(what + "headers")
	f.emit(
		asm.Add.Reg(asm.R4, asm.R3),
		asm.Add.Imm(asm.R4, header),
		asm.JGT.Reg(asm.R4, asm.R1, no),
	)
	f.mark(what + "fits")
}

// checkTag loads by which interface the real server in R2 is reached, R3. An XDP frame with a VLAN tag, which is
// this interface's, leaves by no other one, and without by none whose driver does not take it: a program at the
// ingress does.
//
// in: R2; out: R3; lost: R0
func (f *forwarder) checkTag() {
	defer f.step("checkTag", "with a VLAN tag only by the interface that it came by")()
	f.emit(asm.LoadMem(asm.R3, asm.R2, ServerIfindex, asm.Word))
	switch {
	case f.Hook == XDP && f.tags > 0:
		f.emit(passIf(asm.JNE, asm.R3, int32(f.Ifindex)))
	case f.Hook == XDP && f.Behind:
		f.emit(
			asm.JEq.Imm(asm.R3, int32(f.Ifindex), f.label("sends")),
			asm.LoadMem(asm.R0, asm.R2, ServerRedirect, asm.Word),
			passIf(asm.JEq, asm.R0, 0),
		)
		f.mark("sends")
	}
}

// untag takes the VLAN tags off a frame that leaves by another interface than it came by: tags say where a frame
// came in, and the other interface has its own (dataplane/afpacket, sender.transmit). That is how a trunk's
// frames go to real servers by way of a VLAN device.
//
// in: slot; out: R1; lost: R0 R2 R3 R4 R5
func (f *forwarder) untag() {
	defer f.step("untag", "by another interface, without this one's VLAN tags")()
	f.emit(restore(asm.R1, stackOut), asm.JEq.Imm(asm.R1, int32(f.Ifindex), f.label("untagged")))
	f.unlessMoved()
	for range 1 + f.tags { // the next one in the frame takes the place of that beside it
		f.emit(
			restore(asm.R1, stackContext),
			asm.FnSkbVlanPop.Call(), // does nothing where there is none
			asm.JNE.Imm(asm.R0, 0, f.label("drop")),
		)
	}
	f.emit(restore(asm.R1, stackOut))
	f.mark("untagged")
}
