package sched

// rr is round robin (ip_vs_rr.c): the next usable destination after the last
// one chosen.
type rr struct {
	last    *Dest // nil: the list's head, before the first
	weights heaviest
}

func newRR(dests []*Dest, _ Flags) Scheduler {
	s := &rr{}
	s.measure(dests)
	return s
}

func (s *rr) measure(dests []*Dest) {
	number(dests)
	s.weights.measure(dests)
}

func (s *rr) Schedule(*Request) *Dest {
	i := 0
	if s.last != nil {
		i = s.last.pos + 1
	}
	if i < len(s.weights.dests) {
		if d := s.weights.dests[i]; d.Usable() { // as most are
			s.last = d
			return d
		}
	}
	d := s.weights.usable(i, len(s.weights.dests), 1)
	if d == nil {
		d = s.weights.usable(0, i, 1)
	}
	if d != nil {
		s.last = d
	}
	return d
}

func (s *rr) Added(dests []*Dest, _ *Dest) { s.measure(dests) }

// Removed steps back from a destination that goes, to the one before it, or
// to the head (ip_vs_rr_del_dest).
func (s *rr) Removed(dests []*Dest, d *Dest) {
	if s.last == d {
		s.last = nil
		if d.pos > 0 {
			s.last = dests[d.pos-1]
		}
	}
	s.measure(dests)
}

func (s *rr) Updated(dests []*Dest, _ *Dest) { s.measure(dests) }

// Position and SetPosition implement Positioned.
func (s *rr) Position() (last *Dest, current int32) { return s.last, 0 }
func (s *rr) SetPosition(last *Dest, _ int32)       { s.last = last }
