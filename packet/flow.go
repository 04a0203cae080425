package packet

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"strconv"
)

// Flow is the key of a connection, packed as it lies on the wire, so that Go
// and XDP load it alike. In memory order (binary.NativeEndian) it holds:
//
//	        IPv4                              IPv6
//	word 0  source, destination               source, first half
//	word 1  source port, destination port, protocol (1 byte), family 4 or 6
//	        (1 byte), 2 zero bytes            the same
//	word 2  0                                 source, second half
//	word 3  0                                 destination, first half
//	word 4  0                                 destination, second half
//
// It is comparable and holds no pointers. The zero value is no flow.
type Flow [5]uint64

// Where the parts of word 1 are once it was loaded into a register.
const (
	clientShift  = 48 * big
	virtualShift = 16 + 16*big
	portsShift   = 32 * big
	protoShift   = 32 - 8*big
	familyShift  = 40 - 24*big
)

// wire16 turns two bytes loaded as they lie into their value, and back.
func wire16(v uint16) uint16 {
	if big == 1 {
		return v
	}
	return bits.ReverseBytes16(v)
}

// portWord makes word 1; ports are the four bytes as they lie.
func portWord(ports uint32, proto, family uint8) uint64 {
	return uint64(ports)<<portsShift | uint64(proto)<<protoShift | uint64(family)<<familyShift
}

// NewFlow is the flow of packets from client to virtual. Addresses of IPv4 in
// IPv6 form count as IPv4, zones are ignored. It is the zero Flow if the
// families differ or an address is invalid.
func NewFlow(proto uint8, client, virtual netip.AddrPort) Flow {
	src, dst := client.Addr().Unmap(), virtual.Addr().Unmap()
	if !src.IsValid() || src.Is4() != dst.Is4() || !dst.IsValid() {
		return Flow{}
	}
	ports := uint64(wire16(client.Port()))<<clientShift | uint64(wire16(virtual.Port()))<<virtualShift
	var f Flow
	if src.Is4() {
		var b [8]byte
		s, d := src.As4(), dst.As4()
		copy(b[:4], s[:])
		copy(b[4:], d[:])
		f[0] = binary.NativeEndian.Uint64(b[:])
		f[1] = ports | portWord(0, proto, 4)
		return f
	}
	s, d := src.As16(), dst.As16()
	f[0] = binary.NativeEndian.Uint64(s[:8])
	f[1] = ports | portWord(0, proto, 6)
	f[2] = binary.NativeEndian.Uint64(s[8:])
	f[3] = binary.NativeEndian.Uint64(d[:8])
	f[4] = binary.NativeEndian.Uint64(d[8:])
	return f
}

// With returns the flow between the same addresses by another protocol and ports.
func (f *Flow) With(proto uint8, client, virtual uint16) Flow {
	other := *f
	ports := uint64(wire16(client))<<clientShift | uint64(wire16(virtual))<<virtualShift
	other[1] = ports | portWord(0, proto, f.family())
	return other
}

// Client is the source address and port. Invalid for the zero Flow.
func (f *Flow) Client() netip.AddrPort {
	return netip.AddrPortFrom(f.source(), f.ClientPort())
}

// Virtual is the destination address and port. Invalid for the zero Flow.
func (f *Flow) Virtual() netip.AddrPort {
	return netip.AddrPortFrom(f.dest(), f.VirtualPort())
}

// ClientWord is the first four bytes of the source address, as a number: 127.0.0.1 begins
// with 0x7f.
func (f *Flow) ClientWord() uint32 {
	if big == 1 {
		return uint32(f[0] >> 32)
	}
	return bits.ReverseBytes32(uint32(f[0]))
}

// ClientFold is the source address's words of four bytes, as they lie, by exclusive or.
func (f *Flow) ClientFold() uint32 {
	if f.Is6() {
		both := f[0] ^ f[2]
		return uint32(both) ^ uint32(both>>32)
	}
	return uint32(f[0] >> (32 * big))
}

// Proto is the IP protocol number.
func (f *Flow) Proto() uint8 { return uint8(f[1] >> protoShift) }

// Is6 reports IPv6.
func (f *Flow) Is6() bool { return f.family() == 6 }

// VirtualPort is the destination port.
func (f *Flow) VirtualPort() uint16 { return wire16(uint16(f[1] >> virtualShift)) }

// ClientPort is the source port.
func (f *Flow) ClientPort() uint16 { return wire16(uint16(f[1] >> clientShift)) }

func (f *Flow) family() uint8 { return uint8(f[1] >> familyShift) }

func (f *Flow) source() netip.Addr {
	switch f.family() {
	case 4:
		var b [8]byte
		binary.NativeEndian.PutUint64(b[:], f[0])
		return netip.AddrFrom4([4]byte(b[:4]))
	case 6:
		var b [16]byte
		binary.NativeEndian.PutUint64(b[:8], f[0])
		binary.NativeEndian.PutUint64(b[8:], f[2])
		return netip.AddrFrom16(b)
	}
	return netip.Addr{}
}

func (f *Flow) dest() netip.Addr {
	switch f.family() {
	case 4:
		var b [8]byte
		binary.NativeEndian.PutUint64(b[:], f[0])
		return netip.AddrFrom4([4]byte(b[4:]))
	case 6:
		var b [16]byte
		binary.NativeEndian.PutUint64(b[:8], f[3])
		binary.NativeEndian.PutUint64(b[8:], f[4])
		return netip.AddrFrom16(b)
	}
	return netip.Addr{}
}

// Reverse is the flow of the packets that go the other way.
func (f *Flow) Reverse() Flow {
	ports := bits.RotateLeft32(uint32(f[1]>>portsShift), 16)
	word := portWord(ports, f.Proto(), f.family())
	if f.Is6() {
		return Flow{f[3], word, f[4], f[0], f[2]}
	}
	return Flow{bits.RotateLeft64(f[0], 32), word}
}

// String is the flow as in "TCP 10.1.1.1:40000 > 192.168.10.101:80"; without
// ports where the protocol has none.
func (f Flow) String() string {
	if f == (Flow{}) {
		return "no flow"
	}
	b := make([]byte, 0, 100)
	b = appendProto(b, f.Proto(), f.Is6())
	b = append(b, ' ')
	if ports := uint32(f[1] >> portsShift); ports == 0 && !hasPorts(f.Proto()) {
		b = f.source().AppendTo(b)
		b = append(b, " > "...)
		return string(f.dest().AppendTo(b))
	}
	b = f.Client().AppendTo(b)
	b = append(b, " > "...)
	return string(f.Virtual().AppendTo(b))
}

func hasPorts(proto uint8) bool {
	return proto == ProtoTCP || proto == ProtoUDP || proto == ProtoSCTP
}

func appendProto(b []byte, proto uint8, is6 bool) []byte {
	switch {
	case proto == ProtoTCP:
		return append(b, "TCP"...)
	case proto == ProtoUDP:
		return append(b, "UDP"...)
	case proto == ProtoSCTP:
		return append(b, "SCTP"...)
	case proto == ProtoICMP && !is6:
		return append(b, "ICMP"...)
	case proto == ProtoICMPv6 && is6:
		return append(b, "ICMPv6"...)
	case proto == 0:
		return append(b, "IP"...)
	}
	b = append(b, "IP-protocol-"...)
	return strconv.AppendUint(b, uint64(proto), 10)
}
