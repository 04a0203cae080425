package fwmark

import (
	"net/netip"
	"slices"
)

// MatchKind is the kind of a Match: the word after iptables' -m.
type MatchKind uint8

// The kinds of Match, and the fields of Match that each uses.
const (
	// MatchPorts is -m tcp, udp or sctp, whichever Rule.Protocol is: Source,
	// Dest and, of tcp, Flags. Even without any it does not match a later
	// fragment.
	MatchPorts MatchKind = iota + 1
	// MatchMultiport is -m multiport: Side, Ports, Not. It does not match a
	// later fragment either.
	MatchMultiport
	// MatchMark is -m mark: packet's mark AND Mask equals Value; Not. The mark
	// is the one that the rules before gave.
	MatchMark
	// MatchComment is -m comment: Comment. It always holds.
	MatchComment
	// MatchMAC is -m mac: the frame's source is MAC; Not. A packet without an
	// Ethernet header never matches, as in the kernel (net/netfilter/xt_mac.c,
	// mac_mt).
	MatchMAC
	// MatchICMP is -m icmp or icmp6: Type, FirstCode to LastCode, Not. Type 255
	// of IPv4 is every type. A later fragment does not match.
	MatchICMP
	// MatchTOS is -m tos: type of service or traffic class AND Mask equals
	// Value; Not.
	MatchTOS
	// MatchDSCP is -m dscp: the upper six bits of the same byte are Value; Not.
	MatchDSCP
	// MatchIPRange is -m iprange: SourceRange, DestRange.
	MatchIPRange
	// MatchAddrType is -m addrtype: SourceTypes, DestTypes.
	MatchAddrType
)

// Side says which ports a MatchMultiport looks at.
type Side uint8

// The sides of a MatchMultiport: --sports, --dports, --ports.
const (
	SourceSide Side = iota + 1
	DestSide
	EitherSide
)

// Match is one condition that iptables' modules add to a rule.
type Match struct {
	Kind         MatchKind
	Source, Dest PortRange
	Flags        TCPFlags
	Side         Side
	Ports        []PortRange // one to fifteen ports, a range counting as two
	Not          bool
	Value, Mask  uint32
	Comment      string
	MAC          [6]byte
	Type         uint8
	FirstCode    uint8
	LastCode     uint8

	SourceRange, DestRange AddrRange
	SourceTypes, DestTypes AddrTypes
}

// equal reports whether two matches are the same to iptables.
func (m *Match) equal(o *Match) bool {
	return m.Kind == o.Kind && m.Source == o.Source && m.Dest == o.Dest && m.Flags == o.Flags &&
		m.Side == o.Side && slices.Equal(m.Ports, o.Ports) && m.Not == o.Not &&
		m.Value == o.Value && m.Mask == o.Mask && m.Comment == o.Comment && m.MAC == o.MAC &&
		m.Type == o.Type && m.FirstCode == o.FirstCode && m.LastCode == o.LastCode &&
		m.SourceRange == o.SourceRange && m.DestRange == o.DestRange &&
		m.SourceTypes == o.SourceTypes && m.DestTypes == o.DestTypes
}

// PortRange is a range of ports, both ends included. Given tells a condition
// on port 0 from none, which the zero value is. Within Match.Ports Given is
// set and Not is not.
type PortRange struct {
	First, Last uint16
	Given, Not  bool
}

// Contains reports whether the condition holds for a port.
func (r PortRange) Contains(port uint16) bool {
	return !r.Given || (port >= r.First && port <= r.Last) != r.Not
}

// TCPFlags is the condition --tcp-flags: of the bits in Mask exactly those in
// Set are set. The zero value always holds.
type TCPFlags struct {
	Mask, Set uint8
	Not       bool
}

// Any reports that all flags match.
func (f TCPFlags) Any() bool { return f == TCPFlags{} }

// Contains reports whether the condition holds for a TCP header's flags.
func (f TCPFlags) Contains(flags uint8) bool {
	return f.Any() || (flags&f.Mask == f.Set) != f.Not
}

// AddrRange is a range of addresses, both ends included. The zero value
// matches every address.
type AddrRange struct {
	First, Last netip.Addr
	Not         bool
}

// Any reports that every address matches.
func (r AddrRange) Any() bool { return !r.First.IsValid() }

// Contains reports whether the condition holds for an address.
func (r AddrRange) Contains(a netip.Addr) bool {
	return r.Any() || (r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0) != r.Not
}

// AddrTypes is a condition on the type that the host's routes give an address:
// one of the types whose bit (1 << AddrType) is in Set. The zero value matches
// every address.
type AddrTypes struct {
	Set uint16
	Not bool
}

// Any reports that every address matches.
func (t AddrTypes) Any() bool { return t == AddrTypes{} }

// Contains reports whether the condition holds for the type.
func (t AddrTypes) Contains(a AddrType) bool {
	return t.Any() || (t.Set>>a&1 != 0) != t.Not
}

// AddrType is the type of an address to a host (RTN_ in
// include/uapi/linux/rtnetlink.h).
type AddrType uint8

// The types that ulvs tells apart. Every other address is of type 0.
const (
	AddrLocal     AddrType = 2 // the host's own
	AddrMulticast AddrType = 5
)
