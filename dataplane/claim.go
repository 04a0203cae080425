package dataplane

import "net/netip"

// Claim names packets that belong to the director: those to one address,
// protocol and port, or to a range of ports.
type Claim struct {
	Addr  netip.Addr
	Proto uint8  // IP protocol: 6, 17 or 132; or one without ports
	Port  uint16 // 0: every port, or none
	Last  uint16 // the last port of a range that starts at Port; 0: Port alone
	// Service is the number of the service, for an accel.Opener, and Serial which of the
	// services it is that have had the number.
	Service, Serial uint32
	// List, if not nil, goes before Service: it leads packets to marks, and those to services of
	// Claims.ByMark. Service has what is left, or is Elsewhere.
	List *MarkList
	// Away says that it is not served now, as the host has not the address
	// (Claims.WhileLocal): a plane takes none of it from the host by itself.
	Away bool
}

// Numbers that no service has (Claim.Service): of claims whose packets are the Handler's to
// decide about, and of those whose packets are passed as if there were no claim.
const (
	Undecided = 1<<31 - 1
	Elsewhere = Undecided - 1
)

// MarkClaim is a service by a mark.
type MarkClaim struct {
	Mark            uint32
	IPv6            bool
	Service, Serial uint32 // as Claim's
}

// MarkList is a list of steps by which a packet without a mark gets one. It does not change.
type MarkList struct{ Steps []MarkStep }

// MarkStep is one condition on a field of 32 bits: it holds if that AND Mask, less Low, is at most
// Span. Then the mark becomes (mark AND And) XOR Xor, and the packet goes on with step Yes, else
// with No: the number of a later one, or DoneStep or UndecidedStep.
type MarkStep struct {
	Field           uint8
	Yes, No         uint16
	Mask, Low, Span uint32
	And, Xor        uint32
}

// The fields of steps: the source address's words, up to four, in host byte order, the source port,
// the number of the interface by which the packet came in, which one with a VLAN tag has not, the
// destination port, and the mark so far.
const (
	SourceField    = 0
	PortField      = 4
	InterfaceField = 5
	DestPortField  = 6
	MarkField      = 7
)

// MostSteps is how many steps a list has at most, and UndecidedStep and DoneStep how it ends: with
// a packet that is the Handler's to decide about, or with the mark that it has.
const (
	MostSteps     = 128
	UndecidedStep = 0xfffe
	DoneStep      = 0xffff
)

// AddrMatch is a condition on an address: addr AND Mask equals Addr. Masks
// need not be contiguous. The zero value matches every address.
type AddrMatch struct {
	Addr, Mask netip.Addr
	Not        bool
}

// PortRange is a range of transport ports, both ends included.
type PortRange struct{ First, Last uint16 }

// PortSide says which of a packet's ports a PortMatch looks at.
type PortSide uint8

// The sides of a PortMatch. EitherPort holds when one of the two ports does.
const (
	SourcePort PortSide = iota
	DestPort
	EitherPort
)

// PortMatch is a condition on a packet's ports: it has ports, and the port
// lies in one of Ranges, or with Not in none. A later fragment has no ports.
type PortMatch struct {
	Side   PortSide
	Ranges []PortRange
	Not    bool
}

// MarkMatch is a condition on the mark that earlier rules gave: mark AND Mask
// equals Value.
type MarkMatch struct {
	Value, Mask uint32
	Not         bool
}

// MACMatch is a condition on the frame's source.
type MACMatch struct {
	Addr MAC
	Not  bool
}

// ByteMatch is a condition on one byte: byte AND Mask equals Value.
type ByteMatch struct {
	Mask, Value uint8
	Not         bool
}

// AddrRange is a condition on an address: it lies in a range, both ends included.
type AddrRange struct {
	First, Last netip.Addr
	Not         bool
}

// AddrTypes is a condition on the type that the host's routes give an address:
// one of those whose bit (1 << RTN_..., include/uapi/linux/rtnetlink.h) is set.
type AddrTypes struct {
	Set uint16
	Not bool
}

// MarkVerb is what a MarkRule does.
type MarkVerb uint8

// The verbs of mark rules: those of a firewall. A packet that is accepted goes on
// with the next hook.
const (
	SetMark MarkVerb = iota
	Accept
	Return
	Jump
	Goto
)

// The chains in which all packets begin, one after the other. Others are jumped to.
const (
	PreroutingChain = ""
	InputChain      = "INPUT"
)

// MarkRule is one firewall rule that has a part in marks, in terms that every plane
// can carry out: all its conditions hold, or it does nothing. Conditions left
// zero always hold.
type MarkRule struct {
	Chain                string
	Proto                uint8 // IP protocol; 0: any
	NotProto             bool
	Src, Dst             AddrMatch
	Ports                []PortMatch
	Flags                []ByteMatch // of TCP: only TCP has them
	TOS                  []ByteMatch // type of service or traffic class
	Marks                []MarkMatch
	MACs                 []MACMatch
	In                   string // input interface, with iptables' trailing + as wildcard
	NotIn                bool
	SrcRanges, DstRanges []AddrRange
	SrcTypes, DstTypes   []AddrTypes

	Verb MarkVerb
	To   string // the chain of Jump and Goto
	// By SetMark the packet's mark becomes (mark AND NOT Mask) XOR Value, as
	// xt_mark does (net/netfilter/xt_mark.c, mark_tg).
	Value, Mask uint32
}

// Claims is everything that the director answers for. The zero value claims
// nothing.
type Claims struct {
	// Services are the virtual services that have an address.
	Services []Claim
	// Marks are the marks of firewall-mark services, by family, and Rules the
	// rules, in their order in each chain, that give packets marks. A packet of
	// TCP, UDP or SCTP whose mark is among Marks after PREROUTING and INPUT is the
	// director's.
	Marks4, Marks6 []uint32
	Rules4, Rules6 []MarkRule
	// Marked is what Marks and Rules come to where an address, a protocol and a port decide
	// it, or a list for those, for an accel.Opener: it goes before what Services has of the same.
	// Port 0 is every port that has none of its own.
	Marked []Claim
	// Open is where Marks and Rules come to nothing by that, and no service by address is either:
	// the director decides, where a plane's programs have nobody behind who sees all packets.
	Open []Claim
	// ByMark are the services by marks to which the lists of Marked lead.
	ByMark []MarkClaim
	// WhileLocal has all of this be claimed only while the host has the destination
	// address of a packet.
	WhileLocal bool
}
