package xdp

import (
	"fmt"
	"math/bits"

	"github.com/cilium/ebpf/asm"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/shtab"
)

// find walks the chain of the home slot (shtab.Lookup).
func (p *program) find() {
	p.label("find")
	if p.hashed != 0 {
		p.findHashed()
		return
	}
	for i := range chain {
		next := p.here(fmt.Sprint("chain", i+1))
		p.lookup(p.conns, pass)
		// The word comes first, see shtab. Its tag is only looked at for being
		// there, as the whole key is compared.
		p.emit(
			asm.LoadMem(asm.R1, asm.R0, shtab.OffWord, asm.DWord),
			asm.Mov.Reg(asm.R2, asm.R1),
			asm.RSh.Imm(asm.R2, shtab.ValueBits),
			asm.JEq.Imm(asm.R2, 0, next),
		)
		for w := range int16(2) {
			p.emit(
				asm.LoadMem(asm.R2, asm.R0, shtab.OffKey+8*w, asm.DWord),
				asm.LoadMem(asm.R3, asm.RFP, stackKey+8*w, asm.DWord),
				asm.JNE.Reg(asm.R2, asm.R3, next),
			)
		}
		// R3 is word 1 still. The rest is for IPv6 to compare.
		p.emit(asm.RSh.Imm(asm.R3, 40), asm.And.Imm(asm.R3, 0xff), asm.JEq.Imm(asm.R3, 4, p.here("found")))
		for w := int16(2); w < 5; w++ {
			p.emit(
				asm.LoadMem(asm.R2, asm.R0, shtab.OffKey+8*w, asm.DWord),
				asm.LoadMem(asm.R4, asm.RFP, stackKey+8*w, asm.DWord),
				asm.JNE.Reg(asm.R2, asm.R4, next),
			)
		}
		p.emit(asm.Ja.Label(p.here("found")))
		p.symbol = next
		if i == chain-1 {
			p.emit(asm.Ja.Label(pass))
			break
		}
		p.emit(
			asm.LoadMem(asm.R2, asm.R0, shtab.OffNext, asm.Word),
			asm.JEq.Imm(asm.R2, 0, pass),
			asm.Add.Imm(asm.R2, headerSlots-1),
			asm.StoreMem(asm.RFP, stackIndex, asm.R2, asm.Word),
		)
	}
	p.found()
}

// findHashed asks a BPF hash map.
func (p *program) findHashed() {
	p.emit(
		asm.LoadMapPtr(asm.R1, p.hashed),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, stackKey),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, pass),
		asm.LoadMem(asm.R1, asm.R0, shtab.OffWord, asm.DWord),
	)
	p.found()
}

// found keeps the slot, and the number of the real server in its word, R1.
func (p *program) found() {
	p.label("found")
	p.emit(
		asm.Mov.Reg(slot, asm.R0),
		asm.LoadImm(asm.R2, conn.DestMask, asm.DWord),
		asm.And.Reg(asm.R1, asm.R2),
		asm.StoreMem(asm.RFP, stackDest, asm.R1, asm.DWord),
	)
}

// lookup finds the element of an array whose index is on the stack: R0.
func (p *program) lookup(fd int, missing string) {
	p.emit(
		asm.LoadMapPtr(asm.R1, fd),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, stackIndex),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, missing),
	)
}

// decide passes what would change the connection: what is not for a real server
// of direct routing, what is a connection's first packet, and what moves it to
// another state (conn.Table.TCP, enter).
func (p *program) decide() {
	const owner = 3 // bits of the forwarding method, above the first of the owner's
	p.emit(
		asm.LoadMem(asm.R1, slot, shtab.OffState, asm.Word),
		asm.Mov.Reg(asm.R3, asm.R1),
		asm.And.Imm(asm.R3, conn.SetFlag),
		asm.JEq.Imm(asm.R3, 0, pass),
		asm.Mov.Reg(asm.R3, asm.R1),
		asm.And.Imm(asm.R3, (1<<owner-1)<<(conn.OwnerShift+1)),
		asm.JNE.Imm(asm.R3, 0, pass),
		asm.LoadMem(asm.R3, asm.RFP, stackKey+8, asm.DWord),
		asm.RSh.Imm(asm.R3, 32),
		asm.And.Imm(asm.R3, 0xff),
		asm.JEq.Imm(asm.R3, protoUDP, p.here("server")),
		asm.And.Imm(asm.R1, conn.StateMask),
		asm.LoadMem(asm.R2, asm.RFP, stackFlags, asm.DWord),
		asm.JEq.Imm(asm.R3, protoTCP, p.here("tcp")),
		// SCTP: a chunk that means something is Go's.
		asm.JGT.Imm(asm.R2, 31, pass),
		asm.Mov.Imm32(asm.R3, int32(conn.SCTPEvents())),
		asm.RSh.Reg(asm.R3, asm.R2),
		asm.And.Imm(asm.R3, 1),
		asm.JNE.Imm(asm.R3, 0, pass),
		asm.Mov.Imm32(asm.R4, int32(conn.SCTPKept())),
		asm.Ja.Label(p.here("state")),
	)
	const fin, syn, rst, ack = 1, 2, 4, 16
	kept := conn.TCPKept()
	p.label("tcp")
	p.emit(asm.Mov.Reg(asm.R3, asm.R2), asm.And.Imm(asm.R3, syn), asm.JNE.Imm(asm.R3, 0, pass))
	for _, f := range [...]struct {
		flag int32
		mask uint32
	}{{rst, kept.OnRST}, {fin, kept.OnFIN}, {ack, kept.OnACK}} {
		p.emit(
			asm.Mov.Imm32(asm.R4, int32(f.mask)),
			asm.Mov.Reg(asm.R3, asm.R2), asm.And.Imm(asm.R3, f.flag), asm.JNE.Imm(asm.R3, 0, p.here("state")),
		)
	}
	p.emit(asm.Mov.Imm32(asm.R4, int32(kept.OnNone)))
	p.label("state")
	p.emit(
		asm.RSh.Reg(asm.R4, asm.R1),
		asm.And.Imm(asm.R4, 1),
		asm.JEq.Imm(asm.R4, 0, pass),
	)
}

// account finds the real server and counts the packet for it and the connection.
func (p *program) account() {
	p.label("server")
	p.emit(
		asm.LoadMem(asm.R1, asm.RFP, stackDest, asm.DWord),
		asm.StoreMem(asm.RFP, stackIndex, asm.R1, asm.Word),
	)
	p.lookup(p.servers, pass)
	p.emit(
		asm.LoadMem(asm.R1, asm.R0, serverIfindex, asm.Word),
		asm.LoadMem(asm.R2, ctx, 12, asm.Word), // ingress_ifindex; a server's is 0 if it is none
		asm.JNE.Reg(asm.R1, asm.R2, pass),
		// A connection of other timeouts gets the present one from Go.
		asm.LoadMem(asm.R1, asm.R0, serverGeneration, asm.Word),
		asm.LoadMem(asm.R2, slot, shtab.OffState, asm.Word),
		asm.RSh.Imm(asm.R2, conn.GenShift),
		asm.JNE.Reg(asm.R1, asm.R2, pass),
		asm.LoadMem(asm.R1, asm.R0, serverMTU, asm.Word),
		asm.JGT.Reg(total, asm.R1, pass),
		// The link addresses, while R0 is the server: nothing passes from here on.
		asm.LoadMem(asm.R1, asm.R0, serverMACs, asm.DWord),
		asm.StoreMem(data, 0, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.R0, serverMACs+8, asm.Word),
		asm.StoreMem(data, 8, asm.R1, asm.Word),
		asm.FnGetSmpProcessorId.Call(),
		asm.Mov.Imm32(asm.R1, int32(p.rooms)),
		asm.Mul.Reg(asm.R0, asm.R1),
		asm.LoadMem(asm.R1, asm.RFP, stackDest, asm.DWord),
		asm.Add.Reg(asm.R0, asm.R1),
		asm.StoreMem(asm.RFP, stackIndex, asm.R0, asm.Word),
	)
	p.lookup(p.counts, p.here("stamp"))
	p.emit(
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.R0, 8, asm.DWord),
		asm.Add.Reg(asm.R1, total),
		asm.StoreMem(asm.R0, 8, asm.R1, asm.DWord),
	)
	p.label("stamp")
	p.emit(asm.FnJiffies64.Call())
	p.ticks.emit(p)
	p.emit(
		asm.StoreMem(slot, shtab.OffStamp, asm.R0, asm.Word),
		asm.LoadMem(asm.R1, slot, shtab.OffCount, asm.Word),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(slot, shtab.OffCount, asm.R1, asm.Word),
	)
}

// send takes one off the time to live (packet.DecrementTTL), and sends.
func (p *program) send() {
	atIP := p.atIP()
	p.emit(
		asm.LoadMem(asm.R1, data, p.atType(), asm.Half),
		asm.JEq.Imm(asm.R1, typeIPv6, p.here("hops")),
		asm.LoadMem(asm.R1, data, atIP+8, asm.Byte),
		asm.Sub.Imm(asm.R1, 1),
		asm.StoreMem(data, atIP+8, asm.R1, asm.Byte),
		// ip_decrease_ttl (include/net/ip.h)
		asm.LoadMem(asm.R1, data, atIP+10, asm.Half),
		asm.Add.Imm(asm.R1, int32(bits.ReverseBytes16(0x0100))),
		asm.JLT.Imm(asm.R1, 0xffff, p.here("sum")),
		asm.Add.Imm(asm.R1, 1),
	)
	p.label("sum")
	p.emit(
		asm.StoreMem(data, atIP+10, asm.R1, asm.Half),
		asm.Mov.Imm(asm.R0, actionTX), asm.Return(),
	)
	p.label("hops")
	p.emit(
		asm.LoadMem(asm.R1, data, atIP+7, asm.Byte),
		asm.Sub.Imm(asm.R1, 1),
		asm.StoreMem(data, atIP+7, asm.R1, asm.Byte),
		asm.Mov.Imm(asm.R0, actionTX), asm.Return(),
	)
}
