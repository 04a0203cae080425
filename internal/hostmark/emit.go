package hostmark

import (
	"slices"
	"strconv"

	"github.com/ulvs/ulvs/fwmark"
)

// emitter writes what is followed as rules of mangle.
type emitter struct {
	*resolver
	names map[string]string // of chains, by table and name
	used  map[string]bool
	rules []fwmark.Rule
}

// base writes the rules of a base chain: into the hook's own chain or, where others
// that mark follow and it may end early, into a chain of its own.
func (m *emitter) base(b int) {
	hook := m.bases[b].hook
	into, nested := hook, false
	if m.followedBy(b) && m.ends(m.bases[b].steps) {
		into, nested = m.name("base "+strconv.Itoa(b), m.bases[b].name), true
		m.rules = append(m.rules, fwmark.Rule{IPv6: m.ipv6, Chain: hook, Target: fwmark.TargetJump, To: into})
	}
	m.steps(b, m.bases[b].steps, into, nested)
}

// ends reports that a followed rule ends the chain early.
func (m *emitter) ends(steps []step) bool {
	return slices.ContainsFunc(steps, func(s step) bool {
		return !m.forced[s.id] && slices.ContainsFunc(s.effects, func(e effect) bool {
			return e.kind == accepts || e.kind == returns || e.kind == goes
		})
	})
}

// steps writes the rules of a chain. nested: its end leads on to the next base chain, so
// that to accept is to return.
func (m *emitter) steps(b int, steps []step, into string, nested bool) {
	for i := range steps {
		s := &steps[i]
		if m.forced[s.id] {
			continue
		}
		for _, e := range s.effects {
			f := m.fate(b, e)
			if !f.marks && !f.accepts {
				continue
			}
			verb, to := fwmark.TargetMark, ""
			switch e.kind {
			case accepts:
				if verb = fwmark.TargetAccept; nested {
					verb = fwmark.TargetReturn
				}
			case returns:
				verb = fwmark.TargetReturn
			case jumps:
				verb, to = fwmark.TargetJump, m.target(b, e.target)
			case goes:
				verb, to = fwmark.TargetGoto, m.target(b, e.target)
			case drops, rewrites, retos:
				continue
			}
			for _, r := range e.when {
				r.Chain, r.Target, r.To = into, verb, to
				if verb != fwmark.TargetMark {
					r.Value, r.Mask = 0, 0
				}
				m.rules = append(m.rules, r)
			}
		}
	}
}

// target returns the name of a chain that is jumped to, whose rules are written at its first
// jump.
func (m *emitter) target(b int, name string) string {
	table := m.table[b]
	key := table + " " + name
	if known, ok := m.names[key]; ok {
		return known
	}
	into := m.name(key, name)
	m.steps(b, m.own[table][name], into, false)
	return into
}

// name finds a name for a chain that iptables takes and that no other has.
func (m *emitter) name(key, name string) string {
	for n := 1; ; n++ {
		try := name
		if n > 1 {
			try = name[:min(len(name), 20)] + "-" + strconv.Itoa(n)
		}
		if n > 2 {
			try = "chain-" + strconv.Itoa(n)
		}
		if !m.used[try] && fwmark.NewTable(m.ipv6).NewChain(try) == nil {
			m.used[try], m.names[key] = true, try
			return try
		}
	}
}
