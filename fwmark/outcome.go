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
}

// NewPartial makes that of a family's rules, which must not change any more.
func NewPartial(rules []Rule, ipv6 bool) *Partial {
	f := &Partial{byDest: map[netip.Addr][]int{}, known: map[string][]Outcome{}}
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
	w := evaluation{to: to, protocol: protocol, chains: map[string][]*Rule{}}
	starts := []int{0}
	var key []byte
	own := false // there is a condition on the destination that is looked at anew for each port
	places := append(slices.Clone(f.byDest[to]), f.rest...)
	slices.Sort(places)
	for _, at := range places {
		r := f.rules[at]
		if w.addressed(r) == no {
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
		o.First, o.Last = uint16(first), uint16(last)
		if n := len(list); n > 0 && list[n-1].Mark == o.Mark && list[n-1].Certain == o.Certain {
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

// truth is whether a condition holds, as far as is known.
type truth uint8

const (
	no truth = iota
	unknown
	yes
)

func known(holds bool) truth {
	if holds {
		return yes
	}
	return no
}

// evaluation carries packets through the rules of which only destination and protocol are
// known, and one after the other their ports.
type evaluation struct {
	to       netip.Addr
	protocol uint8
	chains   map[string][]*Rule
	port     uint16
	mark     uint32
	depth    int
}

// ending is how a packet leaves a chain.
type ending uint8

const (
	through ending = iota // at its end, or by RETURN
	accepted
	unsure // it is not known where it goes, or with what mark
)

func (w *evaluation) outcome(port uint16) Outcome {
	w.port, w.mark, w.depth = port, 0, 0
	for _, hook := range []string{"", input} {
		if w.walk(hook) == unsure {
			return Outcome{}
		}
	}
	return Outcome{Mark: w.mark, Certain: true}
}

// walk carries a packet through a chain and those that it jumps to.
func (w *evaluation) walk(chain string) ending {
	// A chain that is entered more often than there are chains is entered in a circle.
	if w.depth++; w.depth > len(w.chains)+2 {
		return unsure
	}
	defer func() { w.depth-- }()
	for _, r := range w.chains[chain] {
		holds := w.holds(r)
		after := w.mark&^r.Mask ^ r.Value
		switch {
		case holds == no || r.Target == TargetMark && after == w.mark:
			continue
		case holds == unknown:
			return unsure
		}
		switch r.Target {
		case TargetMark:
			w.mark = after
		case TargetAccept:
			return accepted
		case TargetReturn:
			return through
		case TargetGoto:
			return w.walk(r.To)
		case TargetJump:
			if end := w.walk(r.To); end != through {
				return end
			}
		}
	}
	return through
}

// addressed is holds for the conditions that are the same for all ports.
func (w *evaluation) addressed(r *Rule) truth {
	least := yes
	if r.Protocol != 0 {
		least = known((r.Protocol == w.protocol) != r.NotProtocol)
	}
	if n := r.Dest; !n.Any() {
		least = min(least, known(n.contains(w.to)))
	}
	if !r.Source.Any() || r.In.Name != "" && r.In != (Interface{Name: "+"}) {
		least = min(least, unknown)
	}
	return least
}

func (w *evaluation) holds(r *Rule) truth {
	least := w.addressed(r)
	for i := range r.Matches {
		least = min(least, w.match(&r.Matches[i]))
	}
	return least
}

func (w *evaluation) match(m *Match) truth {
	switch m.Kind {
	case MatchComment:
		return yes
	case MatchPorts:
		switch {
		case !m.Dest.Contains(w.port):
			return no
		case m.Source.Given || !m.Flags.Any():
			return unknown
		}
		return yes
	case MatchMultiport:
		in := slices.ContainsFunc(m.Ports, func(p PortRange) bool { return p.Contains(w.port) })
		if m.Side == DestSide || m.Side == EitherSide && in {
			return known(in != m.Not)
		}
		return unknown
	case MatchMark:
		return known((w.mark&m.Mask == m.Value) != m.Not)
	case MatchICMP:
		return no
	case MatchIPRange:
		switch {
		case !m.DestRange.Contains(w.to):
			return no
		case m.SourceRange.Any():
			return yes
		}
	}
	return unknown
}

// contains reports whether the condition holds for an address of the rule's family.
func (n Network) contains(a netip.Addr) bool {
	mask, b, want := n.Mask.AsSlice(), a.AsSlice(), n.Addr.AsSlice()
	same := true
	for i := range b {
		same = same && b[i]&mask[i] == want[i]
	}
	return same != n.Not
}
