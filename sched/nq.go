package sched

// nq is never queue (ip_vs_nq.c): the first destination without active
// connections; if there is none, what sed would choose.
type nq struct{ list }

func newNQ(dests []*Dest, _ Flags) Scheduler { return &nq{list{dests}} }

func (s *nq) Schedule(*Request) *Dest {
	var least *Dest
	for _, d := range s.dests {
		if !d.Usable() {
			continue
		}
		if d.ActiveConns() == 0 {
			return d
		}
		if least == nil || d.sooner(least) {
			least = d
		}
	}
	return least
}

// Compared implements Comparing.
func (s *nq) Compared() (Comparison, []*Dest) { return IdleOrSoonest, s.dests }
