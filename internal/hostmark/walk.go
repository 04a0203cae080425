package hostmark

import (
	"slices"

	"github.com/ulvs/ulvs/fwmark"
)

// shadow is packets that later rules may not see, or not as they are.
type shadow struct {
	when []fwmark.Rule
	id   *step
}

// unsure is bits of the mark that a rule which is not followed may have set.
type unsure struct {
	when []fwmark.Rule
	bits uint32
}

// maxVisits bounds how often rules are looked at: where many jumps lead to many
// others, those behind are not followed.
const maxVisits = 1 << 18

// pass goes once through one family's chains in the order in which packets do.
type pass struct {
	*resolver
	visits int
	unsure []unsure
	// lasting and accepted hide packets from all that comes, and from the rest of the
	// base chain.
	lasting, accepted []shadow
	retos             []shadow // whose type of service has changed
	base              int
}

// chain goes through a chain; path are the conditions of the jumps that led there.
// returned is what hides packets from this chain, and what the chain hides from its own
// rules besides.
func (p *pass) chain(steps []step, path [][]fwmark.Rule, returned []shadow) {
	returned = returned[:len(returned):len(returned)]
	for i := range steps {
		if p.visits++; p.visits > maxVisits {
			return
		}
		returned = append(returned, p.step(&steps[i], path, returned)...)
	}
}

// hidden reports that packets of an effect may not come here, or others, and lists
// what is to blame.
func (p *pass) hidden(e effect, path [][]fwmark.Rule, returned []shadow) (hidden bool) {
	for _, list := range [][]shadow{p.lasting, p.accepted, returned} {
		for _, h := range list {
			apart := func(when []fwmark.Rule) bool { return !overlap(h.when, when) }
			if apart(e.when) || slices.ContainsFunc(path, apart) {
				continue
			}
			hidden = true
			if !h.id.marks() {
				p.listed[h.id] = true
			}
		}
	}
	return hidden
}

// step decides on one rule, and returns what it hides from those behind it in its chain.
func (p *pass) step(s *step, path [][]fwmark.Rule, returned []shadow) (hides []shadow) {
	followed := !p.forced[s.id] && !p.bases[p.base].later
	matters := false
	for _, e := range s.effects {
		f := p.fate(p.base, e)
		if !f.marks && !f.accepts {
			continue
		}
		sets := e.kind == marks || e.kind == marksUnknown
		switch {
		case sets && p.hidden(e, path, returned):
			followed = false
		case onTOS(e.when) && slices.ContainsFunc(p.retos, func(h shadow) bool { return overlap(h.when, e.when) }):
			followed = false
		case !e.exact, e.kind == marksUnknown, p.depends(e), e.kind == accepts && !p.canAccept(len(path)):
			followed = false
		case (e.kind == jumps || e.kind == goes) && f.accepts && f.nested && !p.canAccept(1):
			followed = false
		}
		matters = matters || f.marks
	}
	if !followed {
		p.forced[s.id] = true
		if matters {
			p.listed[s] = true
		}
	}
	for _, e := range s.effects {
		hides = append(hides, p.effect(s, e, followed, path, returned)...)
	}
	return hides
}

// effect carries out one effect of a rule.
func (p *pass) effect(s *step, e effect, followed bool, path [][]fwmark.Rule, returned []shadow) (hides []shadow) {
	f := p.fate(p.base, e)
	here := []shadow{{e.when, s}}
	if f.rewrites {
		p.lasting = append(p.lasting, here...)
	}
	if f.retos {
		p.retos = append(p.retos, here...)
	}
	if followed {
		if e.kind == jumps || e.kind == goes {
			p.chain(p.own[p.table[p.base]][e.target], append(path[:len(path):len(path)], e.when), returned)
		}
		return nil
	}
	if f.marks {
		p.extra[s] = f.marking
		bits := e.mask | e.value
		if e.kind != marks && e.kind != marksUnknown {
			bits = ^uint32(0)
		}
		p.unsure = append(p.unsure, unsure{e.when, bits})
	}
	if e.kind == accepts || f.nested {
		p.accepted = append(p.accepted, here...)
	}
	if e.kind == returns || e.kind == goes {
		return here
	}
	return nil
}

// canAccept reports that a rule so many jumps deep can end its base chain: where none
// that marks follows at the same hook, or from the chain itself, by a return.
func (p *pass) canAccept(depth int) bool { return depth == 0 || !p.followedBy(p.base) }

// depends reports a condition on bits of the mark that are not known.
func (p *pass) depends(e effect) bool {
	for _, u := range p.unsure {
		for i := range e.when {
			if onMark(&e.when[i])&u.bits != 0 && overlap(u.when, e.when[i:i+1]) {
				return true
			}
		}
	}
	return false
}

// onTOS reports a condition on the type of service.
func onTOS(list []fwmark.Rule) bool {
	return slices.ContainsFunc(list, func(r fwmark.Rule) bool {
		return slices.ContainsFunc(r.Matches, func(m fwmark.Match) bool {
			return m.Kind == fwmark.MatchTOS || m.Kind == fwmark.MatchDSCP
		})
	})
}
