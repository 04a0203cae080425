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

// Input is a packet as rules look at it.
type Input struct {
	Packet *packet.Packet
	// Frame is what Packet was parsed from. Without it no condition on the MAC
	// address or the type of service holds.
	Frame []byte
	In    string // the interface by which it came in
	Host  Host   // nil: no condition on types of addresses holds
}

// Host knows what the routes of the host say of addresses.
type Host interface {
	// Local reports whether an address is one of the host's own. It is called on
	// the packet path.
	Local(a netip.Addr) bool
}

// Compile makes the Set of rules, which may be of both families. Rules keep
// their order in each chain. A jump in a circle, which no Table has, is left
// out.
func Compile(rules []Rule) *Set {
	s := &Set{rules: make([]Rule, len(rules)), ip6: program{ipv6: true}}
	for i := range rules {
		s.rules[i] = rules[i].clone()
	}
	s.ip4.compile(s.rules)
	s.ip6.compile(s.rules)
	return s
}

// compile makes the program of one family's rules.
func (p *program) compile(rules []Rule) {
	numbers := map[string]int32{"": 0, input: 1}
	chains := make([][]*Rule, 2)
	number := func(name string) int32 {
		n, known := numbers[name]
		if !known {
			n = int32(len(chains))
			numbers[name] = n
			chains = append(chains, nil)
		}
		return n
	}
	for i := range rules {
		if r := &rules[i]; r.IPv6 == p.ipv6 {
			n := number(r.Chain)
			if r.To != "" {
				number(r.To)
			}
			chains[n] = append(chains[n], r)
		}
	}
	p.sections = make([]section, len(chains))
	// What jumps lead to is compiled first.
	under := make([]bool, len(chains))
	done := make([]bool, len(chains))
	var fill func(n int32)
	fill = func(n int32) {
		if done[n] {
			return
		}
		under[n] = true
		for _, r := range chains[n] {
			to := int32(0)
			if r.Target == TargetJump || r.Target == TargetGoto {
				if to = numbers[r.To]; r.To == "" || under[to] {
					continue
				}
				fill(to)
			}
			p.sections[n].add(r, to)
		}
		under[n], done[n] = false, true
		p.makeIndex(&p.sections[n])
	}
	for n := range chains {
		fill(int32(n))
	}
	p.flatten()
}

// Mark is the mark that the rules give an IP packet that came in with mark 0:
// those of PREROUTING, then those of INPUT. It is 0 for what is not an IP
// packet.
func (s *Set) Mark(in *Input) uint32 {
	switch {
	case s == nil:
		return 0
	case in.Packet.Flow[1] == 0: // without a family
		return 0
	case in.Packet.Is6:
		return s.ip6.mark(in)
	}
	return s.ip4.mark(in)
}

// goal is reached by a mark whose bits of mask equal value.
type goal struct{ value, mask uint32 }

// before is the goal that a mark must reach in front of a rule which matches, so
// that g is reached behind it.
func (g goal) before(r *Rule) (goal, bool) {
	if (g.value^r.Value)&g.mask&r.Mask != 0 {
		return goal{}, false
	}
	m := g.mask &^ r.Mask
	return goal{(g.value ^ r.Value) & m, m}, true
}

// Possible reports whether a packet of a family could come out with a mark.
// False is certain; true is not, as the rules' conditions are not compared
// with each other.
func (s *Set) Possible(mark uint32, ipv6 bool) bool {
	if s == nil {
		return mark == 0
	}
	const tooMany = 1 << 12 // ways to follow
	// Goals are carried backward through the rules.
	goals := map[goal]bool{{mark, 0xffffffff}: true}
	if s.linear(ipv6) {
		for _, r := range slices.Backward(s.rules) {
			if r.IPv6 != ipv6 || r.Target != TargetMark {
				continue
			}
			before := map[goal]bool{}
			for g := range goals {
				if !r.always() {
					before[g] = true
				}
				if b, ok := g.before(&r); ok {
					before[b] = true
				}
			}
			if goals = before; len(goals) > tooMany {
				return true
			}
		}
	} else { // any rule, or none, in any order
		for list := []goal{{mark, 0xffffffff}}; len(list) > 0; list = list[1:] {
			for i := range s.rules {
				r := &s.rules[i]
				if r.IPv6 != ipv6 || r.Target != TargetMark {
					continue
				}
				if b, ok := list[0].before(r); ok && !goals[b] {
					goals[b] = true
					list = append(list, b)
				}
			}
			if len(goals) > tooMany {
				return true
			}
		}
	}
	for g := range goals {
		if g.value == 0 {
			return true
		}
	}
	return false
}

// linear reports that a family's packets meet all rules, one after the other.
func (s *Set) linear(ipv6 bool) bool {
	return !slices.ContainsFunc(s.rules, func(r Rule) bool {
		return r.IPv6 == ipv6 && (r.Chain != "" || r.Target != TargetMark && r.Target != TargetNone)
	})
}

// always reports a rule that no packet escapes.
func (r *Rule) always() bool {
	return r.Protocol == 0 && r.Source.Any() && r.Dest.Any() && r.In.Name == "" &&
		!slices.ContainsFunc(r.Matches, func(m Match) bool { return m.Kind != MatchComment })
}

var full4, full6 = prefix(32, 32), prefix(128, 128)

// single is a destination (-d with a full mask, not negated).
func (n Network) single() bool {
	return !n.Any() && !n.Not && (n.Mask == full4 || n.Mask == full6)
}

// Destinations are the single addresses (-d with a full mask, not negated) of
// the rules that may give one of the marks: those that set it whole, or that
// set bits in accordance with it. A rule of a chain that names no destination has
// those of the jumps that lead there. They are the virtual addresses of
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
	type place struct {
		ipv6 bool
		name string
	}
	callers := map[place][]*Rule{}
	for i := range s.rules {
		if r := &s.rules[i]; r.Target == TargetJump || r.Target == TargetGoto {
			callers[place{r.IPv6, r.To}] = append(callers[place{r.IPv6, r.To}], r)
		}
	}
	seen := map[place]bool{}
	var collect func(r *Rule)
	collect = func(r *Rule) {
		if r.Dest.single() {
			list = append(list, r.Dest.Addr)
			return
		}
		if at := (place{r.IPv6, r.Chain}); r.Dest.Any() && !seen[at] {
			seen[at] = true
			for _, c := range callers[at] {
				collect(c)
			}
		}
	}
	for i := range s.rules {
		r := &s.rules[i]
		gives := whole[r.Value] && r.Mask == 0xffffffff ||
			r.Mask != 0xffffffff && slices.ContainsFunc(marks, r.givesPart)
		if r.Target == TargetMark && gives {
			collect(r)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

func (r *Rule) givesPart(mark uint32) bool {
	return r.Value != 0 && (r.Value^mark)&r.Mask == 0
}
