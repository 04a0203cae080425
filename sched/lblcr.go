package sched

import "slices"

// lblcr is locality-based least connection with replication (ip_vs_lblcr.c): a
// virtual address keeps a set of destinations, of which the least loaded
// serves. When that one is overburdened, wlc chooses one that joins the set; a
// set that has not changed for the time of expiration loses its most loaded.
type lblcr struct{ local }

var (
	_ Forgetful = (*lblcr)(nil)
	_ Closer    = (*lblcr)(nil)
)

func newLBLCR(dests []*Dest, _ Flags) Scheduler { return &lblcr{newLocal(dests)} }

func (s *lblcr) Schedule(r *Request) *Dest {
	p := s.visit(r)
	if p == nil {
		d := s.leastLoaded()
		if d != nil {
			s.add(r, d)
		}
		return d
	}
	d := p.lightest()
	if len(p.servers) > 1 && r.Now > p.changed+s.expiration {
		if m := p.heaviest(); m != nil {
			p.leave(m, r.Now)
		}
	}
	if d != nil && !s.overburdened(d) {
		return d
	}
	if d = s.leastLoaded(); d != nil && !slices.Contains(p.servers, d) {
		p.join(d, r.Now)
	}
	return d
}

// lightest is the destination of the set with the least load for its weight
// that can be used, the latest of equals (ip_vs_dest_set_min).
func (p *place) lightest() *Dest {
	var least *Dest
	for i := len(p.servers) - 1; i >= 0; i-- {
		d := p.servers[i]
		if d.pos >= 0 && d.Usable() && (least == nil || d.lighter(least)) {
			least = d
		}
	}
	return least
}

// heaviest is the destination of the set with the most load for its weight, if
// that is not 0, usable or not, the latest of equals (ip_vs_dest_set_max).
func (p *place) heaviest() *Dest {
	var most *Dest
	for i := len(p.servers) - 1; i >= 0; i-- {
		d := p.servers[i]
		if d.Weight() > 0 && (most == nil || most.lighter(d)) {
			most = d
		}
	}
	return most
}
