package fwmark

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
)

// Outcome is what rules come to for packets to some ports of an address and protocol.
type Outcome struct {
	First, Last uint16 // ports, both included
	Mark        uint32
	// Certain says that every such packet that is no later fragment gets Mark. Otherwise it
	// depends on its client, its interface or what else rules look at, and Mark is 0.
	Certain bool
	// Steps, if there are any, say by what it depends. Of equal lists there is one.
	Steps []Step
}

// same reports whether two outcomes are the same but for the ports.
func (o *Outcome) same(as *Outcome) bool {
	return o.Mark == as.Mark && o.Certain == as.Certain && len(o.Steps) == len(as.Steps) &&
		(len(o.Steps) == 0 || &o.Steps[0] == &as.Steps[0])
}

// Partial evaluates a family's rules for packets of which only the destination and the protocol
// are known, and keeps what it has found out. Make it with NewPartial. It is not safe for
// concurrent use.
type Partial struct {
	rules []*Rule
	// byDest are the rules of a single destination address (-d with a full mask, not negated),
	// and rest the others, by their places in rules.
	byDest map[netip.Addr][]int
	rest   []int
	// known are outcomes by the rules that are left of all and the protocol.
	known map[string][]Outcome
	links []Link
	// lists are the lists of steps, by what is in them, and room how many steps there may be more.
	lists map[string][]Step
	room  int
}

// NewPartial makes that of a family's rules, which must not change any more. Packets come by these
// links; without any, no step looks at one.
func NewPartial(rules []Rule, ipv6 bool, links []Link) *Partial {
	f := &Partial{byDest: map[netip.Addr][]int{}, known: map[string][]Outcome{}, links: links,
		lists: map[string][]Step{}, room: maxListed}
	for i := range rules {
		r := &rules[i]
		if r.IPv6 != ipv6 || !r.acts() {
			continue
		}
		if at := len(f.rules); r.Dest.single() {
			f.byDest[r.Dest.Addr] = append(f.byDest[r.Dest.Addr], at)
		} else {
			f.rest = append(f.rest, at)
		}
		f.rules = append(f.rules, r)
	}
	return f
}

// Addressed returns the single addresses that the rules name as destinations, sorted.
func (f *Partial) Addressed() []netip.Addr {
	return slices.SortedFunc(maps.Keys(f.byDest), netip.Addr.Compare)
}

// Outcomes returns what the rules come to for packets of TCP, UDP or SCTP to an address, by
// destination port: consecutive outcomes for all ports, of which no two neighbours are equal.
//
// Where too many rules look at too many ports, nothing is certain.
func (f *Partial) Outcomes(to netip.Addr, protocol uint8) []Outcome {
	w := evaluation{to: to, protocol: protocol, chains: map[string][]*Rule{}, links: f.links, budget: maxPartial}
	starts := []int{0}
	var key []byte
	own := false // there is a condition on the destination that is looked at anew for each port
	places := append(slices.Clone(f.byDest[to]), f.rest...)
	slices.Sort(places)
	for _, at := range places {
		r := f.rules[at]
		if !w.addressed(r) {
			continue
		}
		w.chains[r.Chain] = append(w.chains[r.Chain], r)
		key = binary.NativeEndian.AppendUint32(key, uint32(at))
		for _, m := range r.Matches {
			own = own || m.Kind == MatchIPRange
			for _, p := range append(slices.Clone(m.Ports), m.Dest) {
				if p.Given {
					starts = append(starts, int(p.First), int(p.Last)+1)
				}
			}
		}
	}
	// All destinations of which the same rules are left have the same outcomes.
	k := string(append(key, protocol))
	if list, ok := f.known[k]; ok && !own {
		return list
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	if len(starts)*len(key)/4 > maxPartial {
		return []Outcome{{Last: 65535}}
	}
	var list []Outcome
	for i, first := range starts {
		if first > 65535 {
			break
		}
		last := 65535
		if i+1 < len(starts) {
			last = starts[i+1] - 1
		}
		o := w.outcome(uint16(first))
		o.First, o.Last, o.Steps = uint16(first), uint16(last), f.share(o.Steps)
		if n := len(list); n > 0 && list[n-1].same(&o) {
			list[n-1].Last = o.Last
			continue
		}
		list = append(list, o)
	}
	if !own {
		f.known[k] = list
	}
	return list
}

// maxPartial is how many rules are looked at, those for each stretch of ports together, to find
// out what rules come to.
const maxPartial = 1 << 22

// maxListed is how many steps there may be in all lists together. Beyond, there are none.
const maxListed = 1 << 17

// share returns the list that there is of equal ones.
func (f *Partial) share(list []Step) []Step {
	if len(list) == 0 {
		return nil
	}
	key := make([]byte, 0, len(list)*32)
	for _, s := range list {
		ways := uint32(s.Yes)<<16 | uint32(s.No)
		for _, w := range []uint32{uint32(s.Field), ways, s.Mask, s.Low, s.Span, s.And, s.Xor} {
			key = binary.NativeEndian.AppendUint32(key, w)
		}
	}
	if known, ok := f.lists[string(key)]; ok {
		return known
	}
	if f.room -= len(list); f.room < 0 {
		return nil
	}
	f.lists[string(key)] = list
	return list
}
