package director

import (
	"slices"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/fwmark"
)

// verbs are the targets in the planes' terms.
var verbs = map[fwmark.Target]dataplane.MarkVerb{
	fwmark.TargetMark: dataplane.SetMark, fwmark.TargetAccept: dataplane.Accept, fwmark.TargetReturn: dataplane.Return,
	fwmark.TargetJump: dataplane.Jump, fwmark.TargetGoto: dataplane.Goto,
}

// sides are the sides of ports in the planes' terms.
var sides = map[fwmark.Side]dataplane.PortSide{
	fwmark.SourceSide: dataplane.SourcePort, fwmark.DestSide: dataplane.DestPort,
	fwmark.EitherSide: dataplane.EitherPort,
}

// markRules says rules in the planes' terms. What can match ICMP only is left out, as
// are rules that do nothing: claims are for TCP, UDP and SCTP.
func markRules(rules []fwmark.Rule) []dataplane.MarkRule {
	out := make([]dataplane.MarkRule, 0, len(rules))
	for i := range rules {
		r := &rules[i]
		icmp := slices.ContainsFunc(r.Matches, func(m fwmark.Match) bool { return m.Kind == fwmark.MatchICMP })
		if verb, acts := verbs[r.Target]; acts && !icmp {
			m := markRule(r)
			m.Verb = verb
			out = append(out, m)
		}
	}
	return out
}

func markRule(r *fwmark.Rule) dataplane.MarkRule {
	m := dataplane.MarkRule{
		Chain: r.Chain, To: r.To,
		Proto: r.Protocol, NotProto: r.NotProtocol, In: r.In.Name, NotIn: r.In.Not,
		Src: dataplane.AddrMatch(r.Source), Dst: dataplane.AddrMatch(r.Dest),
		Value: r.Value, Mask: r.Mask,
	}
	for _, c := range r.Matches {
		switch c.Kind {
		case fwmark.MatchPorts:
			m.Ports = append(m.Ports, portMatch(dataplane.SourcePort, c.Source),
				portMatch(dataplane.DestPort, c.Dest))
			if !c.Flags.Any() {
				m.Flags = append(m.Flags, dataplane.ByteMatch{Mask: c.Flags.Mask, Value: c.Flags.Set, Not: c.Flags.Not})
			}
		case fwmark.MatchMultiport:
			pm := dataplane.PortMatch{Side: sides[c.Side], Not: c.Not}
			for _, p := range c.Ports {
				pm.Ranges = append(pm.Ranges, dataplane.PortRange{First: p.First, Last: p.Last})
			}
			m.Ports = append(m.Ports, pm)
		case fwmark.MatchMark:
			m.Marks = append(m.Marks, dataplane.MarkMatch{Value: c.Value, Mask: c.Mask, Not: c.Not})
		case fwmark.MatchMAC:
			m.MACs = append(m.MACs, dataplane.MACMatch{Addr: c.MAC, Not: c.Not})
		case fwmark.MatchTOS:
			m.TOS = append(m.TOS, dataplane.ByteMatch{Mask: uint8(c.Mask), Value: uint8(c.Value), Not: c.Not})
		case fwmark.MatchDSCP:
			m.TOS = append(m.TOS, dataplane.ByteMatch{Mask: 0xfc, Value: uint8(c.Value) << 2, Not: c.Not})
		case fwmark.MatchIPRange:
			m.SrcRanges = appendRange(m.SrcRanges, c.SourceRange)
			m.DstRanges = appendRange(m.DstRanges, c.DestRange)
		case fwmark.MatchAddrType:
			if !c.SourceTypes.Any() {
				m.SrcTypes = append(m.SrcTypes, dataplane.AddrTypes(c.SourceTypes))
			}
			if !c.DestTypes.Any() {
				m.DstTypes = append(m.DstTypes, dataplane.AddrTypes(c.DestTypes))
			}
		}
	}
	return m
}

func appendRange(list []dataplane.AddrRange, r fwmark.AddrRange) []dataplane.AddrRange {
	if r.Any() {
		return list
	}
	return append(list, dataplane.AddrRange(r))
}

// portMatch returns a condition of -m tcp and its like; one that was not given still
// wants a packet that has ports.
func portMatch(side dataplane.PortSide, p fwmark.PortRange) dataplane.PortMatch {
	if !p.Given {
		p = fwmark.PortRange{Last: 65535}
	}
	return dataplane.PortMatch{Side: side, Ranges: []dataplane.PortRange{{First: p.First, Last: p.Last}}, Not: p.Not}
}
