package forward

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/packet"
	"github.com/ulvs/ulvs/persist"
	"github.com/ulvs/ulvs/sched"
	"github.com/ulvs/ulvs/service"
)

// change changes something under the forwarding lock.
func (d *Path) change(f func()) {
	d.lock()
	defer d.unlock()
	f()
	d.opener.update()
}

// Find is the service with exactly this key, or nil. The caller holds the control
// lock, so that the answer stays true.
func (d *Path) Find(k ulvs.ServiceKey) *Service {
	d.lock()
	defer d.unlock()
	return d.table.find(k)
}

// NewService makes a service that is not served yet; number 0 takes a free one.
func (d *Path) NewService(c ulvs.Service, number uint32) (*Service, error) {
	sc, err := sched.New(c.Scheduler, nil, c.SchedFlags)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ulvs.ErrNoScheduler, err)
	}
	d.persists(c)
	s := &Service{Service: c, scheduler: sc}
	s.positioned, _ = sc.(sched.Positioned)
	s.form = persist.FormFor(c.Is6(), c.Mark, c.Persistence.Netmask)
	d.change(func() { s.number, s.state = d.table.states.service(number) })
	return s, nil
}

// Forget gives back what NewService took.
func (d *Path) Forget(s *Service) {
	d.change(func() { d.table.states.freeService(s.number) })
}

// AddService serves a service that Find does not find.
func (d *Path) AddService(s *Service) {
	d.change(func() {
		d.remember(s)
		d.opener.withDisabled(d.opener.anyPortSibling(s.ServiceKey), func() { d.table.addService(s) })
		d.table.nameMark(s.ServiceKey)
	})
}

// All is every service, in the kernel's order.
func (d *Path) All() []*Service {
	d.lock()
	defer d.unlock()
	return slices.Collect(d.table.All())
}

// RemoveServices takes services out; their real servers go to the trash.
func (d *Path) RemoveServices(list []*Service) {
	now := tickOf(d.clock())
	d.change(func() {
		marks := false
		for _, s := range list {
			d.opener.disable(s)
			s.retireScheduler()
			d.opener.withDisabled(d.opener.anyPortSibling(s.ServiceKey), func() { d.table.removeService(s, now) })
			marks = marks || s.Mark != 0
		}
		if marks {
			d.table.nameMarks()
		}
	})
}

// SetMarks puts a family's rules to work; some says that there are any.
func (d *Path) SetMarks(ipv6 bool, set *fwmark.Set, some bool) {
	d.change(func() {
		d.table.sets[family(ipv6)], d.table.ruled[family(ipv6)] = set, some
		d.table.nameMarks()
	})
}

// Claims are what the plane has to keep from the host, but for the mark rules. With
// later, where there are very many services, of which a restore adds one after the
// other, ok is false: the next Tick says that it is due.
func (d *Path) Claims(later bool) (c dataplane.Claims, ok bool) {
	const many = 200
	d.lock()
	defer d.unlock()
	if later && d.table.Len() >= many {
		d.claimDue = true
		return c, false
	}
	d.claimDue = false
	return d.table.claims(), true
}

// EditDest gives a real server another configuration.
func (d *Path) EditDest(s *Service, dst *Dest, c ulvs.Destination) {
	d.change(func() {
		d.opener.withDisabled(s, func() {
			dst.conf = c
			dst.Set(c.Weight, c.UpperThreshold, c.LowerThreshold)
			s.scheduler.Updated(s.schedDests(), &dst.Dest)
			d.table.mirror.savePosition(s)
		})
	})
}

// RemoveDest puts a real server into the trash.
func (d *Path) RemoveDest(s *Service, dst *Dest) {
	d.change(func() {
		d.opener.withDisabled(s, func() { d.table.removeDest(s, dst, tickOf(d.clock())) })
	})
}

// AddDest adds a real server that has a number; 0 takes a free one.
func (d *Path) AddDest(s *Service, c ulvs.Destination, number uint32) (*Dest, error) {
	// Resolving may talk to the system, so it comes before the lock.
	hop := d.resolver.NextHop(c.Addr)
	hop.OnLost(hostUnreachable)
	dst, err := d.enlist(s, c, hop, number)
	if err != nil {
		d.resolver.Release(hop)
	}
	return dst, err
}

// Zero sets a service's counters to zero, and those of its real servers; false: there is
// no such service.
func (d *Path) Zero(k ulvs.ServiceKey) bool {
	d.lock()
	defer d.unlock()
	s := d.table.find(k)
	if s != nil {
		s.zeroAll()
	}
	return s != nil
}

// ZeroAll is Zero for all services.
func (d *Path) ZeroAll() {
	d.lock()
	defer d.unlock()
	for s := range d.table.All() {
		s.zeroAll()
	}
}

// Timeouts are those of ipvsadm --set.
func (d *Path) Timeouts() ulvs.Timeouts {
	d.lock()
	defer d.unlock()
	return d.timeouts()
}

// SetTimeouts sets them; 0 keeps. It returns their generation.
func (d *Path) SetTimeouts(t ulvs.Timeouts) (generation uint32) {
	d.change(func() {
		d.conns.SetTimeouts(t.TCP, t.TCPFin, t.UDP)
		generation = d.conns.Generation()
		d.table.mirror.setGeneration(generation)
	})
	return generation
}

// SetGeneration says which generation the present timeouts are, in a path that goes on
// with an earlier process's tables.
func (d *Path) SetGeneration(gen uint32) { d.conns.SetGeneration(gen) }

// Number is that of the service's kept state.
func (s *Service) Number() uint32 { return s.number }

// Dests are the service's real servers, newest first. The caller holds the control lock.
func (s *Service) Dests() []*Dest { return s.dests }

// Conf is the real server's configuration. The caller holds the control lock.
func (dst *Dest) Conf() ulvs.Destination { return dst.conf }

// persists sees to the memory for templates, if c is the first service to have some.
func (d *Path) persists(c ulvs.Service) {
	if c.Persistence.Timeout != 0 {
		d.persisting.Do(d.templates.Populate)
	}
}

// EditService gives a service another configuration (ip_vs_edit_service).
func (d *Path) EditService(s *Service, c ulvs.Service) error {
	d.persists(c)
	d.lock()
	defer d.unlock()
	d.opener.disable(s)
	defer d.opener.enable(s)
	if c.Scheduler != s.Scheduler {
		sc, err := sched.New(c.Scheduler, s.schedDests(), c.SchedFlags)
		if err != nil {
			return fmt.Errorf("%w: %v", ulvs.ErrNoScheduler, err)
		}
		s.retireScheduler()
		s.scheduler = sc
		s.positioned, _ = sc.(sched.Positioned)
		d.table.mirror.savePosition(s)
		s.Scheduler = c.Scheduler
		d.remember(s)
	} else if f, ok := s.scheduler.(sched.Flagged); ok {
		f.SetFlags(c.SchedFlags)
	}
	s.Service = c
	s.form = persist.FormFor(c.Is6(), c.Mark, c.Persistence.Netmask)
	return nil
}

// enlist puts a real server into a service.
func (d *Path) enlist(s *Service, c ulvs.Destination, hop *dataplane.NextHop, number uint32) (*Dest, error) {
	d.lock()
	defer d.unlock()
	if len(d.table.dests) > conn.MaxDest && len(d.table.free) == 0 {
		return nil, fmt.Errorf("%w: no more than %d real servers", ulvs.ErrInvalid, conn.MaxDest)
	}
	dst := d.table.fromTrash(s, c.AddrPort())
	if dst != nil && number != 0 && dst.ID != number {
		// The process whose commands these were had emptied its trash meanwhile.
		d.table.dests[dst.ID] = nil
		d.resolver.Release(dst.hop)
		dst = nil
	}
	if dst == nil {
		dst = &Dest{hop: hop}
		if number != 0 {
			if was := d.table.number(dst, number); was != nil {
				d.resolver.Release(was.hop)
			}
		}
	} else {
		d.resolver.Release(hop)
		if dst.svc != s {
			dst.Zero()
		}
	}
	dst.conf = c
	copy(dst.Addr[:], c.Addr.AsSlice())
	dst.Port, dst.IPv6 = c.Port, s.Is6()
	dst.Enlist(c.Weight, c.UpperThreshold, c.LowerThreshold)
	d.opener.withDisabled(s, func() { d.table.addDest(s, dst) })
	return dst, nil
}

// Destination is the service's real server at an address, which must be there.
func (s *Service) Destination(at netip.AddrPort) (*Dest, error) {
	if dst := s.find(at); dst != nil {
		return dst, nil
	}
	return nil, fmt.Errorf("%w: %v in %v", ulvs.ErrNoDestination, at, s.ServiceKey)
}

func (s *Service) zeroAll() {
	s.Zero()
	for _, dst := range s.dests {
		dst.Zero()
	}
}

func (d *Path) timeouts() (t ulvs.Timeouts) {
	t.TCP, t.TCPFin, t.UDP = d.conns.Timeouts()
	return t
}

// nameMarks works out which addresses mark rules name as those of services. The
// caller holds both locks.
func (t *table) nameMarks() {
	clear(t.markVIPs)
	for i := range t.sets {
		if set := t.sets[i]; set != nil && t.ruled[i] {
			for _, a := range set.Destinations(t.Marks(i == 1)) {
				t.markVIPs[a] = true
			}
		}
	}
}

// nameMark is nameMarks for one more service.
func (t *table) nameMark(k ulvs.ServiceKey) {
	if k.Mark == 0 {
		return
	}
	for _, a := range t.sets[family(k.IPv6)].Destinations([]uint32{k.Mark}) {
		t.markVIPs[a] = true
	}
}

// claims are what the plane has to keep from the host. A service that is gone
// claims nothing, though it may have connections left: its ports may be the
// host's now.
func (t *table) claims() (c dataplane.Claims) {
	for s := range t.Each {
		c.Services = append(c.Services, s.Claim()...)
	}
	c.Marks4, c.Marks6 = t.Marks(false), t.Marks(true)
	return c
}

// Claim is what one service with an address claims. A persistent FTP service
// has the ports of its data connections too; without persistence, what comes
// there is the host's (ip_vs_leave).
func (s *Service) Claim() []dataplane.Claim {
	if s.Mark != 0 {
		return nil
	}
	c := dataplane.Claim{Addr: s.Addr, Proto: uint8(s.Protocol), Port: s.Port, Service: s.number}
	if !s.FTP() {
		return []dataplane.Claim{c}
	}
	data, passive := c, c
	data.Port = ftpDataPort
	passive.Port, passive.Last = service.Unprivileged, 65535
	return []dataplane.Claim{c, data, passive}
}

// claimed reports whether a packet to an address is among the claims. s is its
// service, or nil.
func (t *table) claimed(s *Service, to netip.Addr, p *packet.Packet) bool {
	if s != nil && s.Mark != 0 {
		return true
	}
	k := service.KeyOf(to, p.Proto, p.Flow.VirtualPort())
	if t.Find(k) != nil {
		return true
	}
	port := k.Port
	if k.Port = 0; t.Find(k) != nil {
		return true
	}
	k.Port = ftpPort
	ftp := t.Find(k)
	return ftp != nil && ftp.FTP() && (port == ftpDataPort || port >= service.Unprivileged)
}

// FTP reports a service that has FTP's data connections too.
func (s *Service) FTP() bool {
	return s.Port == ftpPort && s.Protocol == ulvs.TCP && s.Persistence.Timeout != 0
}
