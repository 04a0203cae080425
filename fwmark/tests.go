package fwmark

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// Link is an interface by which packets come in.
type Link struct {
	Number uint32
	Name   string
}

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

// conditions are what steps are to look at.
type conditions struct {
	tests []func(yes, no *label)
	open  bool // there is something that no step can look at
}

func (c *conditions) add(not bool, test func(yes, no *label)) truth {
	if not {
		holds := test
		test = func(yes, no *label) { holds(no, yes) }
	}
	c.tests = append(c.tests, test)
	return unknown
}

func (c *conditions) leave() truth {
	c.open = true
	return unknown
}

// enter has those packets go on that meet a rule's conditions, and others at next.
func (w *evaluation) enter(r *Rule, next *label) truth {
	var c conditions
	least := known(w.addressed(r))
	for i := range r.Matches {
		least = min(least, w.match(&r.Matches[i], &c))
	}
	if n := r.Source; least != no && !n.Any() {
		least = c.add(n.Not, func(yes, no *label) { w.testNetwork(n, yes, no) })
	}
	if least != no && r.In.Name != "" && r.In != (Interface{Name: "+"}) {
		least = min(least, w.matchInterface(r.In, &c))
	}
	if least == no {
		return no
	}
	for _, test := range c.tests {
		holds := newLabel()
		test(holds, next)
		w.place(holds)
	}
	if c.open {
		w.leave(w.undecided)
	}
	return least
}

// addressed reports whether the conditions on the destination and the protocol hold.
func (w *evaluation) addressed(r *Rule) bool {
	return (r.Protocol == 0 || (r.Protocol == w.protocol) != r.NotProtocol) && (r.Dest.Any() || r.Dest.contains(w.to))
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

func (w *evaluation) match(m *Match, c *conditions) truth {
	switch m.Kind {
	case MatchComment:
		return yes
	case MatchPorts:
		if !m.Dest.Contains(w.port) {
			return no
		}
		least := yes
		if m.Source.Given {
			least = c.add(m.Source.Not, func(yes, no *label) { w.testPorts([]PortRange{m.Source}, yes, no) })
		}
		if !m.Flags.Any() {
			least = c.leave()
		}
		return least
	case MatchMultiport:
		in := slices.ContainsFunc(m.Ports, func(p PortRange) bool { return p.Contains(w.port) })
		if m.Side == DestSide || m.Side == EitherSide && in {
			return known(in != m.Not)
		}
		return c.add(m.Not, func(yes, no *label) { w.testPorts(m.Ports, yes, no) })
	case MatchMark:
		return w.matchMark(m, c)
	case MatchICMP:
		return no
	case MatchIPRange:
		from := m.SourceRange
		switch {
		case !m.DestRange.Contains(w.to):
			return no
		case from.Any():
			return yes
		case from.Last.Less(from.First):
			return known(from.Not)
		}
		return c.add(from.Not, func(yes, no *label) {
			w.testRange(wordsOf(from.First), wordsOf(from.Last), 0, yes, no)
		})
	}
	return c.leave()
}

func (w *evaluation) matchMark(m *Match, c *conditions) truth {
	switch is := w.mark; {
	case m.Value&^m.Mask != 0, (is.value^m.Value)&m.Mask&is.known != 0:
		return known(m.Not)
	case m.Mask&^is.known == 0:
		return known(!m.Not)
	}
	return c.add(m.Not, func(yes, no *label) { w.test(FieldMark, m.Mask, m.Value, 0, yes, no) })
}

// matchInterface looks at the interfaces that are known: of others nothing is decided, see guarded.
func (w *evaluation) matchInterface(in Interface, c *conditions) truth {
	matches := func(l Link) bool { return in.Matches(l.Name) }
	if len(w.links) == 0 {
		return c.leave()
	}
	w.looks = true
	first := matches(w.links[0])
	if !slices.ContainsFunc(w.links, func(l Link) bool { return matches(l) != first }) {
		return known(first)
	}
	return c.add(false, func(yes, no *label) {
		for _, s := range spans(w.links, matches, true) {
			w.testEither(FieldInterface, ^uint32(0), s, yes)
		}
		w.leave(no)
	})
}

// span is a range of numbers, both ends included.
type span struct{ first, last uint32 }

// spans returns the numbers of those of links that match, in ranges: these may have numbers between
// them that no link has, if loose.
func spans(links []Link, matches func(Link) bool, loose bool) (list []span) {
	sorted := slices.SortedFunc(slices.Values(links), func(a, b Link) int { return cmp.Compare(a.Number, b.Number) })
	joins := false
	for _, l := range sorted {
		if !matches(l) {
			joins = false
			continue
		}
		n := len(list) - 1
		if joins = joins && (loose || l.Number == list[n].last+1); joins {
			list[n].last = l.Number
		} else {
			list = append(list, span{l.Number, l.Number})
		}
		joins = true
	}
	return list
}

// testEither goes to yes if a field is in a range, and else on.
func (w *evaluation) testEither(field Field, mask uint32, in span, yes *label) {
	next := newLabel()
	w.test(field, mask, in.first, in.last-in.first, yes, next)
	w.place(next)
}

func (w *evaluation) testPorts(list []PortRange, yes, no *label) {
	for _, p := range list {
		w.testEither(FieldPort, 0xffff, span{uint32(p.First), uint32(p.Last)}, yes)
	}
	w.leave(no)
}

// wordsOf are an address's words, in host byte order.
func wordsOf(a netip.Addr) (list []uint32) {
	for b := a.AsSlice(); len(b) > 0; b = b[4:] {
		list = append(list, binary.BigEndian.Uint32(b))
	}
	return list
}

func (w *evaluation) testNetwork(n Network, yes, no *label) {
	want := wordsOf(n.Addr)
	for i, mask := range wordsOf(n.Mask) {
		if mask != 0 {
			w.testEqual(i, mask, want[i], no)
		}
	}
	w.leave(yes)
}

// testEqual goes on if a word of the source is one, and else to no.
func (w *evaluation) testEqual(word int, mask, want uint32, no *label) {
	same := newLabel()
	w.test(FieldSource+Field(word), mask, want, 0, same, no)
	w.place(same)
}

// testRange looks at the words of the source from number i on, of which those before are both ends'.
func (w *evaluation) testRange(first, last []uint32, i int, yes, no *label) {
	for ; i < len(first)-1 && first[i] == last[i]; i++ {
		w.testEqual(i, ^uint32(0), first[i], no)
	}
	field := FieldSource + Field(i)
	if i == len(first)-1 {
		w.test(field, ^uint32(0), first[i], last[i]-first[i], yes, no)
		return
	}
	if last[i]-first[i] > 1 {
		w.testEither(field, ^uint32(0), span{first[i] + 1, last[i] - 1}, yes)
	}
	low := newLabel()
	w.testEither(field, ^uint32(0), span{first[i], first[i]}, low)
	w.testEqual(i, ^uint32(0), last[i], no)
	w.testEnd(last, i+1, false, yes, no)
	w.place(low)
	w.testEnd(first, i+1, true, yes, no)
}

// testEnd goes to yes if the words of the source from number i on are up to an end, or from it on.
func (w *evaluation) testEnd(end []uint32, i int, from bool, yes, no *label) {
	for ; ; i++ {
		in, beyond, any := span{0, end[i]}, end[i] > 0, ^uint32(0)
		if from {
			in, beyond, any = span{end[i], ^uint32(0)}, end[i] < ^uint32(0), 0
		}
		field := FieldSource + Field(i)
		if !slices.ContainsFunc(end[i+1:], func(word uint32) bool { return word != any }) {
			w.test(field, ^uint32(0), in.first, in.last-in.first, yes, no)
			return
		}
		if beyond {
			if from {
				in.first++
			} else {
				in.last--
			}
			w.testEither(field, ^uint32(0), in, yes)
		}
		w.testEqual(i, ^uint32(0), end[i], no)
	}
}
