package fwmark

import (
	"encoding/binary"
	"slices"

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
}

// indexFrom is from how many rules on looking up the few that can matter is
// quicker than comparing all; measured with BenchmarkMark.
const indexFrom = 24

// program is the rules of one family.
type program struct {
	ipv6  bool
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
func (p *program) add(r *Rule) {
	if r.In.Not && r.In.Name == "+" {
		return
	}
	s := step{clear: ^r.Mask, flip: r.Value}
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
			if m.Kind == MatchMultiport || m.Source.Given || m.Dest.Given {
				rs.ports = append(rs.ports, m)
			}
		case MatchMark:
			rs.marks = append(rs.marks, m)
		}
	}
	if rs.not != nil || rs.in.Name != "" || rs.ports != nil || rs.marks != nil {
		s.rest = &rs
	}
	p.steps = append(p.steps, s)
}

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

// place is where rules are that matter to a flow.
func (p *program) place(f *packet.Flow, dests, ported bool) (at place) {
	if dests && p.ipv6 {
		at.dest = [2]uint64{f[3], f[4]}
	} else if dests {
		at.dest[0] = f[0] & destBits4
	}
	if ported {
		at.port = f[1] & destPortBits
	}
	return at
}

// finish makes the index, if there are many rules.
func (p *program) finish() {
	if len(p.steps) < indexFrom {
		return
	}
	for i := range p.steps {
		s := &p.steps[i]
		ported := s.mask[1]&destPortBits == destPortBits
		dests := s.mask[0]&destBits4 == destBits4
		if p.ipv6 {
			dests = s.mask[3]&s.mask[4] == ^uint64(0)
		}
		n := slices.IndexFunc(p.index, func(h shelf) bool { return h.dests == dests && h.ported == ported })
		if n < 0 {
			n = len(p.index)
			p.index = append(p.index, shelf{dests, ported, map[uint64][]int32{}, map[place][]int32{}})
		}
		at := p.place(&s.want, dests, ported)
		if p.ipv6 {
			p.index[n].ip6[at] = append(p.index[n].ip6[at], int32(i))
		} else {
			p.index[n].ip4[at.word()] = append(p.index[n].ip4[at.word()], int32(i))
		}
	}
}

func (p *program) mark(k *packet.Packet, in string) (mark uint32) {
	if p.index == nil {
		for i := range p.steps {
			mark = p.steps[i].apply(k, in, mark)
		}
		return mark
	}
	// At most four lists, each in the rules' order: merge them.
	var lists [4][]int32
	for i := range p.index {
		h := &p.index[i]
		at := p.place(&k.Flow, h.dests, h.ported)
		if p.ipv6 {
			lists[i] = h.ip6[at]
		} else {
			lists[i] = h.ip4[at.word()]
		}
	}
	for {
		next, from := int32(-1), 0
		for i := range lists {
			if l := lists[i]; len(l) > 0 && (next < 0 || l[0] < next) {
				next, from = l[0], i
			}
		}
		if next < 0 {
			return mark
		}
		lists[from] = lists[from][1:]
		mark = p.steps[next].apply(k, in, mark)
	}
}

// apply is the mark after a rule, whether it matches or not.
func (s *step) apply(p *packet.Packet, in string, mark uint32) uint32 {
	f, m, w := &p.Flow, &s.mask, &s.want
	if f[1]&m[1] != w[1] || f[0]&m[0] != w[0] ||
		(f[2]&m[2]^w[2])|(f[3]&m[3]^w[3])|(f[4]&m[4]^w[4]) != 0 ||
		s.unfragmented && p.FragOffset != 0 {
		return mark
	}
	if s.rest != nil && !s.rest.holds(p, in, mark) {
		return mark
	}
	return mark&s.clear ^ s.flip
}

func (r *rest) holds(p *packet.Packet, in string, mark uint32) bool {
	for i := range r.not {
		m, w := &r.not[i][0], &r.not[i][1]
		same := true
		for j := range p.Flow {
			same = same && p.Flow[j]&m[j] == w[j]
		}
		if same {
			return false
		}
	}
	for i := range r.marks {
		if m := &r.marks[i]; (mark&m.Mask == m.Value) == m.Not {
			return false
		}
	}
	for i := range r.ports {
		if !portsHold(&r.ports[i], p.Flow.ClientPort(), p.Flow.VirtualPort()) {
			return false
		}
	}
	return r.in.Matches(in)
}

func portsHold(m *Match, source, dest uint16) bool {
	if m.Kind == MatchPorts {
		return m.Source.Contains(source) && m.Dest.Contains(dest)
	}
	for _, r := range m.Ports {
		if m.Side != DestSide && r.Contains(source) || m.Side != SourceSide && r.Contains(dest) {
			return !m.Not
		}
	}
	return m.Not
}
