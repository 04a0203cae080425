package program

import (
	"fmt"

	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/internal/preselect"
)

// miss decides about a packet that has no connection. The first packets of a service open
// one or, without a VLAN tag, are for the sockets; the rest is passed.
//
// in: R2 addrs ports data; out: dest data total slot; lost: R0 R1 R2 R3 R4 R5
func (p *Program) miss() {
	defer p.step("miss", "no connection: is it for a service?")()
	p.mark("miss")
	if !p.takesGo() && !p.opens() {
		p.emit(asm.Ja.Label(PassLabel))
		p.acceptPending()
		return
	}
	if p.jumbos() { // its ports are elsewhere, and it opens nothing
		p.emit(
			asm.LoadMem(asm.R1, data, p.atProto(), asm.Byte),
			asm.JEq.Imm(asm.R1, 0, p.unlessSeen("large")),
		)
	}
	if p.opens() {
		p.emit(
			save(stackKey, addrs),
			save(stackKey+8, ports),
			save(p.connTable().stack+entryHome, asm.R2),
		)
	}
	p.claimWords()
	known := p.label("go")
	if p.opens() {
		known = p.label("service")
	}
	p.lookupClaim("claim", known)
	p.everyPort()
	p.lookupClaim("every", known)
	p.emit(asm.Ja.Label(p.labelUnclaimed()))
	if p.opens() {
		p.mark("service")
		p.openConn()
	}
	p.acceptPending()
	if p.opens() {
		changer{&p.opener}.changeState()
	}
	p.cross()
	p.redirectToSocket()
}

// everyPort makes the key of a service of every port of the kept one's.
func (p *Program) everyPort() {
	everyPort := ^uint64(0xffff << 32)
	p.emit(
		restore(asm.R1, stackClaim),
		asm.LoadImm(asm.R0, int64(everyPort), asm.DWord),
		asm.And.Reg(asm.R1, asm.R0),
	)
}

// claimWords makes the words of the key of the packet's claim (preselect.Claim), R1, and of IPv6
// R4 and R5 besides, and keeps the first.
//
// in: data; out: R1 R4 R5; lost: R0
func (p *Program) claimWords() {
	defer p.step("claimWords", "the key of this address, protocol and port")()
	atIP := p.atIP()
	to := atIP + 16
	if p.six {
		to = atIP + 24
	}
	p.claimKey(p.atProto(), p.atPorts()+2, to)
}

// claimKey is claimWords for what has a protocol, a port and an address there.
func (p *Program) claimKey(proto, port, addr int16) {
	p.emit(
		asm.LoadMem(asm.R1, data, proto, asm.Byte),
		asm.LSh.Imm(asm.R1, 16),
		asm.LoadMem(asm.R0, data, port, asm.Half),
		asm.Or.Reg(asm.R1, asm.R0),
		asm.LSh.Imm(asm.R1, 32),
	)
	p.claimAddress(addr)
	family := uint64(4)
	if p.six {
		family = 6
	}
	p.emit(
		asm.LoadImm(asm.R0, int64(family<<56), asm.DWord),
		asm.Or.Reg(asm.R1, asm.R0),
		save(stackClaim, asm.R1),
	)
}

// claimAddress puts an address to the key in R1.
func (p *Program) claimAddress(addr int16) {
	if p.six {
		p.emit(
			asm.LoadMem(asm.R4, data, addr, asm.DWord),
			asm.LoadMem(asm.R5, data, addr+8, asm.DWord),
		)
		addr += 12
	}
	p.emit(asm.LoadMem(asm.R0, data, addr, asm.Word), asm.Or.Reg(asm.R1, asm.R0))
}

// lookupClaim goes to known with what is found by the key in R1, and of IPv6 in R4 and R5: the number
// and the serial in end, and the service beside a list in R0; or on where there is nothing
// (preselect.Claims). (The place itself would be another thing to the verifier for each.)
//
// in: R1 R4 R5; out: R0 end; lost: R2 R3
func (p *emitter) lookupClaim(name, known string) {
	defer p.step("lookupClaim", "the claim of this address, protocol and port")()
	multiply := func(to asm.Register, factor uint64) {
		p.emit(asm.LoadImm(asm.R0, int64(factor), asm.DWord), asm.Mul.Reg(to, asm.R0))
	}
	p.emit(asm.Mov.Reg(asm.R2, asm.R1))
	multiply(asm.R2, preselect.ClaimFactor)
	if p.six {
		p.emit(asm.Mov.Reg(asm.R3, asm.R4), asm.Add.Reg(asm.R3, asm.R5))
		multiply(asm.R3, preselect.ClaimFactorHigh)
		p.emit(asm.Add.Reg(asm.R2, asm.R3))
	}
	p.emit(asm.Mov.Reg(asm.R3, asm.R2), asm.RSh.Imm(asm.R3, 32), asm.Xor.Reg(asm.R2, asm.R3))
	multiply(asm.R2, preselect.ClaimMix)
	shift := int32(preselect.ClaimBucketShift(p.ClaimBuckets))
	p.emit(asm.Mov.Reg(asm.R3, asm.R2), asm.RSh.Imm(asm.R3, shift))
	p.searchBucket(name+"-1", known)
	p.emit(
		asm.Mov.Reg(asm.R3, asm.R2),
		asm.RSh.Imm(asm.R3, shift),
		asm.LSh.Imm(asm.R2, preselect.ClaimOther),
		asm.RSh.Imm(asm.R2, shift),
		asm.Xor.Reg(asm.R3, asm.R2),
		asm.And.Imm(asm.R3, int32(p.ClaimBuckets-1)), // it is: for the verifier of 6.1
	)
	p.searchBucket(name+"-2", known)
}

// lookupAddress goes to a label with what is for an address that has services, or may have one by a mark, and
// passes the rest.
//
// in: data; out: -; lost: R0 R1 R2 R3 R4 R5 end
func (p *Program) lookupAddress(name, to string) {
	defer p.step("lookupAddress", "the claim of this address")()
	atIP := p.atIP()
	last, family := atIP+16, uint64(4)
	if p.six {
		last, family = atIP+36, 6
	}
	p.emit(asm.LoadMem(asm.R1, data, last, asm.Word))
	if p.six {
		p.emit(
			asm.LoadMem(asm.R4, data, atIP+24, asm.DWord),
			asm.LoadMem(asm.R5, data, atIP+32, asm.DWord),
		)
	}
	p.emit(
		asm.LoadImm(asm.R0, int64(family<<56|preselect.AnyPacket<<48), asm.DWord),
		asm.Or.Reg(asm.R1, asm.R0),
	)
	p.lookupClaim(name, to)
	p.passUnclaimed(to)
}

// searchBucket looks for a claim in the bucket whose number is in R3.
//
// in: R1 R3 R4 R5; out: R0 end; lost: R3
func (p *emitter) searchBucket(name, known string) {
	defer p.step("searchBucket", "in a bucket")()
	p.emit(
		asm.Mul.Imm(asm.R3, preselect.ClaimSize*preselect.ClaimsInBucket),
		asm.LoadMapValue(asm.R0, p.Claims, 0),
		asm.Add.Reg(asm.R0, asm.R3),
	)
	for i := range int16(preselect.ClaimsInBucket) {
		at, next := i*preselect.ClaimSize, p.label(fmt.Sprint(name, "-", i))
		p.emit(
			asm.LoadMem(asm.R3, asm.R0, at+preselect.OffClaimWord, asm.DWord),
			asm.JNE.Reg(asm.R3, asm.R1, next),
		)
		if p.WeakOrder { // what else lies there is loaded later than the word: as readFirst has it
			p.emit(asm.And.Imm(asm.R3, 0), asm.Add.Reg(asm.R0, asm.R3))
		}
		if p.six {
			p.emit(
				asm.LoadMem(asm.R3, asm.R0, at+preselect.OffClaimHigh, asm.DWord),
				asm.JNE.Reg(asm.R3, asm.R4, next),
				asm.LoadMem(asm.R3, asm.R0, at+preselect.OffClaimLow, asm.DWord),
				asm.JNE.Reg(asm.R3, asm.R5, next),
			)
		}
		p.emit(
			asm.LoadMem(end, asm.R0, at+preselect.OffClaimNumber, asm.DWord),
			asm.LoadMem(asm.R0, asm.R0, at+preselect.OffClaimElse, asm.DWord),
			asm.Ja.Label(known),
		)
		p.symbol = next
	}
}

// redirectToSocket gives a packet to the socket of its queue, if that fits it; otherwise, and
// where there is no socket, it is passed, to the plane behind.
//
// in: data total; out: -; lost: R0 R1 R2 R3 R4 R5
func (p *Program) redirectToSocket() {
	defer p.step("redirectToSocket", "Go's, by the socket of its queue")()
	p.mark("go")
	if !p.takesGo() {
		p.emit(asm.Ja.Label(PassLabel))
		return
	}
	p.unlessSocket()
	if p.crosses() {
		counter{&p.emitter}.countHanded()
	}
	p.mark("handed")
	if p.Hook == TC {
		p.redirectToPrivate()
		return
	}
	p.emit(
		restore(asm.R1, stackContext),
		asm.LoadMem(asm.R2, asm.R1, xdpQueue, asm.Word),
		asm.LoadMapPtr(asm.R1, p.Sockets),
		asm.Mov.Imm(asm.R3, ActionPass),
		asm.FnRedirectMap.Call(),
		asm.Return(),
	)
}

// unlessSocket passes what no socket takes.
func (p *Program) unlessSocket() {
	if p.Hook != XDP {
		return
	}
	p.emit(
		passIf(asm.JGT, total, int32(SocketFrame-p.atIP())),
		asm.LoadMem(asm.R1, data, p.atProto(), asm.Byte),
		passIf(asm.JEq, asm.R1, ProtoSCTP), // its checksum may be missing
		restore(asm.R1, stackContext),
		asm.LoadMem(asm.R1, asm.R1, xdpQueue, asm.Word),
		passIf(asm.JGE, asm.R1, int32(p.Queues)), // without a socket
	)
}
