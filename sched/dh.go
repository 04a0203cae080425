package sched

// dh is destination hashing (ip_vs_dh.c): the virtual address chooses, through
// a table in which the destinations take turns. A destination that cannot be
// used has no substitute.
type dh struct{ buckets [1 << dhBits]*Dest }

// dhBits is IP_VS_DH_TAB_BITS, which no configuration changes.
const dhBits = 8

func newDH(dests []*Dest, _ Flags) Scheduler {
	s := &dh{}
	s.assign(dests)
	return s
}

// assign deals out the buckets, weights apart (ip_vs_dh_reassign).
func (s *dh) assign(dests []*Dest) {
	clear(s.buckets[:])
	if len(dests) == 0 {
		return
	}
	for i := range s.buckets {
		s.buckets[i] = dests[i%len(dests)]
	}
}

func (s *dh) Schedule(r *Request) *Dest {
	d := s.buckets[multiplicative(fold(&r.Virtual, r.IPv6), dhBits)]
	if d == nil || !d.Usable() {
		return nil
	}
	return d
}

// Hashed implements Hashing.
func (s *dh) Hashed() (Hash, []*Dest) { return Hash{Virtual: true}, s.buckets[:] }

func (s *dh) Added(dests []*Dest, _ *Dest)   { s.assign(dests) }
func (s *dh) Removed(dests []*Dest, _ *Dest) { s.assign(dests) }
func (s *dh) Updated([]*Dest, *Dest)         {}
