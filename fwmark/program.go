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
	index map[place][]int32 // nil for few rules
	// kinds are the kinds of place that occur.
	kinds []place
}

// place is where the index keeps a rule: by its whole destination address, its
// one destination port, both or none. Flags say which of them count.
type place struct {
	dest          [2]uint64
	port          uint64
	dests, ported bool
}

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

func (p *program) dest(f *packet.Flow) [2]uint64 {
	if p.ipv6 {
		return [2]uint64{f[3], f[4]}
	}
	return [2]uint64{f[0] & destBits4}
}

// finish makes the index, if there are many rules.
func (p *program) finish() {
	if len(p.steps) < indexFrom {
		return
	}
	p.index = map[place][]int32{}
	seen := map[place]bool{}
	for i := range p.steps {
		s := &p.steps[i]
		var at, kind place
		if s.mask[1]&destPortBits == destPortBits {
			at.port, at.ported = s.want[1]&destPortBits, true
		}
		if p.ipv6 {
			at.dests = s.mask[3]&s.mask[4] == ^uint64(0)
		} else {
			at.dests = s.mask[0]&destBits4 == destBits4
		}
		if at.dests {
			at.dest = p.dest(&s.want)
		}
		kind.dests, kind.ported = at.dests, at.ported
		if !seen[kind] {
			seen[kind] = true
			p.kinds = append(p.kinds, kind)
		}
		p.index[at] = append(p.index[at], int32(i))
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
	for i, kind := range p.kinds {
		if kind.dests {
			kind.dest = p.dest(&k.Flow)
		}
		if kind.ported {
			kind.port = k.Flow[1] & destPortBits
		}
		lists[i] = p.index[kind]
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
