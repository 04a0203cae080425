package fwmark

import (
	"net/netip"

	"github.com/ulvs/ulvs/packet"
)

// holds compares what a packet.Flow does not have.
func (m *Match) holds(in *Input) bool {
	p := in.Packet
	switch m.Kind {
	case MatchMAC:
		return len(in.Frame) >= 14 && ([6]byte(in.Frame[6:12]) == m.MAC) != m.Not
	case MatchICMP:
		return p.Kind == packet.ICMP && p.FragOffset == 0 && (m.Type == 255 && !p.Is6 ||
			p.ICMPType == m.Type && m.FirstCode <= p.ICMPCode && p.ICMPCode <= m.LastCode) != m.Not
	case MatchTOS:
		tos, ok := in.tos()
		return ok && (uint32(tos)&m.Mask == m.Value) != m.Not
	case MatchDSCP:
		tos, ok := in.tos()
		return ok && (uint32(tos>>2) == m.Value) != m.Not
	case MatchIPRange:
		return m.SourceRange.Contains(p.Source()) && m.DestRange.Contains(p.Dest())
	case MatchAddrType:
		return in.Host != nil && in.isOf(m.SourceTypes, p.Source()) && in.isOf(m.DestTypes, p.Dest())
	}
	return true
}

// tos is the type of service of IPv4 or the traffic class of IPv6.
func (in *Input) tos() (byte, bool) {
	l3 := in.Packet.L3
	switch {
	case len(in.Frame) < l3+2:
		return 0, false
	case in.Packet.Is6:
		return in.Frame[l3]<<4 | in.Frame[l3+1]>>4, true
	}
	return in.Frame[l3+1], true
}

// isOf compares an address's type.
func (in *Input) isOf(t AddrTypes, a netip.Addr) bool {
	switch {
	case t.Any():
		return true
	case a.IsMulticast():
		return t.Contains(AddrMulticast)
	case in.Host.Local(a):
		return t.Contains(AddrLocal)
	}
	return t.Contains(0)
}
