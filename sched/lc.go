package sched

// lc is least connection (ip_vs_lc.c): the destination with the least load
// whatever its weight, if that is not 0; the first of equals.
type lc struct{ list }

func newLC(dests []*Dest, _ Flags) Scheduler { return &lc{list{dests}} }

func (s *lc) Schedule(*Request) *Dest {
	var least *Dest
	var load int64
	for _, d := range s.dests {
		if !d.Usable() {
			continue
		}
		if o := d.overhead(); least == nil || o < load {
			least, load = d, o
		}
	}
	return least
}

// Compared implements Comparing.
func (s *lc) Compared() (Comparison, []*Dest) { return Least, s.dests }
