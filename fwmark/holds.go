package fwmark

import "github.com/ulvs/ulvs/packet"

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
		return in.Host != nil && (m.SourceTypes.Any() || m.SourceTypes.Contains(in.Host.AddrType(p.Source()))) &&
			(m.DestTypes.Any() || m.DestTypes.Contains(in.Host.AddrType(p.Dest())))
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
