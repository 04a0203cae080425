package director

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/persist"
	"github.com/ulvs/ulvs/sched"
)

// Version implements Control. The size is the kernel's number of buckets as
// shipped, which ipvsadm prints; ulvs has no buckets.
func (d *Director) Version() (string, int, error) { return "1.2.1", 4096, nil }

const maxPersistence = 31 * 24 * time.Hour

// clean gives a key the form in which it is kept.
func clean(k ulvs.ServiceKey) ulvs.ServiceKey {
	k.Addr = k.Addr.Unmap()
	if k.Mark != 0 {
		k.Protocol = 0
	} else {
		k.IPv6 = false
	}
	return k
}

// AddService implements Control.
func (d *Director) AddService(c ulvs.Service) error { return d.addService(c, 0) }

// addService adds a service whose cell has a number; 0 takes a free one.
func (d *Director) addService(c ulvs.Service, number uint32) error {
	c.ServiceKey = clean(c.ServiceKey)
	d.ctl.Lock()
	defer d.ctl.Unlock()
	if d.lookup(c.ServiceKey) != nil {
		return fmt.Errorf("%w: %v", ulvs.ErrServiceExists, c.ServiceKey)
	}
	if err := checkService(&c); err != nil {
		return err
	}
	sc, err := sched.New(c.Scheduler, nil, c.SchedFlags)
	if err != nil {
		return fmt.Errorf("%w: %v", ulvs.ErrNoScheduler, err)
	}
	d.persists(c)
	s := &virtual{Service: c, scheduler: sc}
	s.positioned, _ = sc.(sched.Positioned)
	s.form = persist.FormFor(c.Is6(), c.Mark, c.Persistence.Netmask)
	d.change(func() { s.number, s.state = d.table.states.service(number) }, false)
	// First claim, then serve: a packet in between is nobody's, and not the
	// host's to reset.
	err = d.claim(func(to *dataplane.Claims) {
		to.Services = append(to.Services, s.claim()...)
		if c.Mark != 0 {
			marks := []*[]uint32{&to.Marks4, &to.Marks6}[family(c.IPv6)]
			*marks = append(*marks, c.Mark)
		}
	})
	if err != nil {
		d.change(func() { d.table.states.freeService(s.number) }, false)
		return err
	}
	d.change(func() {
		d.remember(s)
		d.withOpeningDisabled(d.anyPortSibling(c.ServiceKey), func() { d.table.addService(s) })
		d.table.nameMark(c.ServiceKey)
	}, false)
	return d.record(command{Verb: "service", Service: &s.Service, Number: s.number})
}

// apply changes something under the forwarding lock. marks says that the addresses
// that mark rules name are to be worked out anew.
func (d *Director) change(f func(), marks bool) {
	d.lock()
	defer d.fwd.Unlock()
	f()
	if marks {
		d.table.nameMarks(d.marks4, d.marks6)
	}
	d.updateOpening()
}

// lookup is find under the lock. The caller holds ctl, so that the answer
// stays true.
func (d *Director) lookup(k ulvs.ServiceKey) *virtual {
	d.fwd.Lock()
	defer d.fwd.Unlock()
	return d.table.find(k)
}

// existing is the service of a key, or ErrNoService. The caller holds ctl.
func (d *Director) existing(k ulvs.ServiceKey) (*virtual, error) {
	s := d.lookup(clean(k))
	if s == nil {
		return nil, fmt.Errorf("%w: %v", ulvs.ErrNoService, k)
	}
	return s, nil
}

// EditService implements Control (ip_vs_edit_service).
func (d *Director) EditService(c ulvs.Service) error {
	c.ServiceKey = clean(c.ServiceKey)
	d.ctl.Lock()
	defer d.ctl.Unlock()
	s, err := d.existing(c.ServiceKey)
	if err != nil {
		return err
	}
	if err := checkService(&c); err != nil {
		return err
	}
	d.persists(c)
	was := s.ftp()
	if err := d.edit(s, c); err != nil {
		return err
	}
	if s.ftp() != was { // its claims go with its persistence
		err = d.claim(nil)
	}
	return errors.Join(err, d.record(command{Verb: "edit service", Service: &c}))
}

// persists sees to the memory for templates, if c is the first service to have some.
func (d *Director) persists(c ulvs.Service) {
	if c.Persistence.Timeout != 0 {
		d.persisting.Do(d.templates.Populate)
	}
}

func (d *Director) edit(s *virtual, c ulvs.Service) error {
	d.lock()
	defer d.fwd.Unlock()
	d.disableOpening(s)
	defer d.enableOpening(s)
	if c.Scheduler != s.Scheduler {
		sc, err := sched.New(c.Scheduler, s.schedDests(), c.SchedFlags)
		if err != nil {
			return fmt.Errorf("%w: %v", ulvs.ErrNoScheduler, err)
		}
		s.retireScheduler()
		s.scheduler = sc
		s.positioned, _ = sc.(sched.Positioned)
		d.table.savePosition(s)
		s.Scheduler = c.Scheduler
		d.remember(s)
	} else if f, ok := s.scheduler.(sched.Flagged); ok {
		f.SetFlags(c.SchedFlags)
	}
	s.Service = c
	s.form = persist.FormFor(c.Is6(), c.Mark, c.Persistence.Netmask)
	return nil
}

// DeleteService implements Control.
func (d *Director) DeleteService(k ulvs.ServiceKey) error {
	d.ctl.Lock()
	defer d.ctl.Unlock()
	s, err := d.existing(k)
	if err != nil {
		return err
	}
	d.remove(s)
	return d.record(command{Verb: "delete service", Key: &s.ServiceKey})
}

// Clear implements Control.
func (d *Director) Clear() error {
	d.ctl.Lock()
	defer d.ctl.Unlock()
	d.fwd.Lock()
	all := slices.Collect(d.table.All())
	d.fwd.Unlock()
	d.remove(all...)
	return d.record(command{Verb: "clear"})
}

// remove takes services out, and gives their packets back to the host. The
// caller holds ctl.
func (d *Director) remove(list ...*virtual) {
	now := tickOf(d.clock())
	d.change(func() {
		for _, s := range list {
			d.disableOpening(s)
			s.retireScheduler()
			d.withOpeningDisabled(d.anyPortSibling(s.ServiceKey), func() { d.table.removeService(s, now) })
		}
	}, slices.ContainsFunc(list, func(s *virtual) bool { return s.Mark != 0 }))
	if err := d.claim(nil); err != nil {
		d.log.Error("services are gone, but the host is still kept from their packets", "err", err)
	}
	if slices.ContainsFunc(list, func(s *virtual) bool { return len(s.dests) > 0 }) {
		d.sweepNoDest()
	}
}

// warnMethod says what becomes of a real server's packets.
func (d *Director) warnMethod(c ulvs.Destination) {
	if c.Forward != ulvs.DirectRoute {
		d.log.Warn("packets for this real server are dropped: its forwarding method is not implemented", "server", c.AddrPort(), "method", c.Forward)
	}
}

// AddDestination implements Control.
func (d *Director) AddDestination(k ulvs.ServiceKey, c ulvs.Destination) error {
	return d.addDestination(k, c, 0)
}

// addDestination adds a real server that has a number; 0 takes a free one.
func (d *Director) addDestination(k ulvs.ServiceKey, c ulvs.Destination, number uint32) error {
	d.ctl.Lock()
	defer d.ctl.Unlock()
	s, err := d.existing(k)
	if err != nil {
		return err
	}
	if err := checkNumbers(&c, s.ServiceKey); err != nil {
		return err
	}
	if s.find(c.AddrPort()) != nil {
		return fmt.Errorf("%w: %v in %v", ulvs.ErrDestinationExists, c.AddrPort(), k)
	}
	if err := checkAddr(&c); err != nil {
		return err
	}
	d.warnMethod(c)
	// Resolving may talk to the system, so it comes before the lock.
	hop := d.resolver.NextHop(c.Addr)
	hop.OnLost(hostUnreachable)
	dst, err := d.enlist(s, c, hop, number)
	if err != nil {
		d.resolver.Release(hop)
		return err
	}
	return d.record(command{Verb: "server", Key: &s.ServiceKey, Destination: &c, Number: dst.ID})
}

// enlist puts a real server into a service.
func (d *Director) enlist(s *virtual, c ulvs.Destination, hop *dataplane.NextHop, number uint32) (*dest, error) {
	d.lock()
	defer d.fwd.Unlock()
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
		dst = &dest{hop: hop}
		if number != 0 {
			if was := d.table.number(dst, number); was != nil {
				d.resolver.Release(was.hop)
			}
		}
	} else {
		d.resolver.Release(hop)
		if dst.svc != s && !d.table.replaying {
			dst.Zero()
		}
	}
	dst.conf = c
	copy(dst.Addr[:], c.Addr.AsSlice())
	dst.Port, dst.IPv6 = c.Port, s.Is6()
	dst.Enlist(c.Weight, c.UpperThreshold, c.LowerThreshold)
	d.withOpeningDisabled(s, func() { d.table.addDest(s, dst) })
	return dst, nil
}

// destination is the service's real server at an address, which must be there.
func (s *virtual) destination(at netip.AddrPort) (*dest, error) {
	if dst := s.find(at); dst != nil {
		return dst, nil
	}
	return nil, fmt.Errorf("%w: %v in %v", ulvs.ErrNoDestination, at, s.ServiceKey)
}

// EditDestination implements Control.
func (d *Director) EditDestination(k ulvs.ServiceKey, c ulvs.Destination) error {
	d.ctl.Lock()
	defer d.ctl.Unlock()
	s, err := d.existing(k)
	if err != nil {
		return err
	}
	if err := checkNumbers(&c, s.ServiceKey); err != nil {
		return err
	}
	dst, err := s.destination(c.AddrPort())
	if err != nil {
		return err
	}
	if dst.conf.Forward != c.Forward {
		d.warnMethod(c)
	}
	d.change(func() {
		d.withOpeningDisabled(s, func() {
			dst.conf = c
			dst.Set(c.Weight, c.UpperThreshold, c.LowerThreshold)
			s.scheduler.Updated(s.schedDests(), &dst.Dest)
			d.table.savePosition(s)
		})
	}, false)
	return d.record(command{Verb: "edit server", Key: &s.ServiceKey, Destination: &c})
}

// DeleteDestination implements Control.
func (d *Director) DeleteDestination(k ulvs.ServiceKey, at netip.AddrPort) error {
	d.ctl.Lock()
	defer d.ctl.Unlock()
	s, err := d.existing(k)
	if err != nil {
		return err
	}
	dst, err := s.destination(at)
	if err != nil {
		return err
	}
	d.change(func() {
		d.withOpeningDisabled(s, func() { d.table.removeDest(s, dst, tickOf(d.clock())) })
	}, false)
	d.sweepNoDest()
	return d.record(command{Verb: "delete server", Key: &s.ServiceKey, Addr: at})
}

// Zero implements Control.
func (d *Director) Zero(k ulvs.ServiceKey) error {
	k = clean(k)
	d.fwd.Lock()
	defer d.fwd.Unlock()
	s := d.table.find(k)
	if s == nil {
		return fmt.Errorf("%w: %v", ulvs.ErrNoService, k)
	}
	s.zeroAll()
	return nil
}

// ZeroAll implements Control.
func (d *Director) ZeroAll() error {
	d.fwd.Lock()
	defer d.fwd.Unlock()
	for s := range d.table.All() {
		s.zeroAll()
	}
	return nil
}

func (s *virtual) zeroAll() {
	s.Zero()
	for _, dst := range s.dests {
		dst.Zero()
	}
}

// Timeouts implements Control.
func (d *Director) Timeouts() (t ulvs.Timeouts, err error) {
	d.fwd.Lock()
	defer d.fwd.Unlock()
	return d.timeouts(), nil
}

func (d *Director) timeouts() (t ulvs.Timeouts) {
	t.TCP, t.TCPFin, t.UDP = d.conns.Timeouts()
	return t
}

// SetTimeouts implements Control.
func (d *Director) SetTimeouts(t ulvs.Timeouts) error {
	for _, v := range []time.Duration{t.TCP, t.TCPFin, t.UDP} {
		if v < 0 || v > maxPersistence || v%time.Second != 0 {
			return fmt.Errorf("%w: timeout %v: use whole seconds, 0 to %v", ulvs.ErrInvalid, v, maxPersistence)
		}
	}
	d.ctl.Lock()
	defer d.ctl.Unlock()
	var generation uint32
	d.change(func() {
		d.conns.SetTimeouts(t.TCP, t.TCPFin, t.UDP)
		generation = d.conns.Generation()
		if d.table.fast != nil && !d.table.replaying {
			d.table.fast.SetGeneration(generation)
		}
	}, false)
	return d.record(command{Verb: "timeouts", Timeouts: &t, Generation: generation})
}
