package program

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
)

// TCP of IPv6 that is longer than its header can say, as a host has made or merged it (BIG TCP): up to Linux 6.18
// at least a hop-by-hop header with a jumbo payload option stands before TCP's, and says the length (RFC 2675;
// net/ipv6/ip6_output.c, ip6_xmit). It leaves as it came: what segments it takes the option off. Only its
// connection's packets are looked at: what opens one is no such frame.

const (
	jumboLen    = 8
	jumboOption = 0x04c20000 | ProtoTCP // TCP follows, eight bytes, a jumbo payload of four: as it is loaded
	longestSaid = 65535                 // of what IPv4's header can say (dataplane/afpacket, longest)
)

// jumbos reports whether frames may have such a header.
func (e *emitter) jumbos() bool { return e.six && e.Hook == TC }

// parseJumbo is parsePorts for what is behind a jumbo payload option, to which a next header of 0 leads: R0.
//
// in: R0 data end total; out: ports kept; lost: R0 R1
func (p *parser) parseJumbo(read string) {
	defer p.step("parseJumbo", "TCP behind a jumbo payload option")()
	at := p.atPorts()
	p.emit(
		p.strangeIf(asm.JNE, asm.R0, 0),
		asm.Mov.Reg(asm.R1, data),
		asm.Add.Imm(asm.R1, int32(at)+jumboLen+20),
		asm.JGT.Reg(asm.R1, end, p.labelStrange()), // behind other options there may be less
		asm.LoadMem(asm.R0, data, at, asm.Word),
		asm.JNE.Imm32(asm.R0, jumboOption, p.labelStrange()),
		asm.LoadMem(asm.R0, data, at+4, asm.Word),
		asm.HostTo(asm.BE, asm.R0, asm.Word),
		asm.Add.Imm(asm.R0, 40),
		asm.JNE.Reg(asm.R0, total, p.labelStrange()), // by skb->len, where payload_len is 0
		p.strangeIf(asm.JLE, total, longestSaid),     // Go knows it by that
		asm.LoadMem(ports, data, at+jumboLen, asm.Word),
		asm.LoadImm(asm.R1, (6<<8|ProtoTCP)<<32, asm.DWord),
		asm.Or.Reg(ports, asm.R1),
		asm.LoadMem(asm.R0, data, at+jumboLen+13, asm.Byte),
	)
	p.parseFlags(read)
}

// readBehind goes to a label with a byte of TCP's header behind a jumbo payload option, R0, if there is one:
// that is where IPv6's next header, R0, is 0.
//
// in: R0 data; out: R0; lost: R3
func (e *emitter) readBehind(off int16, to, no string) {
	if !e.jumbos() {
		return
	}
	defer e.step("readBehind", "of TCP behind a jumbo payload option")()
	at := e.atPorts() + jumboLen
	e.emit(asm.JNE.Imm(asm.R0, 0, to+"-plain"), restore(asm.R3, stackContext))
	e.readEnd(asm.R3, asm.R3)
	e.emit(
		asm.Mov.Reg(asm.R0, data),
		asm.Add.Imm(asm.R0, int32(at)+20),
		asm.JGT.Reg(asm.R0, asm.R3, no), // never: for the verifier
		asm.LoadMem(asm.R0, data, at+off, asm.Byte),
		asm.Ja.Label(to),
	)
	e.symbol = to + "-plain"
}

// large gives to Go what is for an address that has services, and has no connection: it opens none.
//
// in: data; out: -; lost: R0 R1 R2 R3 R4 R5 end
func (p *Program) large() {
	if !p.jumbos() {
		return
	}
	defer p.step("large", "behind a jumbo payload option, without a connection")()
	p.mark("large")
	p.lookupAddress("large", p.label("go"))
}

// readPorts loads the ports of what is counted, R2, which may be behind a jumbo payload option.
//
// in: data; out: R2; lost: R1
func (e counter) readPorts() {
	at := e.atPorts()
	if !e.jumbos() {
		e.emit(asm.LoadMem(asm.R2, data, at, asm.Word))
		return
	}
	defer e.step("readPorts", "the ports, maybe behind a jumbo payload option")()
	plain, read := e.label(fmt.Sprint("plain-", len(e.out))), e.label(fmt.Sprint("ports-", len(e.out)))
	e.emit(
		asm.LoadMem(asm.R1, data, e.atProto(), asm.Byte),
		asm.JNE.Imm(asm.R1, 0, plain),
		restore(asm.R1, stackContext),
	)
	e.readEnd(asm.R1, asm.R1)
	e.emit(
		asm.Mov.Reg(asm.R2, data),
		asm.Add.Imm(asm.R2, int32(at)+jumboLen+20),
		asm.JGT.Reg(asm.R2, asm.R1, PassLabel), // never: for the verifier
		asm.LoadMem(asm.R2, data, at+jumboLen, asm.Word),
		asm.Ja.Label(read),
	)
	e.symbol = plain
	e.emit(asm.LoadMem(asm.R2, data, at, asm.Word))
	e.symbol = read
}
