package forward

import (
	"net/netip"
	"slices"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/estimator"
	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/internal/preselect"
	"github.com/ulvs/ulvs/persist"
	"github.com/ulvs/ulvs/sched"
	"github.com/ulvs/ulvs/service"
)

// Service is a Service service at work.
type Service struct {
	ulvs.Service
	scheduler  sched.Scheduler
	positioned sched.Positioned // the scheduler, or nil
	dests      []*Dest          // newest first, as the kernel's list; replaced, never edited
	form       persist.Form
	number     uint32 // of its state
	// picks is what programs may open its connections by, or nil; usesPicks says that
	// its scheduler's picks lie there, and low that they shall be looked at.
	picks          *preselect.Service
	usesPicks, low bool
	*state
}

// Dest is a real server at work. It outlives its place in a service as long as
// connections or templates refer to it.
type Dest struct {
	sched.Dest
	conf      ulvs.Destination
	svc       *Service
	hop       *dataplane.NextHop
	available bool
	// told is what the plane has been told of where the server is; until trusted,
	// what it knows from before holds.
	pushed     *dataplane.Neighbor
	graceUntil uint32
	*state
}

// state is what of a service or a real server may outlive the process, besides its
// configuration. It holds no pointers.
type state struct {
	estimator.Estimator
	served [2]uint64 // packets and bytes that the plane had forwarded by itself when they were last counted
	// last is the number of the real server that the scheduler chose last, and
	// current what else it knows (sched.Positioned).
	last       uint32
	current    int32
	overloaded uint32 // of a real server: sched.Dest.Keep
	idle       uint32 // tick since which the trash has seen it without any
}

// table is what the commands set up: services, real servers, marks. The
// director's forwarding lock guards it.
type table struct {
	*service.Table[Service]
	mirror  mirror
	dests   []*Dest // by number; nil: free
	free    []uint32
	trash   []*Dest
	trashAt *uint32        // tick at which the trash is looked at next
	sets    [2]*fwmark.Set // IPv4, IPv6
	ruled   [2]bool        // there are mark rules, by family
	// markServices is how many services there are by mark, by family.
	markServices [2]int
	states       states
	// vips are the addresses of services, with how many, and protocols the same
	// by protocol; markVIPs are those that mark rules name as the destination of
	// a service's packets.
	vips      map[netip.Addr]int
	protocols map[endpoint]int
	markVIPs  map[netip.Addr]bool
}

func newTable() table {
	return table{
		Table:     service.New[Service](),
		dests:     make([]*Dest, 1), // 0 is no destination
		vips:      map[netip.Addr]int{},
		protocols: map[endpoint]int{},
		markVIPs:  map[netip.Addr]bool{},
		trashAt:   new(uint32),
		mirror:    noMirror{},
	}
}

func family(is6 bool) int {
	if is6 {
		return 1
	}
	return 0
}

func tableKey(k ulvs.ServiceKey) service.Key { return service.KeyOf(k.Addr, uint8(k.Protocol), k.Port) }

// find is the service with exactly this key, or nil.
func (t *table) find(k ulvs.ServiceKey) *Service {
	if k.Mark != 0 {
		return t.FindMark(k.Mark, k.IPv6)
	}
	return t.Find(tableKey(k))
}

const (
	ftpPort     = 21
	ftpDataPort = 20
)

// addService puts in a service that find does not find.
func (t *table) addService(s *Service) {
	if s.Mark != 0 {
		t.AddMark(s.Mark, s.IPv6, s)
		t.markServices[family(s.IPv6)]++
		return
	}
	t.Add(tableKey(s.ServiceKey), s)
	t.vips[s.Addr]++
	t.protocols[endpoint{s.Addr, uint8(s.Protocol)}]++
}

// removeService takes a service out; its destinations go to the trash.
func (t *table) removeService(s *Service, now uint32) {
	if s.Mark != 0 {
		t.RemoveMark(s.Mark, s.IPv6)
		t.markServices[family(s.IPv6)]--
	} else {
		t.Remove(tableKey(s.ServiceKey))
		release(t.vips, s.Addr)
		release(t.protocols, endpoint{s.Addr, uint8(s.Protocol)})
	}
	for _, d := range s.dests {
		t.discard(d, now)
	}
	t.states.freeService(s.number)
}

// release takes one off a count.
func release[K comparable](counts map[K]int, k K) {
	if counts[k]--; counts[k] == 0 {
		delete(counts, k)
	}
}

// addDest puts a destination at the head of its service's list; one without a number
// gets one.
func (t *table) addDest(s *Service, d *Dest) {
	if d.ID == 0 {
		if n := len(t.free); n > 0 {
			d.ID = t.free[n-1]
			t.free = t.free[:n-1]
		} else {
			d.ID = uint32(len(t.dests))
			t.dests = append(t.dests, nil)
		}
		t.dests[d.ID] = d
		d.state = t.states.server(d.ID)
		*d.state = state{}
		d.Recall(0)
		d.Keep(&d.state.overloaded)
		t.mirror.numbered(d)
	}
	d.svc = s
	d.available = true
	t.mirror.pushServer(d)
	s.dests = append([]*Dest{d}, s.dests...)
	s.scheduler.Added(s.schedDests(), &d.Dest)
	t.mirror.savePosition(s)
}

func (t *table) removeDest(s *Service, d *Dest, now uint32) {
	s.dests = slices.DeleteFunc(slices.Clone(s.dests), func(x *Dest) bool { return x == d })
	s.scheduler.Removed(s.schedDests(), &d.Dest)
	t.mirror.savePosition(s)
	t.discard(d, now)
}

// discard puts a destination into the trash, where it waits for its last
// connection, or to be added again (__ip_vs_del_dest).
func (t *table) discard(d *Dest, now uint32) {
	t.mirror.collectCounters(d)
	d.available = false
	t.mirror.pushServer(d)
	d.idle = 0
	if len(t.trash) == 0 {
		*t.trashAt = now + trashPeriod/2
	}
	t.trash = append(t.trash, d)
}

// trashPeriod is how long a destination without connections stays in the
// trash after that was noticed (IP_VS_DEST_TRASH_PERIOD).
const trashPeriod = 120 * hz

// fromTrash takes a destination out of the trash that the service had before
// (ip_vs_trash_get_dest).
func (t *table) fromTrash(s *Service, at netip.AddrPort) *Dest {
	for i, d := range t.trash {
		if d.conf.AddrPort() == at && d.svc.ServiceKey == s.ServiceKey {
			t.trash = slices.Delete(t.trash, i, i+1)
			return d
		}
	}
	return nil
}

// emptyTrash drops what has had no connections for long enough and returns it
// (ip_vs_dest_trash_expire).
func (t *table) emptyTrash(now uint32) (gone []*Dest) {
	if len(t.trash) == 0 || int32(now-*t.trashAt) < 0 {
		return nil
	}
	*t.trashAt = now + trashPeriod/2
	t.trash = slices.DeleteFunc(t.trash, func(d *Dest) bool {
		switch {
		case d.Bound() > 0 || d.Held():
			return false
		case d.idle == 0:
			d.idle = max(now, 1)
			return false
		case now-d.idle < trashPeriod:
			return false
		}
		t.dests[d.ID] = nil
		t.free = append(t.free, d.ID)
		gone = append(gone, d)
		return true
	})
	return gone
}

func (s *Service) schedDests() []*sched.Dest {
	list := make([]*sched.Dest, len(s.dests))
	for i, d := range s.dests {
		list[i] = &d.Dest
	}
	return list
}

func (s *Service) find(at netip.AddrPort) *Dest {
	for _, d := range s.dests {
		if d.conf.AddrPort() == at {
			return d
		}
	}
	return nil
}

// estimate is one round of the estimator for every service and destination.
func (t *table) estimate() {
	for s := range t.Each {
		for _, d := range s.dests {
			t.mirror.collectCounters(d)
			d.Round()
		}
		s.Round()
	}
}

// What the director keeps in a connection's owner bits: whether it is listed
// with its real server's port, and the forwarding method that the server had
// when it was made (ip_vs_bind_dest copies it).
const ownDestPort = 1

func ownerBits(destPort bool, m ulvs.ForwardMethod) uint8 {
	bits := uint8(m) << 1
	if destPort {
		bits |= ownDestPort
	}
	return bits
}

func methodOf(owner uint8) ulvs.ForwardMethod { return ulvs.ForwardMethod(owner >> 1) }

// retireScheduler has the scheduler let go of removed destinations.
func (s *Service) retireScheduler() {
	if c, ok := s.scheduler.(sched.Closer); ok {
		c.Close()
	}
}
