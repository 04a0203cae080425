package sched

// rr is round robin (ip_vs_rr.c): the next usable destination after the last
// one chosen.
type rr struct {
	dests []*Dest
	last  *Dest // nil: the list's head, before the first
}

func newRR(dests []*Dest, _ Flags) Scheduler {
	number(dests)
	return &rr{dests: dests}
}

func (s *rr) Schedule(*Request) *Dest {
	n, i := len(s.dests), 0
	if s.last != nil {
		i = s.last.pos + 1
	}
	for range n {
		if i >= n {
			i = 0
		}
		if d := s.dests[i]; d.usable() {
			s.last = d
			return d
		}
		i++
	}
	return nil
}

func (s *rr) Added(dests []*Dest, _ *Dest) {
	s.dests = dests
	number(dests)
}

// Removed steps back from a destination that goes, to the one before it, or
// to the head (ip_vs_rr_del_dest).
func (s *rr) Removed(dests []*Dest, d *Dest) {
	if s.last == d {
		s.last = nil
		if d.pos > 0 {
			s.last = dests[d.pos-1]
		}
	}
	s.dests = dests
	number(dests)
}

func (s *rr) Updated(dests []*Dest, _ *Dest) { s.dests = dests }

// Turn and SetTurn implement Turns.
func (s *rr) Turn() (last *Dest, current int32) { return s.last, 0 }
func (s *rr) SetTurn(last *Dest, _ int32)       { s.last = last }
