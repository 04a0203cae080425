package fwmark

// maxDrafts is how many steps there may be before those are left out that lead nowhere else.
const maxDrafts = 4 * MaxSteps

// listing makes a list of steps of rules, in one pass: what a step leads to comes later.
type listing struct {
	steps []draft
	here  *label  // what has led to this place; nil: nothing does
	mark  partial // what is known of the mark here
	last  *label  // behind the last step, if that is unconditional
	full  bool    // there are too many steps
	// done and undecided are where lists end.
	done, undecided *label
}

// draft is a step whose ways on are not numbers yet.
type draft struct {
	Step
	yes, no *label
}

// label is a place that steps lead to, which comes later than they do.
type label struct {
	reached bool
	mark    partial // on all ways here
	to      *label  // the place is that one
	step    int     // the number of the step there; -1: it is not known yet
}

// partial is a mark of which the bits of known are those of value, which has no others.
type partial struct{ known, value uint32 }

// all reports that every bit is known.
func (p partial) all() bool { return p.known == ^uint32(0) }

// after is the mark after (mark AND and) XOR xor.
func (p partial) after(and, xor uint32) partial {
	known := p.known | ^and
	return partial{known, (p.value&and ^ xor) & known}
}

// with is the mark that has value in the bits of mask.
func (p partial) with(mask, value uint32) partial {
	return partial{p.known | mask, p.value&^mask | value&mask}
}

// changes reports whether (mark AND NOT mask) XOR value may be another mark.
func (p partial) changes(value, mask uint32) bool {
	return value&^mask != 0 || mask&^p.known != 0 || (p.value^value)&mask != 0
}

func newLabel() *label { return &label{step: -1} }

func newListing() *listing {
	start := newLabel()
	start.reached = true
	return &listing{here: start, mark: partial{known: ^uint32(0)}, done: newLabel(), undecided: newLabel()}
}

// join says that a packet with such a mark may get there.
func (l *label) join(m partial) {
	if !l.reached {
		l.reached, l.mark = true, m
		return
	}
	known := l.mark.known & m.known &^ (l.mark.value ^ m.value)
	l.mark = partial{known, l.mark.value & known}
}

// leave goes on at a later place.
func (g *listing) leave(to *label) {
	if g.here == nil {
		return
	}
	to.join(g.mark)
	g.here.to, g.here = to, nil
}

// place has a label be here.
func (g *listing) place(l *label) {
	if l.reached {
		g.leave(l)
		g.here, g.mark = l, l.mark
	}
}

// step adds a step that leads to yes or no. Of a mark that is compared something is known then.
func (g *listing) step(s Step, yes, no *label) {
	if g.here == nil {
		return
	}
	if len(g.steps) == maxDrafts {
		g.full, g.here = true, nil
		return
	}
	g.here.step, g.last = len(g.steps), nil
	g.steps = append(g.steps, draft{s, yes, no})
	if s.Field == FieldMark && s.Span == 0 {
		yes.join(g.mark.with(s.Mask, s.Low))
	} else {
		yes.join(g.mark.after(s.And, s.Xor))
	}
	if !s.always() {
		no.join(g.mark)
	}
	g.here = nil
}

// test adds a condition on a field.
func (g *listing) test(field Field, mask, low, span uint32, yes, no *label) {
	g.step(Step{Field: field, Mask: mask, Low: low, Span: span, And: ^uint32(0)}, yes, no)
}

// change makes the mark (mark AND NOT mask) XOR value.
func (g *listing) change(value, mask uint32) {
	if g.here != nil && g.here == g.last { // as one step with the one before
		s := &g.steps[len(g.steps)-1]
		s.And, s.Xor = s.And&^mask, s.Xor&^mask^value
		g.mark = g.mark.after(^mask, value)
		g.here.mark = g.mark
		return
	}
	next := newLabel()
	g.step(Step{Span: ^uint32(0), And: ^mask, Xor: value}, next, next)
	g.place(next)
	g.last = next
}

// number is the number of the step at a label, or how the list ends there.
func (g *listing) number(l *label) uint16 {
	for l.to != nil {
		l = l.to
	}
	switch {
	case l == g.done:
		return Done
	case l.step < 0:
		return Undecided
	}
	return uint16(l.step)
}

// finish returns the list, as short as it is known to be. If nothing is left of it, it ends so.
func (g *listing) finish(start *label) (list []Step, end uint16) {
	list = make([]Step, len(g.steps))
	for i, d := range g.steps {
		list[i] = d.Step
		list[i].Yes, list[i].No = g.number(d.yes), g.number(d.no)
	}
	return shorten(list, g.number(start))
}

// always reports that the step's condition holds for every packet, and idle that it changes no mark.
func (s *Step) always() bool { return s.Span == ^uint32(0) }
func (s *Step) idle() bool   { return s.And == ^uint32(0) && s.Xor == 0 }

// shorten leaves out what leads nowhere else, and has steps change marks in the place of the next
// one.
func shorten(list []Step, start uint16) (left []Step, end uint16) {
	to := make([]uint16, len(list)) // where a packet goes that comes to a step
	follow := func(n uint16) uint16 {
		if int(n) < len(list) {
			return to[n]
		}
		return n
	}
	for i := len(list) - 1; i >= 0; i-- {
		s := &list[i]
		s.Yes, s.No = follow(s.Yes), follow(s.No)
		s.absorb(list)
		if to[i] = uint16(i); s.idle() && (s.Yes == s.No || s.always()) {
			to[i] = s.Yes
		}
	}
	start = follow(start)
	return compact(list, start), start
}

// absorb has a step do what an unconditional one behind it would.
func (s *Step) absorb(list []Step) {
	changes := func(n uint16) bool { return int(n) < len(list) && list[n].always() }
	if changes(s.No) && !changes(s.Yes) && s.idle() && !s.always() {
		// The condition is turned round.
		s.Low, s.Span = s.Low+s.Span+1, ^s.Span-1
		s.Yes, s.No = s.No, s.Yes
	}
	if changes(s.Yes) {
		next := &list[s.Yes]
		s.And, s.Xor = s.And&next.And, s.Xor&next.And^next.Xor
		s.Yes = next.Yes
	}
}

// compact leaves out what no packet comes to, and numbers the steps anew.
func compact(list []Step, start uint16) []Step {
	reached := make([]bool, len(list))
	reach := func(n uint16) {
		if int(n) < len(list) {
			reached[n] = true
		}
	}
	reach(start)
	numbers := make([]uint16, len(list))
	n := uint16(0)
	for i := range list {
		if numbers[i] = n; !reached[i] {
			continue
		}
		n++
		reach(list[i].Yes)
		if !list[i].always() {
			reach(list[i].No)
		}
	}
	renumber := func(to *uint16) {
		if int(*to) < len(list) {
			*to = numbers[*to]
		}
	}
	for i := range list {
		s := &list[i]
		if s.always() {
			s.No = s.Yes
		}
		renumber(&s.Yes)
		renumber(&s.No)
	}
	left := list[:0]
	for i, s := range list {
		if reached[i] {
			left = append(left, s)
		}
	}
	return left
}

// guarded puts steps before a list, which may have come to an end already, that have what came by
// none of the interfaces be undecided.
func guarded(list []Step, end uint16, interfaces []span) []Step {
	n := uint16(len(interfaces))
	guard := make([]Step, n, int(n)+len(list))
	for i, r := range interfaces {
		guard[i] = Step{Field: FieldInterface, Mask: ^uint32(0), Low: r.first, Span: r.last - r.first,
			Yes: n, No: uint16(i + 1), And: ^uint32(0)}
		if len(list) == 0 {
			guard[i].Yes = end
		}
	}
	guard[n-1].No = Undecided
	for _, s := range list {
		for _, to := range []*uint16{&s.Yes, &s.No} {
			if int(*to) < len(list) {
				*to += n
			}
		}
		guard = append(guard, s)
	}
	return guard
}
