package sched

// wlc is weighted least connection (ip_vs_wlc.c): the destination with the
// least load for its weight, where an active connection counts 256 times an
// inactive one; the first of equals.
type wlc struct{ dests []*Dest }

func newWLC(dests []*Dest, _ Flags) Scheduler { return &wlc{dests} }

func (s *wlc) Schedule(*Request) *Dest {
	var least *Dest
	var load int64
	for _, d := range s.dests {
		if d.Overloaded() {
			continue
		}
		w := int64(d.Weight())
		if least == nil {
			if w > 0 {
				least, load = d, d.overhead()
			}
			continue
		}
		// load/least.weight > o/w without division. A quiescent d never wins:
		// the left side is 0 then.
		if o := d.overhead(); load*w > o*int64(least.Weight()) {
			least, load = d, o
		}
	}
	return least
}

// overhead is what connections cost a destination
// (include/net/ip_vs.h, ip_vs_dest_conn_overhead).
func (d *Dest) overhead() int64 {
	return int64(d.active.Load())<<8 + int64(d.inact.Load())
}

func (s *wlc) Added(dests []*Dest, _ *Dest)   { s.dests = dests }
func (s *wlc) Removed(dests []*Dest, _ *Dest) { s.dests = dests }
func (s *wlc) Updated(dests []*Dest, _ *Dest) { s.dests = dests }
