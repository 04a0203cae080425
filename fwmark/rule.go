package fwmark

import (
	"net/netip"
	"slices"
	"strings"
)

// Rule is one rule of mangle PREROUTING with the target MARK. All conditions
// hold, or the rule does nothing. The zero value is the rule of IPv4 without
// conditions that changes nothing (--set-xmark 0x0/0x0).
//
// The rules that a Table hands out are well formed: what iptables refuses, or
// what can never match, does not occur in them.
type Rule struct {
	// IPv6 says whose packets the rule sees: ip6tables' or iptables'.
	IPv6 bool
	// Protocol is the IP protocol (-p), the one behind all extension headers
	// of IPv6; 0 is every protocol.
	Protocol    uint8
	NotProtocol bool
	Source      Network   // -s
	Dest        Network   // -d
	In          Interface // -i
	// Matches are the further conditions, in the order in which they were
	// given, which is the order in which iptables prints them.
	Matches []Match
	// The packet's mark becomes (mark AND NOT Mask) XOR Value, as xt_mark
	// does (net/netfilter/xt_mark.c, mark_tg).
	Value, Mask uint32
}

// Network is a condition on an address: address AND Mask equals Addr. Masks
// need not be contiguous. The zero value matches every address. Both are of
// the rule's family; an IPv6 network is never in netip's 4-byte form.
type Network struct {
	Addr, Mask netip.Addr
	Not        bool
}

// Any reports that every address matches.
func (n Network) Any() bool { return !n.Addr.IsValid() }

// Interface is a condition on the input interface's name. A trailing + stands
// for any rest. The zero value matches every interface; "+" with Not matches
// none, as in iptables.
type Interface struct {
	Name string
	Not  bool
}

// Matches reports whether the condition holds for an interface's name.
func (i Interface) Matches(name string) bool {
	if i.Name == "" {
		return true
	}
	if prefix, ok := strings.CutSuffix(i.Name, "+"); ok {
		return strings.HasPrefix(name, prefix) != i.Not
	}
	return (name == i.Name) != i.Not
}

// MatchKind is the kind of a Match: the word after iptables' -m.
type MatchKind uint8

// The kinds of Match, and the fields of Match that each uses.
const (
	// MatchPorts is -m tcp, udp or sctp, whichever Rule.Protocol is: Source
	// and Dest. Even without ports it does not match a later fragment.
	MatchPorts MatchKind = iota + 1
	// MatchMultiport is -m multiport: Side, Ports, Not. It does not match a
	// later fragment either.
	MatchMultiport
	// MatchMark is -m mark: packet's mark AND Mask equals Value; Not. The mark
	// is the one that the rules before gave.
	MatchMark
	// MatchComment is -m comment: Comment. It always holds.
	MatchComment
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
	Side         Side
	Ports        []PortRange // one to fifteen ports, a range counting as two
	Not          bool
	Value, Mask  uint32
	Comment      string
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

// Equal reports whether two rules are the same to iptables -C and -D: comments
// and the order of matches count.
func (r *Rule) Equal(o *Rule) bool {
	return r.IPv6 == o.IPv6 && r.Protocol == o.Protocol && r.NotProtocol == o.NotProtocol &&
		r.Source == o.Source && r.Dest == o.Dest && r.In == o.In &&
		r.Value == o.Value && r.Mask == o.Mask &&
		slices.EqualFunc(r.Matches, o.Matches, func(a, b Match) bool {
			return a.Kind == b.Kind && a.Source == b.Source && a.Dest == b.Dest &&
				a.Side == b.Side && slices.Equal(a.Ports, b.Ports) && a.Not == b.Not &&
				a.Value == b.Value && a.Mask == b.Mask && a.Comment == b.Comment
		})
}

func (r Rule) clone() Rule {
	r.Matches = slices.Clone(r.Matches)
	for i := range r.Matches {
		r.Matches[i].Ports = slices.Clone(r.Matches[i].Ports)
	}
	return r
}
