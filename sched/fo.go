package sched

// fo is weighted failover (ip_vs_fo.c): the destination with the greatest
// weight; the first of equals.
type fo struct{ list }

func newFO(dests []*Dest, _ Flags) Scheduler { return &fo{list{dests}} }

func (s *fo) Schedule(*Request) *Dest {
	var best *Dest
	for _, d := range s.dests {
		if d.Usable() && (best == nil || d.Weight() > best.Weight()) {
			best = d
		}
	}
	return best
}

// Compared implements Comparing.
func (s *fo) Compared() (Comparison, []*Dest) { return Heaviest, s.dests }
