package wire

import (
	"encoding/binary"

	"github.com/cilium/ebpf/asm"
)

// tcpChecksum writes that of a TCP packet: of what differs between packets, and of
// all else, whose sum is known. R6 to R8 are assemble's.
func (g *Generator) tcpChecksum() asm.Instructions {
	t, at := g.t, g.t.atTransport()
	first := g.first()
	out := asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R8),
		asm.RSh.Imm(asm.R1, int32(t.PortBits)),
		asm.Add.Imm32(asm.R1, int32(first)),
		asm.Mov.Reg(asm.R2, asm.R1),
		asm.RSh.Imm(asm.R2, 16),
		asm.And.Imm(asm.R1, 0xffff),
		asm.Add.Reg(asm.R1, asm.R2),
		asm.Mov.Reg(asm.R2, asm.R8),
		asm.And.Imm(asm.R2, int32(t.portMask())),
		asm.Add.Imm(asm.R2, int32(t.Client.Port())),
		asm.And.Imm(asm.R2, 0xffff),
		asm.Add.Reg(asm.R1, asm.R2),
		asm.Add.Imm(asm.R1, int32(g.restOfTCP())),
	}
	if t.Sequence {
		out = append(out, asm.LoadMem(asm.R3, asm.R6, stateSent*8, asm.DWord))
		for range 4 {
			out = append(out, asm.Mov.Reg(asm.R2, asm.R3), asm.And.Imm(asm.R2, 0xffff), asm.Add.Reg(asm.R1, asm.R2), asm.RSh.Imm(asm.R3, 16))
		}
	}
	for range 2 {
		out = append(out, asm.Mov.Reg(asm.R2, asm.R1), asm.RSh.Imm(asm.R2, 16), asm.And.Imm(asm.R1, 0xffff), asm.Add.Reg(asm.R1, asm.R2))
	}
	return append(out,
		asm.Xor.Imm(asm.R1, 0xffff),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.StoreMem(asm.R7, int16(at+16), asm.R1, asm.Half),
	)
}

// first is the lowest 32 bits of the first client's address.
func (g *Generator) first() uint32 {
	client := g.t.Client.Addr().AsSlice()
	return binary.BigEndian.Uint32(client[len(client)-4:])
}

// restOfTCP is the sum of what no packet has for itself: pseudo header, header and
// payload, without the client's port and the lowest 32 bits of its address. It is
// folded.
func (g *Generator) restOfTCP() uint32 {
	const tcp = 6
	at := g.t.atTransport()
	size := len(g.t.Client.Addr().AsSlice())
	parts := [][]byte{g.frame[at-2*size : at-size-4], g.frame[at-size : at], g.frame[at+2:]}
	sum := uint32(len(g.frame)-at) + tcp
	for _, part := range parts {
		for i, b := range part {
			sum += uint32(b) << (8 * (1 - i&1))
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return sum
}
