package sched

// ovf is weighted overflow (ip_vs_ovf.c): the destination with the greatest
// weight of those whose active connections do not exceed it; the first of
// equals.
type ovf struct{ list }

func newOVF(dests []*Dest, _ Flags) Scheduler { return &ovf{list{dests}} }

func (s *ovf) Schedule(*Request) *Dest {
	var best *Dest
	for _, d := range s.dests {
		if d.Usable() && d.activeConns() <= d.Weight() && (best == nil || d.Weight() > best.Weight()) {
			best = d
		}
	}
	return best
}

// Compared implements Comparing.
func (s *ovf) Compared() (Comparison, []*Dest) { return HeaviestUnfilled, s.dests }
