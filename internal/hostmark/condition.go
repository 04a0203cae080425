package hostmark

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"github.com/ulvs/ulvs/fwmark"
)

// maxExpansion is how many fwmark rules one rule of the firewall may become.
const maxExpansion = 1024

// condition is what must hold for a rule, as far as it has been read.
type condition struct {
	ipv6    bool
	tests   [fields][]test
	slots   []slot
	tuples  [][]tuple
	never   bool // it holds for no packet of the family
	inexact bool // something was left out, so that it holds for too many
}

// slot is a condition in its place, as iptables prints them in order.
type slot struct {
	match fwmark.Match // without Kind: the tests on ports
	marks []test       // tests of the mark that are no blocks, instead
	text  string       // what was left out, in iptables' words
	ports bool
}

// tuple is a choice of several tests that hold together, from a lookup of a
// concatenation.
type tuple []bound

type bound struct {
	field fieldID
	test  test
}

func (c *condition) clone() *condition {
	d := *c
	for i := range d.tests {
		d.tests[i] = slices.Clone(c.tests[i])
	}
	d.slots, d.tuples = slices.Clone(c.slots), slices.Clone(c.tuples)
	return &d
}

// unknown leaves a condition out.
func (c *condition) unknown(text string) {
	c.inexact = true
	if n := len(c.slots); n > 0 && c.slots[n-1].text == text {
		return
	}
	c.slots = append(c.slots, slot{text: text})
}

// add adds one test.
func (c *condition) add(f fieldID, t test) {
	switch {
	case t.spans == nil && t.mask == number{} && f != mark:
		c.never = c.never || t.not
		return
	case f == mark && t.spans == nil:
		c.slots = append(c.slots, slot{match: markMatch(t)})
		return
	case f == mark: // tests of one range come together
		if n := len(c.slots); n == 0 || c.slots[n-1].marks == nil {
			c.slots = append(c.slots, slot{})
		}
		last := &c.slots[len(c.slots)-1]
		last.marks = append(last.marks[:len(last.marks):len(last.marks)], t)
		return
	case f == etherSource && t.spans == nil && t.mask == ones(48):
		c.slots = append(c.slots, slot{match: fwmark.Match{Kind: fwmark.MatchMAC, MAC: [6]byte(t.value.bytes(6)),
			Not: t.not}})
		return
	case f == tos && t.spans == nil:
		c.slots = append(c.slots, slot{match: fwmark.Match{Kind: fwmark.MatchTOS, Value: uint32(t.value.lo),
			Mask: uint32(t.mask.lo), Not: t.not}})
		return
	case f >= fields:
		c.unknown("")
		return
	case f == sourcePort || f == destPort || f == tcpFlags:
		if !slices.ContainsFunc(c.slots, func(s slot) bool { return s.ports }) {
			c.slots = append(c.slots, slot{ports: true})
		}
	}
	c.tests[f] = append(c.tests[f], t)
}

// onMark are the bits of the mark that the condition looks at.
func onMark(r *fwmark.Rule) (bits uint32) {
	for _, m := range r.Matches {
		if m.Kind == fwmark.MatchMark {
			bits |= m.Mask | m.Value
		}
	}
	return bits
}

// rules are fwmark rules of which one holds whenever the condition does.
// exact: never otherwise.
func (c *condition) rules() (list []fwmark.Rule, exact bool) {
	if c.never {
		return nil, true
	}
	if len(c.tuples) > 0 {
		return c.eachTuple()
	}
	base := []fwmark.Rule{{IPv6: c.ipv6}}
	exact = !c.inexact
	for _, step := range []func([]fwmark.Rule) ([]fwmark.Rule, bool){
		c.protocols, c.sources, c.dests, c.inputs, c.matches,
	} {
		next, ok := step(base)
		if !ok || len(next) > maxExpansion {
			exact = false // and holds without this step too
			continue
		}
		base = next
	}
	return base, exact
}

func (c *condition) eachTuple() (list []fwmark.Rule, exact bool) {
	ways := 1
	for _, choice := range c.tuples {
		if ways *= len(choice); ways > 16*maxExpansion {
			d := c.clone()
			d.tuples, d.inexact = nil, true
			return d.rules()
		}
	}
	exact = true
	for _, t := range c.tuples[0] {
		d := c.clone()
		d.tuples = d.tuples[1:]
		for _, b := range t {
			d.add(b.field, b.test)
		}
		rules, ok := d.rules()
		list, exact = append(list, rules...), exact && ok
		if len(list) > maxExpansion {
			d = c.clone()
			d.tuples, d.inexact = nil, true
			return d.rules()
		}
	}
	return list, exact
}

// expand makes of each rule one for each choice.
func expand[T any](rules []fwmark.Rule, list []T, apply func(*fwmark.Rule, T)) (out []fwmark.Rule) {
	if len(rules)*len(list) > maxExpansion {
		return make([]fwmark.Rule, maxExpansion+1)
	}
	for _, r := range rules {
		for _, x := range list {
			n := r
			n.Matches = slices.Clone(r.Matches)
			apply(&n, x)
			out = append(out, n)
		}
	}
	return out
}

// pick applies a field's choices; no tests leave the rules as they are.
func (c *condition) pick(f fieldID, rules []fwmark.Rule, apply func(*fwmark.Rule, test)) ([]fwmark.Rule, bool) {
	list, never, ok := choices(c.tests[f], f.width(c.ipv6))
	switch {
	case !ok:
		return nil, false
	case never:
		return nil, true
	case len(list) == 0:
		return rules, true
	}
	return expand(rules, list, apply), true
}

const (
	protoTCP  = 6
	protoUDP  = 17
	protoSCTP = 132
)

func (c *condition) protocols(rules []fwmark.Rule) ([]fwmark.Rule, bool) {
	tests := c.tests[protocol]
	if len(c.tests[sourcePort])+len(c.tests[destPort]) > 0 {
		set, ok := all(tests, 8)
		withPorts := []span{}
		for _, p := range []uint64{protoTCP, protoUDP, protoSCTP} {
			withPorts = append(withPorts, span{number{0, p}, number{0, p}})
		}
		narrow := intersect(set, withPorts)
		if !ok || len(tests) > 0 && !slices.Equal(narrow, set) {
			return nil, false
		}
		tests = []test{{spans: narrow}}
	}
	if len(tests) == 0 {
		return rules, true
	}
	set, ok := all(tests, 8)
	if !ok {
		return nil, false
	}
	if rest := complement(set, 8); len(rest) == 1 && rest[0].first == rest[0].last {
		return expand(rules, rest, func(r *fwmark.Rule, s span) {
			r.Protocol, r.NotProtocol = uint8(s.first.lo), true
		}), rest[0].first.lo != 0
	}
	var list []uint8
	for _, s := range set {
		for p := s.first.lo; p <= s.last.lo; p++ {
			list = append(list, uint8(p))
		}
	}
	// fwmark has no condition for protocol 0.
	if len(list) > 16 || slices.Contains(list, 0) {
		return nil, false
	}
	return expand(rules, list, func(r *fwmark.Rule, p uint8) { r.Protocol = p }), true
}

func (c *condition) network(t test) fwmark.Network {
	size := source.width(c.ipv6) / 8
	addr, _ := netip.AddrFromSlice(t.value.bytes(size))
	mask, _ := netip.AddrFromSlice(t.mask.bytes(size))
	return fwmark.Network{Addr: addr, Mask: mask, Not: t.not}
}

func (c *condition) sources(rules []fwmark.Rule) ([]fwmark.Rule, bool) {
	return c.pick(source, rules, func(r *fwmark.Rule, t test) { r.Source = c.network(t) })
}

func (c *condition) dests(rules []fwmark.Rule) ([]fwmark.Rule, bool) {
	return c.pick(dest, rules, func(r *fwmark.Rule, t test) { r.Dest = c.network(t) })
}

// never is the interface that iptables-nft wants for ! -i +.
const never = "INVAL/D"

// inputs turns comparisons of names into -i: with the zero at the name's end
// it is the whole name, without only its beginning.
func (c *condition) inputs(rules []fwmark.Rule) ([]fwmark.Rule, bool) {
	ok := true
	rules, known := c.pick(input, rules, func(r *fwmark.Rule, t test) {
		var mask [16]byte
		binary.BigEndian.PutUint64(mask[:8], t.mask.hi)
		binary.BigEndian.PutUint64(mask[8:], t.mask.lo)
		n := 0
		for n < 16 && mask[n] == 0xff {
			n++
		}
		name, _, whole := strings.Cut(string(t.value.bytes(16)[:n]), "\x00")
		switch {
		case t.mask != ones(128).xor(ones(128-8*n)) || name == "" || whole && strings.HasSuffix(name, "+"):
			ok = false
		case !whole:
			name += "+"
		}
		if name == never && !t.not {
			name, t.not = "+", true
		}
		r.In = fwmark.Interface{Name: name, Not: t.not}
	})
	return rules, ok && known
}

// matches fills the slots.
func (c *condition) matches(rules []fwmark.Rule) ([]fwmark.Rule, bool) {
	for _, s := range c.slots {
		switch {
		case s.text != "":
		case s.ports:
			variants, ok := c.portMatches()
			if !ok {
				return nil, false
			}
			rules = expand(rules, variants, func(r *fwmark.Rule, m []fwmark.Match) {
				r.Matches = append(r.Matches, m...)
			})
		case s.marks != nil:
			list, never, ok := choices(s.marks, 32)
			switch {
			case !ok:
				return nil, false
			case never:
				return nil, true
			case len(list) > 0:
				rules = expand(rules, list, func(r *fwmark.Rule, t test) {
					r.Matches = append(r.Matches, markMatch(t))
				})
			}
		default:
			rules = expand(rules, []fwmark.Match{s.match}, func(r *fwmark.Rule, m fwmark.Match) {
				r.Matches = append(r.Matches, m)
			})
		}
		if len(rules) > maxExpansion {
			return nil, false
		}
	}
	return rules, true
}

// choosesMark reports that several rules come of the condition that differ in
// the mark they want: the second could match what the first has made.
func (c *condition) choosesMark() bool {
	return slices.ContainsFunc(c.slots, func(s slot) bool {
		list, _, _ := choices(s.marks, 32)
		return len(list) > 1
	}) || slices.ContainsFunc(c.tuples, func(list []tuple) bool {
		return slices.ContainsFunc(list, func(t tuple) bool {
			return slices.ContainsFunc(t, func(b bound) bool { return b.field == mark })
		})
	})
}

func markMatch(t test) fwmark.Match {
	return fwmark.Match{Kind: fwmark.MatchMark, Value: uint32(t.value.lo), Mask: uint32(t.mask.lo), Not: t.not}
}
