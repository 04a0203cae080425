package fwmark

import (
	"encoding/binary"

	"github.com/ulvs/ulvs/packet"
)

// step is one rule in the terms of a packet.Flow: the flow's words AND mask
// equal want. That covers whole conditions on protocol, addresses and single
// ports, for both families alike; rest has what it does not.
type step struct {
	mask, want packet.Flow
	// unfragmented: later fragments do not match, as they have no ports
	// (net/netfilter/xt_tcpudp.c, xt_multiport.c).
	unfragmented bool
	target       Target
	to           int32 // the chain that TargetJump and TargetGoto go to
	rest         *rest
	clear, flip  uint32
}

// rest are the conditions of a rule that are not masked comparisons that must
// hold.
type rest struct {
	// Each of not must fail.
	not   [][2]packet.Flow
	in    Interface
	ports []Match // MatchPorts, MatchMultiport
	marks []Match // MatchMark
	more  []Match // all other kinds
}

// indexFrom is from how many rules on looking up the few that can matter is
// quicker than comparing all; measured with BenchmarkMark.
const indexFrom = 24

// section is one chain, compiled.
type section struct {
	steps []step
	index []shelf // nil for few rules
}

// shelf is the part of an index that keeps rules by their whole destination address,
// by their one destination port, by both or by neither.
type shelf struct {
	dests, ported bool
	// IPv4's key is one word, which Go's maps find in a fifth of the instructions.
	ip4 map[uint64][]int32
	ip6 map[place][]int32
}

// place is a destination address and port, each 0 where it does not count.
type place struct {
	dest [2]uint64
	port uint64
}

// word is IPv4's: the address and the port are in different bytes of a flow's words.
func (p *place) word() uint64 { return p.dest[0] | p.port }

// add compiles one rule. A rule that cannot match is left out.
func (c *section) add(r *Rule, to int32) {
	if !r.acts() {
		return
	}
	s := step{clear: ^r.Mask, flip: r.Value, target: r.Target, to: to}
	var rs rest
	need := func(mask, want packet.Flow, not bool) {
		if not {
			rs.not = append(rs.not, [2]packet.Flow{mask, want})
			return
		}
		for i := range mask {
			s.mask[i] |= mask[i]
			s.want[i] |= want[i]
		}
	}
	if r.Protocol != 0 {
		need(packet.Flow{1: portWord(0, 0, 0xff)}, packet.Flow{1: portWord(0, 0, r.Protocol)}, r.NotProtocol)
	}
	if n := r.Source; !n.Any() {
		need(addressWords(n.Mask.AsSlice(), 0), addressWords(n.Addr.AsSlice(), 0), n.Not)
	}
	if n := r.Dest; !n.Any() {
		need(addressWords(n.Mask.AsSlice(), 1), addressWords(n.Addr.AsSlice(), 1), n.Not)
	}
	rs.in = r.In
	var dport, sport PortRange // what need has been told of
	for _, m := range r.Matches {
		switch m.Kind {
		case MatchPorts, MatchMultiport:
			s.unfragmented = true
			m = single(m)
			if one(m.Source) && !sport.Given {
				sport, m.Source = m.Source, PortRange{}
				need(packet.Flow{1: portWord(0xffff, 0, 0)}, packet.Flow{1: portWord(sport.First, 0, 0)}, false)
			}
			if one(m.Dest) && !dport.Given {
				dport, m.Dest = m.Dest, PortRange{}
				need(packet.Flow{1: portWord(0, 0xffff, 0)}, packet.Flow{1: portWord(0, dport.First, 0)}, false)
			}
			if m.Kind == MatchMultiport || m.Source.Given || m.Dest.Given || !m.Flags.Any() {
				rs.ports = append(rs.ports, m)
			}
		case MatchMark:
			rs.marks = append(rs.marks, m)
		case MatchComment:
		default:
			rs.more = append(rs.more, m)
		}
	}
	if rs.not != nil || rs.in.Name != "" || rs.ports != nil || rs.marks != nil || rs.more != nil {
		s.rest = &rs
	}
	c.steps = append(c.steps, s)
}

// acts reports whether the rule does anything, for any packet.
func (r *Rule) acts() bool { return r.Target != TargetNone && r.In != Interface{Name: "+", Not: true} }

// one reports a condition for exactly one port.
func one(r PortRange) bool { return r.Given && !r.Not && r.First == r.Last }

// single turns a multiport of one port into the plain condition.
func single(m Match) Match {
	if m.Kind != MatchMultiport || len(m.Ports) != 1 || m.Not || m.Side == EitherSide {
		return m
	}
	r := Match{Kind: MatchPorts}
	if m.Side == SourceSide {
		r.Source = m.Ports[0]
	} else {
		r.Dest = m.Ports[0]
	}
	return r
}

// portWord is word 1 of a flow without the family.
func portWord(source, dest uint16, protocol uint8) uint64 {
	var b [8]byte
	binary.BigEndian.PutUint16(b[0:], source)
	binary.BigEndian.PutUint16(b[2:], dest)
	b[4] = protocol
	return binary.NativeEndian.Uint64(b[:])
}

// addressWords are a flow's words for a source (0) or destination (1).
func addressWords(a []byte, which int) (f packet.Flow) {
	if len(a) == 4 {
		var b [8]byte
		copy(b[4*which:], a)
		f[0] = binary.NativeEndian.Uint64(b[:])
		return f
	}
	first, second := 0, 2
	if which == 1 {
		first, second = 3, 4
	}
	f[first] = binary.NativeEndian.Uint64(a[:8])
	f[second] = binary.NativeEndian.Uint64(a[8:])
	return f
}

// The bits of a flow's words by which the index is made.
var (
	destPortBits = portWord(0, 0xffff, 0)
	destBits4    = addressWords([]byte{255, 255, 255, 255}, 1)[0]
)
