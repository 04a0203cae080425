package hostmark

import (
	"maps"
	"slices"

	"github.com/ulvs/ulvs/fwmark"
)

// firewall is what of one family's packets pass on their way in.
type firewall struct {
	base []chain          // in order
	own  map[string]table // chains that are jumped to, by their table
	// table of each base chain, for jumps
	table []string
}

// outcome is what became of the rules: those that are followed, and the steps
// that are not, in their order.
type outcome struct {
	rules      []fwmark.Rule
	unfollowed []step
}

// fate is what a chain that is jumped to may do.
type fate struct {
	marks, accepts, drops, rewrites bool
	marking                         []step // its rules that set marks
}

// shadow is packets that later rules may not see as they are.
type shadow struct {
	when []fwmark.Rule
	id   *step
}

// unsure is bits of the mark that a rule which is not followed may have set.
type unsure struct {
	when []fwmark.Rule
	bits uint32
}

// resolver goes through one family's chains.
type resolver struct {
	firewall
	forced map[string]bool // not to be followed, by id
	listed map[*step]bool
	extra  map[*step][]step // listed behind it: rules in the chain it jumps to
	unsure []unsure
	rules  []fwmark.Rule
}

// resolve decides which rules can be followed. Rules in forced are not.
func (f firewall) resolve(forced map[string]bool) outcome {
	r := &resolver{firewall: f, forced: forced, listed: map[*step]bool{}, extra: map[*step][]step{}}
	var lasting []shadow // beyond the chain
	for c := range r.base {
		shadows := slices.Clone(lasting)
		for s := range r.base[c].steps {
			here, ever := r.step(c, &r.base[c].steps[s], shadows)
			shadows = append(append(shadows, here...), ever...)
			lasting = append(lasting, ever...)
		}
	}
	r.listDrops()
	out := outcome{rules: r.rules}
	seen := map[string]bool{}
	list := func(s step) {
		if !seen[s.id] {
			seen[s.id] = true
			out.unfollowed = append(out.unfollowed, s)
		}
	}
	for c := range r.base {
		for s := range r.base[c].steps {
			if p := &r.base[c].steps[s]; r.listed[p] {
				list(*p)
				for _, e := range r.extra[p] {
					list(e)
				}
			}
		}
	}
	return out
}

// step decides on one rule and returns what it hides from those behind it, in
// its chain and everywhere.
func (r *resolver) step(c int, s *step, shadows []shadow) (here, ever []shadow) {
	var fates []fate
	marking, followed := false, !r.forced[s.id] && !r.base[c].later
	for _, e := range s.effects {
		f := r.fate(c, e)
		fates = append(fates, f)
		if !f.marks {
			continue
		}
		marking = true
		for _, h := range shadows {
			if overlap(h.when, e.when) {
				followed = false
				if h.id != nil && !h.id.marks() {
					r.listed[h.id] = true
				}
			}
		}
		followed = followed && e.kind == marks && e.exact && !r.depends(e)
	}
	if marking && !followed {
		r.listed[s] = true
	}
	for i, e := range s.effects {
		f := fates[i]
		r.extra[s] = append(r.extra[s], f.marking...)
		switch {
		case f.marks && followed:
			r.rules = append(r.rules, e.when...)
		case f.marks:
			bits := e.mask | e.value
			if e.kind != marks && e.kind != marksUnknown {
				bits = ^uint32(0)
			}
			r.unsure = append(r.unsure, unsure{e.when, bits})
		}
		if f.accepts {
			here = append(here, shadow{e.when, s})
		}
		if f.rewrites {
			ever = append(ever, shadow{e.when, s})
		}
	}
	return here, ever
}

// marks reports that the rule itself sets a mark.
func (s *step) marks() bool {
	return slices.ContainsFunc(s.effects, func(e effect) bool { return e.kind == marks })
}

// depends reports a condition on bits of the mark that are not known.
func (r *resolver) depends(e effect) bool {
	for _, u := range r.unsure {
		for i := range e.when {
			if onMark(&e.when[i])&u.bits != 0 && overlap(u.when, e.when[i:i+1]) {
				return true
			}
		}
	}
	return false
}

// listDrops lists the rules that drop what a followed rule marks.
func (r *resolver) listDrops() {
	for c := range r.base {
		for i := range r.base[c].steps {
			s := &r.base[c].steps[i]
			for _, e := range s.effects {
				if r.fate(c, e).drops && overlap(e.when, r.rules) {
					r.listed[s] = true
				}
			}
		}
	}
}

// fate is what an effect of a rule in base chain c comes to.
func (r *resolver) fate(c int, e effect) fate {
	switch e.kind {
	case marks, marksUnknown:
		return fate{marks: true}
	case accepts, returns:
		return fate{accepts: true}
	case drops:
		return fate{drops: true}
	case rewrites:
		return fate{rewrites: true}
	}
	f := fateOf(r.own[r.table[c]], e.target, map[string]bool{})
	f.accepts = f.accepts || e.kind == goes
	return f
}

type table = map[string][]step

// fateOf goes through a chain and those it jumps to, each once.
func fateOf(own table, name string, seen map[string]bool) (f fate) {
	if seen[name] {
		return f
	}
	seen[name] = true
	steps := own[name]
	for i := range steps {
		s := &steps[i]
		for _, e := range s.effects {
			switch e.kind {
			case marks, marksUnknown:
				f.marks = true
				if n := len(f.marking); n == 0 || f.marking[n-1].id != s.id {
					f.marking = append(f.marking, *s)
				}
			case accepts:
				f.accepts = true
			case drops:
				f.drops = true
			case rewrites:
				f.rewrites = true
			case jumps, goes:
				g := fateOf(own, e.target, seen)
				f.marks, f.accepts = f.marks || g.marks, f.accepts || g.accepts
				f.drops, f.rewrites = f.drops || g.drops, f.rewrites || g.rewrites
				f.marking = append(f.marking, g.marking...)
			}
		}
	}
	return f
}

// resolveBoth decides for both families. A rule for both is followed for both
// or for none.
func resolveBoth(v4, v6 firewall) Rules {
	forced := map[string]bool{}
	for {
		o4, o6 := v4.resolve(forced), v6.resolve(forced)
		more := maps.Clone(forced)
		for _, s := range slices.Concat(o4.unfollowed, o6.unfollowed) {
			if s.marks() {
				more[s.id] = true
			}
		}
		if len(more) > len(forced) {
			forced = more
			continue
		}
		r := Rules{V4: o4.rules, V6: o6.rules}
		seen := map[string]bool{}
		for _, s := range slices.Concat(o4.unfollowed, o6.unfollowed) {
			if !seen[s.id] {
				seen[s.id] = true
				r.Unfollowed = append(r.Unfollowed, s.text)
			}
		}
		return r
	}
}
