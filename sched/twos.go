package sched

import "math/rand/v2"

// twos is the power of two choices (ip_vs_twos.c; Mitzenmacher, Richa and
// Sitaraman, 2001): two destinations are drawn at random by weight, and the
// one with less load for its weight is chosen; the first drawn of equals.
type twos struct {
	list
	random func(n int64) int64 // 0 to n-1
}

func newTwos(dests []*Dest, _ Flags) Scheduler { return &twos{list{dests}, rand.Int64N} }

func (s *twos) Schedule(*Request) *Dest {
	var total int64
	for _, d := range s.dests {
		if d.Usable() {
			total += int64(d.Weight())
		}
	}
	if total == 0 {
		return nil
	}
	// The kernel draws 0 too, which gives the first destination one chance
	// more than its weight.
	first, second := s.draw(s.random(total+1)), s.draw(s.random(total+1))
	if first.overhead()*int64(second.Weight()) > second.overhead()*int64(first.Weight()) {
		return second
	}
	return first
}

// draw is the destination that has the n-th unit of weight.
func (s *twos) draw(n int64) *Dest {
	var last *Dest
	for _, d := range s.dests {
		if !d.Usable() {
			continue
		}
		last = d
		if n -= int64(d.Weight()); n <= 0 {
			break
		}
	}
	return last
}
