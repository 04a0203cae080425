package forward

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/internal/svctable"
	"github.com/ulvs/ulvs/packet"
)

// index is what the commands set up: services, real servers, marks. The
// director's forwarding lock guards it.
type index struct {
	*svctable.Table[Service]
	mirror  mirror
	dests   []*Dest // by number; nil: free
	free    []uint32
	trash   trash
	trashAt *uint32 // tick at which the trash is looked at next
	total   *total
	sets    [2]*fwmark.Set // IPv4, IPv6
	ruled   [2]bool        // there are mark rules, by family
	states  states
	// vips are the addresses of services, with how many, and protocols the same
	// by protocol; markVIPs are those that mark rules name as the destination of
	// a service's packets, and markISAKMP those of them to which ISAKMP is.
	vips       map[netip.Addr]int
	protocols  map[Endpoint]int
	markVIPs   map[netip.Addr]bool
	markISAKMP map[netip.Addr]bool
	// served is how many services each family has, and leaving are those that are gone
	// but for their connections, of which leavingAt says how many are at an address.
	served    [2]int
	leaving   *svctable.Table[Service]
	leavingAt map[Endpoint]int
}

func newIndex() index {
	return index{
		Table:     svctable.New[Service](),
		dests:     make([]*Dest, 1), // 0 is no destination
		vips:      map[netip.Addr]int{},
		protocols: map[Endpoint]int{},
		markVIPs:  map[netip.Addr]bool{}, markISAKMP: map[netip.Addr]bool{},
		leaving: svctable.New[Service](), leavingAt: map[Endpoint]int{},
		trashAt: new(uint32), total: new(total),
		mirror: noMirror{},
	}
}

func family(is6 bool) int {
	if is6 {
		return 1
	}
	return 0
}

func tableKey(k ulvs.ServiceKey) svctable.Key {
	return svctable.KeyOf(k.Addr, uint8(k.Protocol), k.Port)
}

// find returns the service with exactly this key, or nil.
func (ix *index) find(k ulvs.ServiceKey) *Service {
	if k.Mark != 0 {
		return ix.FindMark(k.Mark, k.IPv6)
	}
	return ix.Find(tableKey(k))
}

// addService puts in a service that find does not find.
func (ix *index) addService(s *Service) {
	if s.Mark != 0 {
		ix.AddMark(s.Mark, s.IPv6, s)
		return
	}
	ix.Add(tableKey(s.ServiceKey), s)
	ix.vips[s.Addr]++
	ix.protocols[Endpoint{s.Addr, uint8(s.Protocol)}]++
}

// removeService takes a service out; its destinations go to the trash.
func (ix *index) removeService(s *Service, now uint32) {
	ix.served[family(s.Is6())]--
	if s.Mark != 0 {
		ix.RemoveMark(s.Mark, s.IPv6)
	} else {
		ix.Remove(tableKey(s.ServiceKey))
		release(ix.vips, s.Addr)
		release(ix.protocols, Endpoint{s.Addr, uint8(s.Protocol)})
	}
	for _, d := range s.dests {
		ix.discard(d, now)
	}
	ix.total.ended.Add(s.Counter)
	ix.states.freeService(s.number)
}

// release takes one off a count.
func release[K comparable](counts map[K]int, k K) {
	if counts[k]--; counts[k] == 0 {
		delete(counts, k)
	}
}

// addDest puts a destination at the head of its service's list; one without a number
// gets one.
func (ix *index) addDest(s *Service, d *Dest) {
	if d.ID == 0 {
		if n := len(ix.free); n > 0 {
			d.ID = ix.free[n-1]
			ix.free = ix.free[:n-1]
		} else {
			d.ID = uint32(len(ix.dests))
			ix.dests = append(ix.dests, nil)
		}
		ix.dests[d.ID] = d
		d.state = ix.states.server(d.ID)
		*d.state = state{}
		d.Share(ix.states.counts(d.ID))
		d.Recall(0)
		d.Keep(&d.state.overloaded)
		ix.mirror.numbered(d)
	}
	d.svc = s
	d.suspended = s.away.Load()
	d.available = !d.suspended
	ix.mirror.pushServer(d)
	s.dests = append([]*Dest{d}, s.dests...)
	s.scheduler.Added(s.schedDests(), &d.Dest)
	ix.mirror.savePosition(s)
}

func (ix *index) removeDest(s *Service, d *Dest, now uint32) {
	s.dests = slices.DeleteFunc(slices.Clone(s.dests), func(x *Dest) bool { return x == d })
	s.scheduler.Removed(s.schedDests(), &d.Dest)
	ix.mirror.savePosition(s)
	ix.discard(d, now)
}

// estimate carries out a round of the estimator for a service and its destinations, and
// estimateTotal for all services together.
func (ix *index) estimate(s *Service) {
	for _, d := range s.dests {
		ix.mirror.collectCounters(d)
		d.Round()
	}
	s.Round()
}

func (ix *index) estimateTotal() {
	all := ix.total.ended
	for s := range ix.Each {
		all.Add(s.Counter)
	}
	ix.total.Counter = all
	ix.total.Round()
}

// nameMarks works out which addresses mark rules name as those of services, and reports
// whether others get ISAKMP now. The caller holds both locks.
func (ix *index) nameMarks() (isakmp bool) {
	clear(ix.markVIPs)
	was := ix.markISAKMP
	ix.markISAKMP = map[netip.Addr]bool{}
	for i := range ix.sets {
		if set := ix.sets[i]; set != nil && ix.ruled[i] {
			for _, a := range set.Destinations(ix.Marks(i == 1)) {
				ix.nameMarkVIP(a)
			}
		}
	}
	return !maps.Equal(was, ix.markISAKMP)
}

// nameMark adds what nameMarks would for one more service. Its result is nameMarks's.
func (ix *index) nameMark(k ulvs.ServiceKey) (isakmp bool) {
	if k.Mark == 0 {
		return false
	}
	was := len(ix.markISAKMP)
	for _, a := range ix.sets[family(k.IPv6)].Destinations([]uint32{k.Mark}) {
		ix.nameMarkVIP(a)
	}
	return len(ix.markISAKMP) != was
}

func (ix *index) nameMarkVIP(a netip.Addr) {
	ix.markVIPs[a] = true
	if ix.marksISAKMP(a) {
		ix.markISAKMP[a] = true
	}
}

// claims adds what is served to what the plane has to keep from the host: last, so that it
// counts where a service was deleted and added again. The caller holds the control lock.
func (ix *index) claims(c *dataplane.Claims) {
	for a := range ix.markISAKMP {
		c.Services = append(c.Services, isakmpClaims(a)...)
	}
	for s := range ix.Each {
		c.Services = append(c.Services, s.Claim()...)
	}
	c.Marks4, c.Marks6 = append(c.Marks4, ix.Marks(false)...), append(c.Marks6, ix.Marks(true)...)
}

// balanced reports the protocols that a mark claims: whatever the mark, the rest is the
// host's.
func balanced(proto uint8) bool {
	return proto == packet.ProtoTCP || proto == packet.ProtoUDP || proto == packet.ProtoSCTP
}

// claimed reports whether a packet to an address is among the claims. s is its
// service, or nil.
func (ix *index) claimed(s *Service, to netip.Addr, p *packet.Packet) bool {
	if isIPsec(p.Proto, p.Is6) {
		return ix.claimsISAKMP(to)
	}
	if s != nil && s.Mark != 0 {
		return balanced(p.Proto)
	}
	return claimedIn(ix.Table, to, p)
}

// isVirtual reports whether an address is a service's, or one that the rules of the marks name.
func (ix *index) isVirtual(a netip.Addr) bool { return ix.vips[a] > 0 || ix.markVIPs[a] }

// virtual appends to an empty list the virtual addresses but those that are left out, sorted.
func (ix *index) virtual(list []netip.Addr, without func(netip.Addr) bool) []netip.Addr {
	for a := range ix.vips {
		list = append(list, a)
	}
	for a := range ix.markVIPs {
		if ix.vips[a] == 0 {
			list = append(list, a)
		}
	}
	list = slices.DeleteFunc(list, without)
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}
