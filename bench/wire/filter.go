package wire

import (
	"encoding/binary"
	"net/netip"

	"github.com/cilium/ebpf/asm"
)

// Only are options for a Sink that counts the packets to a service in room 0, and
// leaves all others to the host: on an interface that has other work too. Frames
// with a VLAN tag, IPv4 options or IPv6 extension headers are others.
func Only(service netip.AddrPort, udp bool) SinkOptions {
	proto := int32(6)
	if udp {
		proto = 17
	}
	atProto, atDst, atL4, etherType := int16(atIP+9), int16(atIP+16), int16(atIP+20), int32(0x0800)
	if service.Addr().Is6() {
		atProto, atDst, atL4, etherType = atIP+6, atIP+24, atIP+40, 0x86dd
	}
	out := asm.Instructions{
		asm.Mov.Reg(asm.R1, FrameReg),
		asm.Add.Imm(asm.R1, int32(atL4)+4),
		asm.JGT.Reg(asm.R1, EndReg, Other),
		asm.LoadMem(asm.R1, FrameReg, 12, asm.Half),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.JNE.Imm(asm.R1, etherType, Other),
	}
	if service.Addr().Is4() { // no options
		out = append(out, asm.LoadMem(asm.R1, FrameReg, atIP, asm.Byte), asm.JNE.Imm(asm.R1, 0x45, Other))
	}
	out = append(out, asm.LoadMem(asm.R1, FrameReg, atProto, asm.Byte), asm.JNE.Imm(asm.R1, proto, Other))
	addr := service.Addr().AsSlice()
	for i := 0; i < len(addr); i += 4 {
		out = append(out,
			asm.LoadMem(asm.R1, FrameReg, atDst+int16(i), asm.Word),
			asm.LoadImm(asm.R2, int64(binary.NativeEndian.Uint32(addr[i:])), asm.DWord),
			asm.JNE.Reg(asm.R1, asm.R2, Other),
		)
	}
	out = append(out,
		asm.LoadMem(asm.R1, FrameReg, atL4+2, asm.Half),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.JNE.Imm(asm.R1, int32(service.Port()), Other),
		asm.Mov.Imm(asm.R0, 0),
	)
	return SinkOptions{Room: out, Rooms: 1}
}
