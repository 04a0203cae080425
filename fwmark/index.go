package fwmark

import (
	"slices"

	"github.com/ulvs/ulvs/packet"
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

// makeIndex makes a chain's index, if it has many rules.
func (p *program) makeIndex(c *section) {
	if len(c.steps) < indexFrom {
		return
	}
	for i := range c.steps {
		s := &c.steps[i]
		ported := s.mask[1]&destPortBits == destPortBits
		dests := s.mask[0]&destBits4 == destBits4
		if p.ipv6 {
			dests = s.mask[3]&s.mask[4] == ^uint64(0)
		}
		n := slices.IndexFunc(c.index, func(h shelf) bool { return h.dests == dests && h.ported == ported })
		if n < 0 {
			n = len(c.index)
			c.index = append(c.index, shelf{dests, ported, map[uint64][]int32{}, map[place][]int32{}})
		}
		at := p.place(&s.want, dests, ported)
		if p.ipv6 {
			c.index[n].ip6[at] = append(c.index[n].ip6[at], int32(i))
		} else {
			c.index[n].ip4[at.word()] = append(c.index[n].ip4[at.word()], int32(i))
		}
	}
}
