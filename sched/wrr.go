package sched

// wrr is weighted round robin (ip_vs_wrr.c). A pass over the list takes the
// destinations whose weight is at least the current weight; the current weight
// starts at the greatest and falls by the greatest common divisor of all, pass
// after pass, until it has been 1.
type wrr struct {
	last    *Dest // nil: the list's head
	weights heaviest
	current int32
	max     int32 // the greatest weight, less divisor-1, so that the last pass is at 1
	divisor int32
}

func newWRR(dests []*Dest, _ Flags) Scheduler {
	s := &wrr{}
	s.measure(dests)
	s.current = s.max
	return s
}

// measure reads the weights (ip_vs_wrr_gcd_weight, ip_vs_wrr_max_weight).
func (s *wrr) measure(dests []*Dest) {
	s.last = nil
	number(dests)
	s.weights.measure(dests)
	var divisor, greatest int32
	for _, d := range dests {
		if w := d.Weight(); w > 0 {
			divisor = gcd(w, divisor)
			greatest = max(greatest, w)
		}
	}
	if divisor == 0 {
		divisor = 1
	}
	s.divisor = divisor
	s.max = greatest - (divisor - 1)
}

func (s *wrr) Schedule(*Request) *Dest {
	if s.max == 0 {
		return nil
	}
	// start is where the search began: when everything from there to the end
	// and, after a restart, everything up to it was tried at weight 1, there
	// is nothing.
	start, i, end := s.last, 0, len(s.weights.dests)
	if start != nil {
		i = start.pos + 1
	}
	lastPass, restarted := false, false
	for {
		if d := s.weights.usable(i, end, s.current); d != nil {
			s.last = d
			return d
		}
		if lastPass && restarted {
			s.last = start
			return nil
		}
		i = 0
		s.current -= s.divisor
		if s.current <= 0 {
			s.current = s.max
			if lastPass || start == nil {
				s.last = nil
				return nil
			}
			restarted = true
		}
		lastPass = s.current <= s.divisor
		if lastPass && restarted {
			end = start.pos + 1
		}
	}
}

// changed starts again from the list's head, with a current weight that fits
// the new weights (ip_vs_wrr_dest_changed).
func (s *wrr) changed(dests []*Dest) {
	s.measure(dests)
	switch {
	case s.current > s.max || s.current == 0:
		s.current = s.max
	case s.divisor > 1:
		s.current = s.current/s.divisor*s.divisor + 1
	}
}

func (s *wrr) Added(dests []*Dest, _ *Dest)   { s.changed(dests) }
func (s *wrr) Removed(dests []*Dest, _ *Dest) { s.changed(dests) }
func (s *wrr) Updated(dests []*Dest, _ *Dest) { s.changed(dests) }

// Position and SetPosition implement Positioned.
func (s *wrr) Position() (last *Dest, current int32) { return s.last, s.current }
func (s *wrr) SetPosition(last *Dest, current int32) {
	s.last = last
	if current > 0 {
		s.current = current
	}
}

// gcd of a and b, where b may be 0.
func gcd(a, b int32) int32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
