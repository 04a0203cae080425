package sched

import "math/bits"

// mh is Maglev hashing (ip_vs_mh.c; Eisenbud and others, Maglev, 2016): the
// client's address chooses, with mh-port (Flag2) its port too, through a table
// that changes little when a destination comes or goes. With mh-fallback
// (Flag1) an unusable destination's clients go to others.
//
// The table is made from the last weights that were not 0, so that it does not
// change when a destination is made quiescent.
type mh struct {
	flags  Flags
	lookup [mhSize]*Dest
}

// The table's size in kernels as they are shipped: CONFIG_IP_VS_MH_TAB_INDEX
// is 12. A share of the table is at most about 2^mhBits turns in a row.
const (
	mhSize = 4093
	mhBits = 6
)

// The kernel's hash keys are constants; both words of a key are the same.
const (
	mhKey1 = 2654435761
	mhKey2 = 2654446892
)

var _ Flagged = (*mh)(nil)

func newMH(dests []*Dest, flags Flags) Scheduler {
	s := &mh{flags: flags}
	s.populate(dests)
	return s
}

// mhKey is what is hashed of an address and port (ip_vs_mh_hashkey).
func mhKey(addr *[16]byte, ipv6 bool, port uint16) uint32 { return fold(addr, ipv6) + uint32(port) }

// preference is a destination's order of table places: from perm on, in steps
// of skip. It takes turns places at a time.
type preference struct {
	perm, skip uint32
	turns      int32
}

// populate fills the table (ip_vs_mh_permutate, ip_vs_mh_populate). More
// destinations than the table has places change nothing, as in the kernel,
// which then fails to tell.
func (s *mh) populate(dests []*Dest) {
	if len(dests) > mhSize {
		return
	}
	clear(s.lookup[:])
	prefs := preferences(dests)
	if prefs == nil {
		return
	}
	for free := mhSize; ; {
		for i := range prefs {
			p := &prefs[i]
			for range p.turns {
				for s.lookup[p.perm] != nil {
					p.perm = (p.perm + p.skip) % mhSize
				}
				s.lookup[p.perm] = dests[i]
				if free--; free == 0 {
					return
				}
			}
		}
	}
}

// preferences is nil when no destination has had a weight.
func preferences(dests []*Dest) []preference {
	var divisor, heaviest int32
	for _, d := range dests {
		if d.lastWeight > 0 {
			divisor = gcd(d.lastWeight, divisor)
			heaviest = max(heaviest, d.lastWeight)
		}
	}
	if divisor == 0 {
		return nil
	}
	shift := max(0, bits.Len32(uint32(heaviest/divisor))-mhBits)
	prefs := make([]preference, len(dests))
	for i, d := range dests {
		key := mhKey(&d.Addr, d.IPv6, d.Port)
		p := &prefs[i]
		p.perm = halfSip(key, mhKey1, mhKey1) % mhSize
		p.skip = halfSip(key, mhKey2, mhKey2)%(mhSize-1) + 1
		p.turns = d.lastWeight / divisor >> shift
		if p.turns == 0 && d.lastWeight != 0 {
			p.turns = 1
		}
	}
	return prefs
}

func (s *mh) Schedule(r *Request) *Dest {
	var port uint16
	if s.flags&Flag2 != 0 {
		port = r.hashPort()
	}
	key := mhKey(&r.Client, r.IPv6, port)
	home := halfSip(key, mhKey1, mhKey1) % mhSize
	d := s.lookup[home]
	if d == nil || d.Usable() {
		return d
	}
	if s.flags&Flag1 == 0 {
		return nil
	}
	// Further places are found by hashing again (ip_vs_mh_get_fallback).
	for i := range uint32(mhSize) {
		again := halfSip(key+(home+i)%mhSize, mhKey1, mhKey1) % mhSize
		if d = s.lookup[again]; d == nil || d.Usable() {
			return d
		}
	}
	return nil
}

// SetFlags keeps the table, as the kernel does.
func (s *mh) SetFlags(f Flags) { s.flags = f }

// Hashed implements Hashing.
func (s *mh) Hashed() (Hash, []*Dest) { return Hash{Port: s.flags&Flag2 != 0, Sip: true}, s.lookup[:] }

func (s *mh) Added(dests []*Dest, _ *Dest)   { s.populate(dests) }
func (s *mh) Updated(dests []*Dest, _ *Dest) { s.populate(dests) }

// Removed makes sure that the destination is gone, even where there are too
// many others for a new table; the kernel would still choose it.
func (s *mh) Removed(dests []*Dest, d *Dest) {
	for i, e := range s.lookup {
		if e == d {
			s.lookup[i] = nil
		}
	}
	s.populate(dests)
}
