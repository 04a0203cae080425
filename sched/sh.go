package sched

// sh is source hashing (ip_vs_sh.c): the client's address chooses, with
// sh-port (Flag2) its port too, through a table in which each destination has
// as many buckets in a row as its weight. With sh-fallback (Flag1) an unusable
// destination's buckets go to others.
type sh struct {
	flags   Flags
	buckets [shSize]*Dest
}

// shBits is IP_VS_SH_TAB_BITS as kernels are shipped (CONFIG_IP_VS_SH_TAB_BITS).
const (
	shBits = 8
	shSize = 1 << shBits
)

var _ Flagged = (*sh)(nil)

func newSH(dests []*Dest, flags Flags) Scheduler {
	s := &sh{flags: flags}
	s.assign(dests)
	return s
}

// assign deals out the buckets (ip_vs_sh_reassign). A quiescent destination
// gets one in its turn, which its clients then find closed.
func (s *sh) assign(dests []*Dest) {
	clear(s.buckets[:])
	if len(dests) == 0 {
		return
	}
	turn, given := 0, int32(0)
	for i := range s.buckets {
		d := dests[turn]
		s.buckets[i] = d
		if given++; given >= d.Weight() {
			given = 0
			turn = (turn + 1) % len(dests)
		}
	}
}

func (s *sh) Schedule(r *Request) *Dest {
	key := fold(&r.Client, r.IPv6)
	if s.flags&Flag2 != 0 {
		key += uint32(r.hashPort())
	}
	home := multiplicative(key, shBits)
	d := s.buckets[home]
	if d == nil || d.Usable() {
		return d
	}
	if s.flags&Flag1 == 0 {
		return nil
	}
	// The kernel offsets the bucket by itself, so the search starts at twice
	// its number (ip_vs_sh_get_fallback).
	for i := range uint32(shSize) {
		if d = s.buckets[(home+home+i)%shSize]; d.Usable() {
			return d
		}
	}
	return nil
}

// SetFlags keeps the table, as the kernel does.
func (s *sh) SetFlags(f Flags) { s.flags = f }

// Hashed implements Hashing.
func (s *sh) Hashed() (Hash, []*Dest) { return Hash{Port: s.flags&Flag2 != 0}, s.buckets[:] }

func (s *sh) Added(dests []*Dest, _ *Dest)   { s.assign(dests) }
func (s *sh) Removed(dests []*Dest, _ *Dest) { s.assign(dests) }
func (s *sh) Updated(dests []*Dest, _ *Dest) { s.assign(dests) }

// hashPort is the client's port where sh and mh look at it: in protocols whose
// header starts with ports (ip_vs_sh_get_port, ip_vs_mh_get_port).
func (r *Request) hashPort() uint16 {
	switch r.Proto {
	case 6, 17, 132: // TCP, UDP, SCTP
		return r.ClientPort
	}
	return 0
}
