package fwmark

import (
	"slices"

	"github.com/ulvs/ulvs/packet"
)

// program is the rules of one family: their chains, of which the first two are
// PREROUTING and INPUT.
type program struct {
	ipv6     bool
	sections []section
	// flat are the steps of both hooks, where they are few and none does anything but mark:
	// the usual rules, which cost a loop.
	flat []step
}

// state is a packet on its way through the chains.
type state struct {
	*Input
	mark uint32
}

// mark carries a packet through both hooks. What ends a hook does not keep the
// packet from the next one.
func (p *program) mark(in *Input) uint32 {
	if p.flat != nil {
		return markFlat(p.flat, in)
	}
	k := state{Input: in}
	for i := range min(2, len(p.sections)) {
		if len(p.sections[i].steps) > 0 {
			p.walk(int32(i), &k)
		}
	}
	return k.mark
}

func markFlat(steps []step, in *Input) (mark uint32) {
	f, fragment := &in.Packet.Flow, in.Packet.FragOffset != 0
	for i := range steps {
		s := &steps[i]
		m, w := &s.mask, &s.want // as matches does, which is not inlined
		if f[1]&m[1] != w[1] || f[0]&m[0] != w[0] ||
			(f[2]&m[2]^w[2])|(f[3]&m[3]^w[3])|(f[4]&m[4]^w[4]) != 0 ||
			s.unfragmented && fragment || s.rest != nil && !s.rest.holds(&state{in, mark}) {
			continue
		}
		mark = mark&s.clear ^ s.flip
	}
	return mark
}

// flatten finds out whether both hooks only mark.
func (p *program) flatten() {
	var all []step
	for i := range min(2, len(p.sections)) {
		c := &p.sections[i]
		if c.index != nil || slices.ContainsFunc(c.steps, func(s step) bool { return s.target != TargetMark }) {
			return
		}
		all = append(all, c.steps...)
	}
	p.flat = all
}

// walk carries a packet through a chain and those that it jumps to, and reports
// that it was accepted. Where jumps are nested the Go stack has the way back;
// Compile sees to their end.
func (p *program) walk(n int32, k *state) (accepted bool) {
	for {
		c := &p.sections[n]
		if c.index != nil {
			next, ended, accepted := p.walkIndex(c, k)
			if !ended {
				return accepted
			}
			n = next
			continue
		}
		gone := false
		for i := range c.steps {
			s := &c.steps[i]
			if !s.matches(k) {
				continue
			}
			if s.target == TargetMark {
				k.mark = k.mark&s.clear ^ s.flip
				continue
			}
			if s.target == TargetGoto {
				n, gone = s.to, true
				break
			}
			if ended, accepted := p.follow(s, k); ended {
				return accepted
			}
		}
		if !gone {
			return false
		}
	}
}

// follow carries out a jump or a verdict; ended: the packet leaves the chain.
func (p *program) follow(s *step, k *state) (ended, accepted bool) {
	switch s.target {
	case TargetAccept:
		return true, true
	case TargetReturn:
		return true, false
	case TargetJump:
		if p.walk(s.to, k) {
			return true, true
		}
	}
	return false, false
}

// walkIndex does so with a chain of many rules, of which only those that can
// match are looked at; gone says that the packet goes to the chain next.
func (p *program) walkIndex(c *section, k *state) (next int32, gone, accepted bool) {
	// At most four lists, each in the rules' order: merge them.
	var lists [4][]int32
	for i := range c.index {
		h := &c.index[i]
		at := p.place(&k.Packet.Flow, h.dests, h.ported)
		if p.ipv6 {
			lists[i] = h.ip6[at]
		} else {
			lists[i] = h.ip4[at.word()]
		}
	}
	for {
		at, from := int32(-1), 0
		for i := range lists {
			if l := lists[i]; len(l) > 0 && (at < 0 || l[0] < at) {
				at, from = l[0], i
			}
		}
		if at < 0 {
			return 0, false, false
		}
		lists[from] = lists[from][1:]
		s := &c.steps[at]
		if !s.matches(k) {
			continue
		}
		switch s.target {
		case TargetMark:
			k.mark = k.mark&s.clear ^ s.flip
		case TargetGoto:
			return s.to, true, false
		default:
			if ended, accepted := p.follow(s, k); ended {
				return 0, false, accepted
			}
		}
	}
}

// matches reports whether a rule's conditions hold.
func (s *step) matches(k *state) bool {
	p := k.Packet
	f, m, w := &p.Flow, &s.mask, &s.want
	if f[1]&m[1] != w[1] || f[0]&m[0] != w[0] ||
		(f[2]&m[2]^w[2])|(f[3]&m[3]^w[3])|(f[4]&m[4]^w[4]) != 0 ||
		s.unfragmented && p.FragOffset != 0 {
		return false
	}
	return s.rest == nil || s.rest.holds(k)
}

func (r *rest) holds(k *state) bool {
	p := k.Packet
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
		if m := &r.marks[i]; (k.mark&m.Mask == m.Value) == m.Not {
			return false
		}
	}
	for i := range r.ports {
		if !portsHold(&r.ports[i], p) {
			return false
		}
	}
	for i := range r.more {
		if !r.more[i].holds(k.Input) {
			return false
		}
	}
	return r.in.Matches(k.In)
}

func portsHold(m *Match, p *packet.Packet) bool {
	source, dest := p.Flow.ClientPort(), p.Flow.VirtualPort()
	if m.Kind == MatchPorts {
		return m.Source.Contains(source) && m.Dest.Contains(dest) && m.Flags.Contains(p.TCPFlags)
	}
	for _, r := range m.Ports {
		if m.Side != DestSide && r.Contains(source) || m.Side != SourceSide && r.Contains(dest) {
			return !m.Not
		}
	}
	return m.Not
}
