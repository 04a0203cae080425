package sched

// sed is shortest expected delay (ip_vs_sed.c): the destination whose active
// connections, the new one included, are fewest for its weight; the first of
// equals.
type sed struct{ list }

func newSED(dests []*Dest, _ Flags) Scheduler { return &sed{list{dests}} }

func (s *sed) Schedule(*Request) *Dest {
	var least *Dest
	for _, d := range s.dests {
		if d.Usable() && (least == nil || d.sooner(least)) {
			least = d
		}
	}
	return least
}

// sooner reports whether d would serve one more connection with less delay
// than e. Neither is quiescent.
func (d *Dest) sooner(e *Dest) bool {
	return (int64(e.activeConns())+1)*int64(d.Weight()) > (int64(d.activeConns())+1)*int64(e.Weight())
}

// Compared implements Comparing.
func (s *sed) Compared() (Comparison, []*Dest) { return SoonestForWeight, s.dests }
