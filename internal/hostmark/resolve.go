package hostmark

import (
	"maps"
	"slices"

	"github.com/ulvs/ulvs/fwmark"
)

// firewall is what of one family's packets pass on their way in.
type firewall struct {
	ipv6  bool
	bases []chain          // in order
	own   map[string]table // chains that are jumped to, by their table
	// table of each base chain, for jumps
	table []string
}

// outcome is what became of the rules: those that are followed, and the steps
// that are not, in their order.
type outcome struct {
	rules      []fwmark.Rule
	unfollowed []step
}

// fate is what an effect may come to. accepts: the packet leaves the chain; nested: it
// may leave the base chain from a chain that is jumped to.
type fate struct {
	marks, accepts, drops, rewrites, retos, nested bool
	marking                                        []step // rules that set marks, where it jumps
}

// resolver decides on one family's chains.
type resolver struct {
	firewall
	forced map[string]bool // not to be followed, by id
	listed map[*step]bool
	extra  map[*step][]step // listed behind it: rules in the chain it jumps to
	fates  map[string]fate  // of chains, by table and name
}

// resolve decides which rules can be followed. Rules in forced are not.
func (f firewall) resolve(forced map[string]bool) outcome {
	r := &resolver{firewall: f, forced: maps.Clone(forced), extra: map[*step][]step{}, fates: map[string]fate{}}
	// What a rule hides that turns out not to be followed may be what an earlier one
	// relied upon.
	for before := -1; before < len(r.forced); {
		before = len(r.forced)
		r.listed = map[*step]bool{}
		p := &pass{resolver: r}
		for b := range r.bases {
			p.base, p.accepted = b, nil
			if r.marking(b) || r.rewriting(b) {
				p.chain(r.bases[b].steps, nil, nil)
			}
		}
		if p.visits > maxVisits { // too many ways
			for b := range r.bases {
				for _, s := range r.bases[b].steps {
					r.forced[s.id] = true
				}
			}
		}
	}
	m := &emitter{resolver: r, names: map[string]string{}, used: map[string]bool{}}
	for b := range r.bases {
		if r.marking(b) && !r.bases[b].later {
			m.base(b)
		}
	}
	r.listDrops(m.rules)
	out := outcome{rules: m.rules}
	seen := map[string]bool{}
	list := func(s step) {
		if !seen[s.id] {
			seen[s.id] = true
			out.unfollowed = append(out.unfollowed, s)
		}
	}
	each := func(steps []step) {
		for i := range steps {
			if p := &steps[i]; r.listed[p] {
				list(*p)
				for _, e := range r.extra[p] {
					list(e)
				}
			}
		}
	}
	for b := range r.bases {
		each(r.bases[b].steps)
		own := r.own[r.table[b]]
		for _, name := range slices.Sorted(maps.Keys(own)) {
			each(own[name])
		}
	}
	return out
}

// marking reports that a base chain sets marks, or those that it jumps to.
func (r *resolver) marking(b int) bool { return r.some(b, func(f fate) bool { return f.marks }) }

// rewriting reports that it may change what later rules look at.
func (r *resolver) rewriting(b int) bool {
	return r.some(b, func(f fate) bool { return f.rewrites || f.retos })
}

func (r *resolver) some(b int, is func(fate) bool) bool {
	return slices.ContainsFunc(r.bases[b].steps, func(s step) bool {
		return slices.ContainsFunc(s.effects, func(e effect) bool { return is(r.fate(b, e)) })
	})
}

// followedBy reports that another base chain of the same hook comes later that marks.
func (r *resolver) followedBy(b int) bool {
	for n := b + 1; n < len(r.bases); n++ {
		if r.bases[n].hook == r.bases[b].hook && r.marking(n) {
			return true
		}
	}
	return false
}

// marks reports that the rule itself sets a mark.
func (s *step) marks() bool {
	return slices.ContainsFunc(s.effects, func(e effect) bool { return e.kind == marks })
}

// listDrops lists the rules that drop what a followed rule marks. (Of what INPUT drops
// the daemon warns.)
func (r *resolver) listDrops(rules []fwmark.Rule) {
	marking := slices.DeleteFunc(slices.Clone(rules), func(m fwmark.Rule) bool { return m.Target != fwmark.TargetMark })
	for b := range r.bases {
		for i := range r.bases[b].steps {
			s := &r.bases[b].steps[i]
			for _, e := range s.effects {
				if r.bases[b].hook == hookPrerouting && r.fate(b, e).drops && overlap(e.when, marking) {
					r.listed[s] = true
				}
			}
		}
	}
}

// fate is what an effect of a rule in base chain b, or in one of those that it jumps to,
// comes to.
func (r *resolver) fate(b int, e effect) fate {
	switch e.kind {
	case marks, marksUnknown:
		return fate{marks: true}
	case accepts, returns:
		return fate{accepts: true}
	case drops:
		return fate{drops: true}
	case rewrites:
		return fate{rewrites: true}
	case retos:
		return fate{retos: true}
	}
	key := r.table[b] + " " + e.target
	f, known := r.fates[key]
	if !known {
		f = fateOf(r.own[r.table[b]], e.target, map[string]bool{})
		r.fates[key] = f
	}
	f.nested = f.accepts
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
			case retos:
				f.retos = true
			case jumps, goes:
				g := fateOf(own, e.target, seen)
				f.marks, f.accepts = f.marks || g.marks, f.accepts || g.accepts
				f.drops, f.rewrites, f.retos = f.drops || g.drops, f.rewrites || g.rewrites, f.retos || g.retos
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
