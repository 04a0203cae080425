package sched

// rr is round robin (ip_vs_rr.c): the next usable destination after the last
// one chosen.
type rr struct {
	dests   []*Dest
	last    *Dest // nil: the list's head, before the first
	weights heaviest
}

func newRR(dests []*Dest, _ Flags) Scheduler {
	s := &rr{}
	s.measure(dests)
	return s
}

func (s *rr) measure(dests []*Dest) {
	s.dests = dests
	number(dests)
	s.weights.measure(dests)
}

func (s *rr) Schedule(*Request) *Dest {
	i := 0
	if s.last != nil {
		i = s.last.pos + 1
	}
	d := s.between(i, len(s.dests))
	if d == nil {
		d = s.between(0, i)
	}
	if d != nil {
		s.last = d
	}
	return d
}

// between is the first usable destination from index i on, before end.
func (s *rr) between(i, end int) *Dest {
	for i = s.weights.next(i, 1); i < end; i = s.weights.next(i+1, 1) {
		if d := s.dests[i]; !d.Overloaded() {
			return d
		}
	}
	return nil
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

// Turn and SetTurn implement Turns.
func (s *rr) Turn() (last *Dest, current int32) { return s.last, 0 }
func (s *rr) SetTurn(last *Dest, _ int32)       { s.last = last }
