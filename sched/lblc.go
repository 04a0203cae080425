package sched

// lblc is locality-based least connection (ip_vs_lblc.c): a virtual address
// keeps its destination until that is gone, quiescent or overburdened; then,
// and at first, wlc chooses.
type lblc struct{ local }

var (
	_ Forgetful = (*lblc)(nil)
	_ Closer    = (*lblc)(nil)
)

func newLBLC(dests []*Dest, _ Flags) Scheduler { return &lblc{newLocal(dests)} }

func (s *lblc) Schedule(r *Request) *Dest {
	p := s.visit(r)
	if p != nil {
		// A threshold that was reached does not end what is remembered.
		if d := p.servers[0]; d.pos >= 0 && d.Weight() > 0 && !s.overburdened(d) {
			return d
		}
	}
	d := s.leastLoaded()
	switch {
	case d == nil:
	case p == nil:
		s.add(r, d)
	case p.servers[0] != d:
		p.servers[0].held--
		p.servers[0] = d
		d.held++
	}
	return d
}

// overburdened reports that a destination has more active connections than its
// weight while another, usable or not, has fewer than half of its own
// (is_overloaded in ip_vs_lblc.c and ip_vs_lblcr.c).
func (l *list) overburdened(d *Dest) bool {
	if d.activeConns() <= d.Weight() {
		return false
	}
	for _, e := range l.dests {
		if 2*int64(e.activeConns()) < int64(e.Weight()) {
			return true
		}
	}
	return false
}
