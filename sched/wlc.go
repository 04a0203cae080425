package sched

// wlc is weighted least connection (ip_vs_wlc.c): the destination with the
// least load for its weight, where an active connection counts 256 times an
// inactive one; the first of equals.
type wlc struct{ list }

func newWLC(dests []*Dest, _ Flags) Scheduler { return &wlc{list{dests}} }

func (s *wlc) Schedule(*Request) *Dest { return s.leastLoaded() }

// list is the destinations, for schedulers that keep nothing else.
type list struct{ dests []*Dest }

func (l *list) Added(dests []*Dest, _ *Dest)   { l.dests = dests }
func (l *list) Removed(dests []*Dest, _ *Dest) { l.dests = dests }
func (l *list) Updated(dests []*Dest, _ *Dest) { l.dests = dests }

// leastLoaded is the usable destination with the least load for its weight, or
// nil.
func (l *list) leastLoaded() *Dest {
	var least *Dest
	for _, d := range l.dests {
		if d.Usable() && (least == nil || d.lighter(least)) {
			least = d
		}
	}
	return least
}

// lighter reports whether d has less load for its weight than e. Neither is
// quiescent: d/w < e/w without division.
func (d *Dest) lighter(e *Dest) bool {
	return e.overhead()*int64(d.Weight()) > d.overhead()*int64(e.Weight())
}

// overhead is what connections cost a destination
// (include/net/ip_vs.h, ip_vs_dest_conn_overhead).
func (d *Dest) overhead() int64 {
	active, inact := d.conns()
	return int64(active)<<8 + int64(inact)
}

// Compared implements Comparing.
func (s *wlc) Compared() (Comparison, []*Dest) { return LeastForWeight, s.dests }
