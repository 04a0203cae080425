package hostmark

import "github.com/ulvs/ulvs/fwmark"

// portMatches are the tests on ports as matches of fwmark; one of the variants
// must hold.
func (c *condition) portMatches() (variants [][]fwmark.Match, ok bool) {
	plain := fwmark.Match{Kind: fwmark.MatchPorts}
	variants = [][]fwmark.Match{nil}
	for _, t := range c.tests[tcpFlags] {
		const named = 0x3f // what iptables has names for
		if len(c.tests[tcpFlags]) > 1 || t.spans != nil || (t.mask.lo|t.value.lo)&^named != 0 {
			return nil, false
		}
		plain.Flags = fwmark.TCPFlags{Mask: uint8(t.mask.lo), Set: uint8(t.value.lo), Not: t.not}
	}
	for _, f := range []fieldID{sourcePort, destPort} {
		if len(c.tests[f]) == 0 {
			continue
		}
		set, known := all(c.tests[f], 16)
		if !known {
			return nil, false
		}
		if len(set) == 0 {
			return nil, true
		}
		if r, single := c.portRange(f, set); single {
			if f == sourcePort {
				plain.Source = r
			} else {
				plain.Dest = r
			}
			continue
		}
		side := fwmark.Side(fwmark.DestSide)
		if f == sourcePort {
			side = fwmark.SourceSide
		}
		var next [][]fwmark.Match
		for _, m := range multiports(set, side) {
			for _, v := range variants {
				next = append(next, append(v[:len(v):len(v)], m))
			}
		}
		variants = next
	}
	if plain.Source.Given || plain.Dest.Given || !plain.Flags.Any() || len(variants[0]) == 0 {
		for i, v := range variants {
			variants[i] = append([]fwmark.Match{plain}, v...)
		}
	}
	return variants, true
}

// portRange is a set that is one range, or all but one.
func (c *condition) portRange(f fieldID, set []span) (fwmark.PortRange, bool) {
	whole := func(s span, not bool) fwmark.PortRange {
		return fwmark.PortRange{First: uint16(s.first.lo), Last: uint16(s.last.lo), Given: true, Not: not}
	}
	rest := complement(set, 16)
	switch {
	case len(rest) == 0: // no condition, but that there are ports
		return fwmark.PortRange{}, true
	case len(rest) == 1 && len(c.tests[f]) == 1 && c.tests[f][0].not: // as it was given
		return whole(rest[0], true), true
	case len(set) == 1:
		return whole(set[0], false), true
	case len(rest) == 1:
		return whole(rest[0], true), true
	}
	return fwmark.PortRange{}, false
}

// multiports are matches of which one holds for each port of a set.
func multiports(set []span, side fwmark.Side) (list []fwmark.Match) {
	const room = 15
	add := func(set []span, not bool) (out []fwmark.Match) {
		units := room
		for _, s := range set {
			n := 1
			if s.first != s.last {
				n = 2
			}
			if units+n > room {
				out = append(out, fwmark.Match{Kind: fwmark.MatchMultiport, Side: side, Not: not})
				units = 0
			}
			m := &out[len(out)-1]
			m.Ports = append(m.Ports, fwmark.PortRange{First: uint16(s.first.lo), Last: uint16(s.last.lo), Given: true})
			units += n
		}
		return out
	}
	list = add(set, false)
	if rest := add(complement(set, 16), true); len(list) > 1 && len(rest) == 1 {
		return rest
	}
	return list
}
