package wire

import (
	"encoding/binary"

	"github.com/cilium/ebpf/asm"
)

// The words of a generator's state.
const (
	stateLeft  = iota // packets that are to be sent yet
	stateSent         // packets that were sent
	stateStop         // not 0: send no more
	stateWhich        // which flow is next: the random sequence's state, or a count
	stateNext         // with a rate: when the next packet is due, and
	stateLast         // when the last was sent, in ns of CLOCK_MONOTONIC << clockShift
	stateWords
)

// Knuth's multiplier and increment for a sequence of 64 bits (MMIX).
const randomMul, randomAdd = 6364136223846793005, 1442695040888963407

// assemble is the generator's program. R6 is its state, R7 the frame, R8 the
// flow's number.
func (g *Generator) assemble() asm.Instructions {
	t, frame := g.t, g.frame
	const drop = 1 // XDP_DROP
	out := asm.Instructions{
		asm.LoadMem(asm.R7, asm.R1, 0, asm.Word),
		asm.LoadMem(asm.R2, asm.R1, 4, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.Add.Imm(asm.R1, int32(len(frame))),
		asm.JGT.Reg(asm.R1, asm.R2, "drop"), // never: for the verifier
		asm.LoadMapValue(asm.R6, g.state.FD(), 0),
		asm.LoadMem(asm.R1, asm.R6, stateStop*8, asm.DWord),
		asm.JNE.Imm(asm.R1, 0, "drop"),
		asm.LoadMem(asm.R1, asm.R6, stateLeft*8, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, "drop"),
	}
	out = append(out, g.due()...)
	out = append(out,
		asm.LoadMem(asm.R1, asm.R6, stateLeft*8, asm.DWord),
		asm.Sub.Imm(asm.R1, 1),
		asm.StoreMem(asm.R6, stateLeft*8, asm.R1, asm.DWord),
	)
	out = append(out, g.draw()...)
	// All of the header, as frames are used again as they came back.
	header := t.atPayload()
	for at := 0; at < header; {
		var size asm.Size
		var value int64
		switch left := header - at; {
		case left >= 8:
			size, value = asm.DWord, int64(binary.NativeEndian.Uint64(frame[at:]))
		case left >= 4:
			size, value = asm.Word, int64(binary.NativeEndian.Uint32(frame[at:]))
		default:
			size, value = asm.Half, int64(binary.NativeEndian.Uint16(frame[at:]))
		}
		out = append(out, asm.LoadImm(asm.R1, value, asm.DWord), asm.StoreMem(asm.R7, int16(at), asm.R1, size))
		at += size.Sizeof()
	}
	client := t.Client.Addr().AsSlice()
	out = append(out,
		asm.Mov.Reg(asm.R1, asm.R8),
		asm.RSh.Imm(asm.R1, int32(t.PortBits)),
		asm.Add.Imm32(asm.R1, int32(binary.BigEndian.Uint32(client[len(client)-4:]))),
		asm.Mov.Reg(asm.R2, asm.R1),
		asm.HostTo(asm.BE, asm.R2, asm.Word),
		// R3 is the sum of what differs from packet to packet.
		asm.Mov.Reg(asm.R3, asm.R1),
		asm.RSh.Imm(asm.R3, 16),
		asm.And.Imm(asm.R1, 0xffff),
		asm.Add.Reg(asm.R3, asm.R1),
	)
	if t.six() {
		out = append(out, asm.StoreMem(asm.R7, int16(t.atIP()+8+12), asm.R2, asm.Word))
	} else {
		out = append(out, asm.StoreMem(asm.R7, int16(t.atIP()+12), asm.R2, asm.Word))
		out = append(out, g.checksum(asm.R1, asm.R3, t.atHeaderSum())...)
	}
	out = append(out, asm.Mov.Imm(asm.R1, int32(t.Client.Port())))
	if t.PortBits > 0 {
		out = append(out,
			asm.Mov.Reg(asm.R1, asm.R8),
			asm.And.Imm(asm.R1, int32(t.portMask())),
			asm.Add.Imm(asm.R1, int32(t.Client.Port())),
			asm.And.Imm(asm.R1, 0xffff),
			asm.Mov.Reg(asm.R2, asm.R1),
			asm.HostTo(asm.BE, asm.R2, asm.Half),
			asm.StoreMem(asm.R7, int16(t.atTransport()), asm.R2, asm.Half),
		)
	}
	out = append(out, asm.Add.Reg(asm.R3, asm.R1), asm.LoadMem(asm.R1, asm.R6, stateSent*8, asm.DWord))
	if t.Sequence {
		out = append(out,
			asm.Mov.Reg(asm.R2, asm.R1),
			asm.HostTo(asm.BE, asm.R2, asm.DWord),
			asm.StoreMem(asm.R7, int16(header), asm.R2, asm.DWord),
		)
		for shift := int32(0); shift < 64; shift += 16 {
			out = append(out, asm.Mov.Reg(asm.R2, asm.R1), asm.RSh.Imm(asm.R2, shift), asm.And.Imm(asm.R2, 0xffff),
				asm.Add.Reg(asm.R3, asm.R2))
		}
	}
	out = append(out, g.checksum(asm.R2, asm.R3, t.atChecksum())...)
	return append(out,
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R6, stateSent*8, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R1, int32(g.end.Index)),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, drop).WithSymbol("drop"),
		asm.Return(),
	)
}

// clockShift is by how much times are shifted, so that a rate of millions a second
// is not rounded to whole nanoseconds.
const clockShift = 8

// maxLag is how much of what was missed is caught up with, in ns. The wait at the
// end of a system call is less, but on a machine that does much else.
const maxLag = 500e6

// due lets a packet be sent only when the rate permits one.
func (g *Generator) due() asm.Instructions {
	if g.t.Rate == 0 {
		return nil
	}
	gap := int64(1e9<<clockShift) / int64(g.t.Rate)
	return asm.Instructions{
		asm.FnKtimeGetNs.Call(),
		asm.LSh.Imm(asm.R0, clockShift),
		asm.LoadMem(asm.R2, asm.R6, stateNext*8, asm.DWord),
		asm.JLT.Reg(asm.R0, asm.R2, "drop"),
		asm.LoadMem(asm.R3, asm.R6, stateLast*8, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.Sub.Reg(asm.R1, asm.R3),
		asm.LoadImm(asm.R3, gap/2, asm.DWord),
		asm.JLT.Reg(asm.R1, asm.R3, "drop"),
		asm.StoreMem(asm.R6, stateLast*8, asm.R0, asm.DWord),
		asm.LoadImm(asm.R1, maxLag<<clockShift, asm.DWord),
		asm.Sub.Reg(asm.R0, asm.R1),
		asm.JGE.Reg(asm.R2, asm.R0, "late"),
		asm.Mov.Reg(asm.R2, asm.R0),
		asm.LoadImm(asm.R3, gap, asm.DWord).WithSymbol("late"),
		asm.Add.Reg(asm.R2, asm.R3),
		asm.StoreMem(asm.R6, stateNext*8, asm.R2, asm.DWord),
	}
}

// draw leaves the number of the packet's flow in R8, and counts it.
func (g *Generator) draw() (out asm.Instructions) {
	n := g.t.Flows
	if g.pick != nil {
		n = uint32(len(g.t.Pick))
	}
	out = append(out, asm.LoadMem(asm.R8, asm.R6, stateWhich*8, asm.DWord), asm.LoadImm(asm.R2, int64(n), asm.DWord))
	if g.t.Random {
		out = append(out,
			asm.LoadImm(asm.R1, randomMul, asm.DWord),
			asm.Mul.Reg(asm.R8, asm.R1),
			asm.LoadImm(asm.R1, randomAdd, asm.DWord),
			asm.Add.Reg(asm.R8, asm.R1),
			asm.StoreMem(asm.R6, stateWhich*8, asm.R8, asm.DWord),
			asm.RSh.Imm(asm.R8, 32),
			asm.Mul.Reg(asm.R8, asm.R2),
			asm.RSh.Imm(asm.R8, 32),
		)
	} else {
		out = append(out,
			asm.Mov.Reg(asm.R1, asm.R8),
			asm.Add.Imm(asm.R1, 1),
			asm.JLT.Reg(asm.R1, asm.R2, "next"),
			asm.Mov.Imm(asm.R1, 0),
			asm.StoreMem(asm.R6, stateWhich*8, asm.R1, asm.DWord).WithSymbol("next"),
		)
	}
	if g.pick != nil {
		out = append(out,
			asm.JGE.Reg(asm.R8, asm.R2, "drop"), // never: for the verifier
			asm.LSh.Imm(asm.R8, 2),
			asm.LoadMapValue(asm.R1, g.pick.FD(), 0),
			asm.Add.Reg(asm.R1, asm.R8),
			asm.LoadMem(asm.R8, asm.R1, 0, asm.Word),
		)
	}
	if g.counts != nil {
		out = append(out,
			asm.LoadImm(asm.R2, int64(g.t.Flows), asm.DWord),
			asm.JGE.Reg(asm.R8, asm.R2, "drop"), // never: for the verifier
			asm.Mov.Reg(asm.R2, asm.R8),
			asm.LSh.Imm(asm.R2, 3),
			asm.LoadMapValue(asm.R1, g.counts.FD(), 0),
			asm.Add.Reg(asm.R1, asm.R2),
			asm.LoadMem(asm.R2, asm.R1, 0, asm.DWord),
			asm.Add.Imm(asm.R2, 1),
			asm.StoreMem(asm.R1, 0, asm.R2, asm.DWord),
		)
	}
	return out
}

// checksum writes the Internet checksum (RFC 1071) at a place in the frame, that of
// the IPv4 header or the transport's, by way of a register. varies has the sum of
// what differs from packet to packet; the sum of the rest is known.
func (g *Generator) checksum(by, varies asm.Register, at int16) asm.Instructions {
	rest := g.t.headerSum(g.frame)
	if at != g.t.atHeaderSum() {
		rest = g.t.transportSum(g.frame)
	}
	out := asm.Instructions{asm.Mov.Reg(by, varies), asm.Add.Imm(by, int32(rest))}
	for range 2 {
		out = append(out, asm.Mov.Reg(asm.R5, by), asm.RSh.Imm(asm.R5, 16), asm.And.Imm(by, 0xffff),
			asm.Add.Reg(by, asm.R5))
	}
	out = append(out, asm.Xor.Imm(by, 0xffff))
	if g.t.UDP && at != g.t.atHeaderSum() { // 0 says that there is none (RFC 768)
		out = append(out, asm.JNE.Imm(by, 0, "sum"), asm.Mov.Imm(by, 0xffff),
			asm.HostTo(asm.BE, by, asm.Half).WithSymbol("sum"))
	} else {
		out = append(out, asm.HostTo(asm.BE, by, asm.Half))
	}
	return append(out, asm.StoreMem(asm.R7, at, by, asm.Half))
}

func (t Traffic) atHeaderSum() int16 { return int16(t.atIP() + 10) }

func (t Traffic) atChecksum() int16 {
	if t.UDP {
		return int16(t.atTransport() + 6)
	}
	return int16(t.atTransport() + 16)
}

// headerSum is the sum of the IPv4 header without the client's address.
func (t Traffic) headerSum(frame []byte) uint32 {
	ip := frame[t.atIP():]
	return sum(ip[:12]) + sum(ip[16:20])
}

// transportSum is that of the transport header and the pseudo header (RFC 9293,
// 3.1), without the client's port and the lowest 32 bits of its address. There is
// nothing else in the payload than zeros, and the packet's number.
func (t Traffic) transportSum(frame []byte) uint32 {
	client, l4 := t.Client.Addr().AsSlice(), frame[t.atTransport():]
	proto := uint32(6)
	if t.UDP {
		proto = 17
	}
	addresses := sum(client[:len(client)-4]) + sum(t.Service.Addr().AsSlice())
	return addresses + proto + uint32(len(l4)) + sum(l4[2:t.atPayload()-t.atTransport()])
}

func sum(b []byte) (n uint32) {
	for i := 0; i < len(b); i += 2 {
		n += uint32(b[i])<<8 | uint32(b[i+1])
	}
	return n
}
