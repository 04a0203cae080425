package dataplane

import "net/netip"

// Claim names packets that belong to the director: those to one address,
// protocol and port.
type Claim struct {
	Addr  netip.Addr
	Proto uint8  // IP protocol: 6, 17 or 132
	Port  uint16 // 0: every port
}

// AddrMatch is a condition on an address: addr AND Mask equals Addr. Masks
// need not be contiguous. The zero value matches every address.
type AddrMatch struct {
	Addr, Mask netip.Addr
	Not        bool
}

// PortRange is a range of transport ports, both ends included.
type PortRange struct{ First, Last uint16 }

// PortMatch is a condition on a port: it lies in one of Ranges. The zero
// value matches every packet, also one without ports.
type PortMatch struct {
	Ranges []PortRange
	Not    bool
}

// MarkRule is one firewall rule that sets a mark, in terms that every plane
// can carry out: all its conditions hold, or it does nothing. Conditions left
// zero always hold.
type MarkRule struct {
	Proto    uint8 // IP protocol; 0: any
	NotProto bool
	Src, Dst AddrMatch
	SrcPort  PortMatch
	DstPort  PortMatch
	AnyPort  PortMatch // source or destination port (multiport --ports)
	In       string    // input interface, with iptables' trailing + as wildcard
	NotIn    bool
	// The packet's mark becomes (mark AND NOT Mask) XOR Value, as xt_mark
	// does (net/netfilter/xt_mark.c, mark_tg).
	Value, Mask uint32
}

// Claims is everything that the director answers for. The zero value claims
// nothing.
type Claims struct {
	// Services are the virtual services that have an address.
	Services []Claim
	// Marks are the marks of firewall-mark services, by family, and Rules the
	// rules, in their order, that give packets marks. A packet whose mark is
	// among Marks after the last rule is the director's.
	Marks4, Marks6 []uint32
	Rules4, Rules6 []MarkRule
}
