package fwmark

import (
	"net/netip"
	"slices"

	"github.com/ulvs/ulvs/packet"
)

// Set is rules made ready for packets. It is immutable, so it may be used by
// any number of goroutines. A nil *Set has no rules.
type Set struct {
	rules    []Rule
	ip4, ip6 program
}

// Compile makes the Set of rules, which may be of both families. Rules keep
// their order.
func Compile(rules []Rule) *Set {
	s := &Set{rules: make([]Rule, len(rules)), ip6: program{ipv6: true}}
	for i := range rules {
		s.rules[i] = rules[i].clone()
		if r := &s.rules[i]; r.IPv6 {
			s.ip6.add(r)
		} else {
			s.ip4.add(r)
		}
	}
	s.ip4.finish()
	s.ip6.finish()
	return s
}

// Mark is the mark that the rules give an IP packet that came in with mark 0
// by the interface named in. All rules are evaluated in order, as MARK does
// not end the chain. It is 0 for what is not an IP packet.
func (s *Set) Mark(p *packet.Packet, in string) uint32 {
	switch {
	case s == nil:
		return 0
	case p.Flow[1] == 0: // without a family
		return 0
	case p.Is6:
		return s.ip6.mark(p, in)
	}
	return s.ip4.mark(p, in)
}

// Possible reports whether a packet of a family could come out with a mark.
// False is certain; true is not, as the rules' conditions are not compared
// with each other.
func (s *Set) Possible(mark uint32, ipv6 bool) bool {
	if s == nil {
		return mark == 0
	}
	// A goal is reached by a mark whose bits of mask equal value. Goals are
	// carried backward through the rules.
	type goal struct{ value, mask uint32 }
	goals := map[goal]bool{{mark, 0xffffffff}: true}
	for _, r := range slices.Backward(s.rules) {
		if r.IPv6 != ipv6 {
			continue
		}
		before := map[goal]bool{}
		for g := range goals {
			if !r.always() {
				before[g] = true
			}
			if (g.value^r.Value)&g.mask&r.Mask == 0 {
				m := g.mask &^ r.Mask
				before[goal{(g.value ^ r.Value) & m, m}] = true
			}
		}
		if goals = before; len(goals) > 1<<12 {
			return true // too many ways to follow
		}
	}
	for g := range goals {
		if g.value == 0 {
			return true
		}
	}
	return false
}

// always reports a rule that no packet escapes.
func (r *Rule) always() bool {
	return r.Protocol == 0 && r.Source.Any() && r.Dest.Any() && r.In.Name == "" &&
		!slices.ContainsFunc(r.Matches, func(m Match) bool { return m.Kind != MatchComment })
}

var full4, full6 = prefix(32, 32), prefix(128, 128)

// Destinations are the single addresses (-d with a full mask, not negated) of
// the rules that may give one of the marks: those that set it whole, or that
// set bits in accordance with it. They are the virtual addresses of
// firewall-mark services, sorted, each once.
func (s *Set) Destinations(marks []uint32) []netip.Addr {
	if s == nil {
		return nil
	}
	var list []netip.Addr
	whole := make(map[uint32]bool, len(marks))
	for _, m := range marks {
		whole[m] = true
	}
	for i := range s.rules {
		r := &s.rules[i]
		d := r.Dest
		if d.Any() || d.Not || d.Mask != full4 && d.Mask != full6 {
			continue
		}
		if whole[r.Value] && r.Mask == 0xffffffff || r.Mask != 0xffffffff && slices.ContainsFunc(marks, r.givesPart) {
			list = append(list, d.Addr)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

func (r *Rule) givesPart(mark uint32) bool {
	return r.Value != 0 && (r.Value^mark)&r.Mask == 0
}
