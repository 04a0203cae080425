package hostmark

import (
	"slices"
	"strings"

	"github.com/ulvs/ulvs/fwmark"
)

// overlap reports whether a packet may fulfil a rule of each list. False is
// certain. Conditions on marks do not count, as marks change on the way.
func overlap(a, b []fwmark.Rule) bool {
	for i := range a {
		for j := range b {
			if ruleOverlaps(&a[i], &b[j]) {
				return true
			}
		}
	}
	return false
}

func ruleOverlaps(a, b *fwmark.Rule) bool {
	if a.IPv6 != b.IPv6 || !networksOverlap(a.Source, b.Source) || !networksOverlap(a.Dest, b.Dest) ||
		!inputsOverlap(a.In, b.In) {
		return false
	}
	if a.Protocol != 0 && b.Protocol != 0 {
		switch same := a.Protocol == b.Protocol; {
		case same && a.NotProtocol != b.NotProtocol, !same && !a.NotProtocol && !b.NotProtocol:
			return false
		}
	}
	return portsOverlap(a, b, fwmark.SourceSide) && portsOverlap(a, b, fwmark.DestSide)
}

func networksOverlap(a, b fwmark.Network) bool {
	if a.Any() || b.Any() {
		return true
	}
	x, y := bigEndian(a.Addr.AsSlice()), bigEndian(b.Addr.AsSlice())
	m, n := bigEndian(a.Mask.AsSlice()), bigEndian(b.Mask.AsSlice())
	switch {
	case !a.Not && !b.Not:
		return x.xor(y).and(m).and(n) == number{}
	case !a.Not && b.Not: // a is not inside of b
		return m.and(n) != n || x.and(n) != y
	case a.Not && !b.Not:
		return m.and(n) != m || y.and(m) != x
	}
	return true
}

func inputsOverlap(a, b fwmark.Interface) bool {
	if a.Name == "" || b.Name == "" {
		return true
	}
	x, wild := strings.CutSuffix(a.Name, "+")
	y, also := strings.CutSuffix(b.Name, "+")
	switch {
	case !a.Not && !wild:
		return b.Matches(a.Name)
	case !b.Not && !also:
		return a.Matches(b.Name)
	case !a.Not && !b.Not:
		return strings.HasPrefix(x, y) || strings.HasPrefix(y, x)
	}
	return true
}

func portsOverlap(a, b *fwmark.Rule, side fwmark.Side) bool {
	set := ports(a, side)
	other := ports(b, side)
	return set == nil || other == nil || len(intersect(set, other)) > 0
}

// ports are those that a rule wants on one side; nil is any.
func ports(r *fwmark.Rule, side fwmark.Side) (set []span) {
	narrow := func(list []fwmark.PortRange, not bool) {
		var s []span
		for _, p := range list {
			s = append(s, span{number{0, uint64(p.First)}, number{0, uint64(p.Last)}})
		}
		if s = tidy(s); not {
			s = complement(s, 16)
		}
		if set == nil {
			set = []span{{number{}, ones(16)}}
		}
		set = intersect(set, s)
	}
	for _, m := range r.Matches {
		p := m.Dest
		if side == fwmark.SourceSide {
			p = m.Source
		}
		switch {
		case m.Kind == fwmark.MatchMultiport && m.Side == side:
			narrow(m.Ports, m.Not)
		case m.Kind == fwmark.MatchPorts && p.Given:
			narrow([]fwmark.PortRange{p}, p.Not)
		}
	}
	return slices.Clone(set)
}
