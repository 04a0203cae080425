package fwmark

import (
	"net/netip"
	"slices"
	"strings"
)

// Rule is one rule of a chain of mangle. All conditions hold, or the rule does
// nothing. The zero value is the rule of IPv4 in PREROUTING without conditions
// that changes nothing (-j MARK --set-xmark 0x0/0x0).
//
// The rules that a Table hands out are well formed: what iptables refuses, or
// what can never match, does not occur in them.
type Rule struct {
	// IPv6 says whose packets the rule sees: ip6tables' or iptables'.
	IPv6 bool
	// Chain is the chain in which the rule stands; "" is PREROUTING, which is
	// never written out.
	Chain string
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
	// Target is what the rule does; To is the chain that TargetJump and
	// TargetGoto go to.
	Target Target
	To     string
	// By TargetMark the packet's mark becomes (mark AND NOT Mask) XOR Value, as
	// xt_mark does (net/netfilter/xt_mark.c, mark_tg).
	Value, Mask uint32
}

// Target is what a rule does with the packets that it matches.
type Target uint8

// The targets. TargetMark is the zero value.
const (
	TargetMark   Target = iota
	TargetNone          // no -j: the packet goes on to the next rule
	TargetAccept        // ends the hook (PREROUTING or INPUT) with the mark as it is
	TargetReturn        // goes on behind the jump; in a hook's own chain it ends the hook
	TargetJump          // -j CHAIN
	TargetGoto          // -g CHAIN: where that ends, so does this chain
)

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

// Equal reports whether two rules are the same to iptables -C and -D: comments
// and the order of matches count.
func (r *Rule) Equal(o *Rule) bool {
	return r.IPv6 == o.IPv6 && r.Chain == o.Chain && r.Protocol == o.Protocol && r.NotProtocol == o.NotProtocol &&
		r.Source == o.Source && r.Dest == o.Dest && r.In == o.In && r.Target == o.Target && r.To == o.To &&
		r.Value == o.Value && r.Mask == o.Mask &&
		slices.EqualFunc(r.Matches, o.Matches, func(a, b Match) bool { return a.equal(&b) })
}

func (r Rule) clone() Rule {
	r.Matches = slices.Clone(r.Matches)
	for i := range r.Matches {
		r.Matches[i].Ports = slices.Clone(r.Matches[i].Ports)
	}
	return r
}
