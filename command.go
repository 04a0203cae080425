package ulvs

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/persist"
	"github.com/ulvs/ulvs/sched"
)

// Version implements Control. The size is the kernel's number of buckets as
// shipped, which ipvsadm prints; ulvs has no buckets.
func (d *Director) Version() (string, int, error) { return "1.2.1", 4096, nil }

// check fills in and verifies a service (ip_vs_ctl.c, ip_vs_add_service).
func (s *Service) check() error {
	if s.Scheduler == "" {
		s.Scheduler = sched.Default
	}
	p := &s.Persistence
	switch {
	case !sched.Known(s.Scheduler):
		return fmt.Errorf("%w: scheduler %q, known are %v", ErrNoScheduler, s.Scheduler, sched.Names())
	case p.Engine != "":
		return fmt.Errorf("%w: persistence engine %q", ErrNoScheduler, p.Engine)
	case s.Mark == 0 && !s.Addr.IsValid():
		return fmt.Errorf("%w: a service has an address or a firewall mark", ErrInvalid)
	case s.Mark != 0 && (s.Addr.IsValid() || s.Port != 0):
		return fmt.Errorf("%w: a firewall mark's service has no address or port", ErrInvalid)
	case s.Mark == 0 && s.Protocol != TCP && s.Protocol != UDP && s.Protocol != SCTP:
		return fmt.Errorf("%w: protocol %v: use TCP, UDP or SCTP", ErrInvalid, s.Protocol)
	case p.Timeout < 0 || p.Timeout%time.Second != 0 || p.Timeout > maxPersistence:
		return fmt.Errorf("%w: persistent timeout %v: use whole seconds up to %v", ErrInvalid, p.Timeout, maxPersistence)
	case p.Netmask.IsValid() && p.Netmask.Is6() != s.Is6():
		return fmt.Errorf("%w: persistence netmask %v is of the other family", ErrInvalid, p.Netmask)
	}
	if s.Mark != 0 {
		s.Protocol = 0
	}
	return nil
}

const maxPersistence = 31 * 24 * time.Hour

// clean gives a key the form in which it is kept.
func (k ServiceKey) clean() ServiceKey {
	k.Addr = k.Addr.Unmap()
	if k.Mark != 0 {
		k.Protocol = 0
	} else {
		k.IPv6 = false
	}
	return k
}

// AddService implements Control.
func (d *Director) AddService(c Service) error {
	c.ServiceKey = c.clean()
	if err := c.check(); err != nil {
		return err
	}
	d.ctl.Lock()
	defer d.ctl.Unlock()
	if d.lookup(c.ServiceKey) != nil {
		return fmt.Errorf("%w: %v", ErrServiceExists, c.ServiceKey)
	}
	sc, err := sched.New(c.Scheduler, nil, c.SchedFlags)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrNoScheduler, err)
	}
	s := &virtual{Service: c, scheduler: sc}
	s.form = persist.FormFor(c.Is6(), c.Mark, c.Persistence.Netmask)
	// First claim, then serve: a packet in between is nobody's, and not the
	// host's to reset.
	return d.change(func() { d.table.addService(s) }, func() { d.table.removeService(s, 0) })
}

// change applies a change and tells the plane; if the plane refuses, undo.
func (d *Director) change(do, undo func()) error {
	d.fwd.Lock()
	do()
	d.table.nameMarks(d.marks4, d.marks6)
	d.fwd.Unlock()
	err := d.claim()
	if err == nil || undo == nil {
		return err
	}
	d.fwd.Lock()
	undo()
	d.table.nameMarks(d.marks4, d.marks6)
	d.fwd.Unlock()
	return fmt.Errorf("the %s plane cannot keep the host from the service's packets: %w", d.plane.Name(), err)
}

// lookup is find under the lock. The caller holds ctl, so that the answer
// stays true.
func (d *Director) lookup(k ServiceKey) *virtual {
	d.fwd.Lock()
	defer d.fwd.Unlock()
	return d.table.find(k)
}

// EditService implements Control (ip_vs_edit_service).
func (d *Director) EditService(c Service) error {
	c.ServiceKey = c.clean()
	if err := c.check(); err != nil {
		return err
	}
	d.ctl.Lock()
	defer d.ctl.Unlock()
	s := d.lookup(c.ServiceKey)
	if s == nil {
		return fmt.Errorf("%w: %v", ErrNoService, c.ServiceKey)
	}
	d.fwd.Lock()
	defer d.fwd.Unlock()
	if c.Scheduler != s.Scheduler || c.SchedFlags != s.SchedFlags {
		sc, err := sched.New(c.Scheduler, s.schedDests(), c.SchedFlags)
		if err != nil {
			return fmt.Errorf("%w: %v", ErrNoScheduler, err)
		}
		s.scheduler = sc
	}
	s.Service = c
	s.form = persist.FormFor(c.Is6(), c.Mark, c.Persistence.Netmask)
	return nil
}

// DeleteService implements Control.
func (d *Director) DeleteService(k ServiceKey) error {
	k = k.clean()
	d.ctl.Lock()
	defer d.ctl.Unlock()
	s := d.lookup(k)
	if s == nil {
		return fmt.Errorf("%w: %v", ErrNoService, k)
	}
	now := tickOf(d.clock())
	return d.change(func() {
		d.table.removeService(s, now)
		d.lateSweep = d.sysctl.ExpireNodestConn != 0
	}, nil)
}

// Clear implements Control.
func (d *Director) Clear() error {
	d.ctl.Lock()
	defer d.ctl.Unlock()
	now := tickOf(d.clock())
	return d.change(func() {
		for s := range d.table.All() {
			d.table.removeService(s, now)
		}
		d.lateSweep = d.sysctl.ExpireNodestConn != 0
	}, nil)
}

// check verifies a destination (ip_vs_add_dest, ip_vs_new_dest).
func (c *Destination) check() error {
	c.Addr = c.Addr.Unmap()
	switch {
	case c.Weight < 0:
		return fmt.Errorf("%w: weight %d", ErrRange, c.Weight)
	case c.LowerThreshold > c.UpperThreshold:
		return fmt.Errorf("%w: lower threshold %d above upper threshold %d", ErrRange, c.LowerThreshold, c.UpperThreshold)
	case c.TunnelType == GUE && c.Forward == Tunnel && c.TunnelPort == 0:
		return fmt.Errorf("%w: a gue tunnel needs a port", ErrInvalid)
	case !c.Addr.IsValid() || c.Addr.IsMulticast() || c.Addr.IsUnspecified() ||
		c.Addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || c.Addr.Is6() && c.Addr.IsLinkLocalUnicast():
		return fmt.Errorf("%w: real server %v is no unicast address", ErrInvalid, c.Addr)
	case c.Forward > Masquerade:
		return fmt.Errorf("%w: forwarding method %v", ErrInvalid, c.Forward)
	}
	return nil
}

// AddDestination implements Control.
func (d *Director) AddDestination(k ServiceKey, c Destination) error {
	k = k.clean()
	d.ctl.Lock()
	defer d.ctl.Unlock()
	s := d.lookup(k)
	if s == nil {
		return fmt.Errorf("%w: %v", ErrNoService, k)
	}
	if err := c.check(); err != nil {
		return err
	}
	if s.find(c.AddrPort()) != nil {
		return fmt.Errorf("%w: %v in %v", ErrDestinationExists, c.AddrPort(), k)
	}
	if c.Forward != DirectRoute {
		d.log.Warn("packets for this real server are dropped: its forwarding method is not implemented", "server", c.AddrPort(), "method", c.Forward)
	}
	// Resolving may talk to the system, so it comes before the lock.
	hop := d.resolver.NextHop(c.Addr)
	d.fwd.Lock()
	defer d.fwd.Unlock()
	if len(d.table.dests) > conn.MaxDest && len(d.table.free) == 0 {
		d.resolver.Release(hop)
		return fmt.Errorf("%w: no more than %d real servers", ErrInvalid, conn.MaxDest)
	}
	dst := d.table.fromTrash(s, c.AddrPort())
	if dst == nil {
		dst = &dest{hop: hop}
	} else {
		d.resolver.Release(hop)
		if dst.svc != s {
			dst.Zero()
		}
	}
	dst.configure(c)
	d.table.addDest(s, dst)
	return nil
}

func (dst *dest) configure(c Destination) {
	dst.conf = c
	dst.Set(c.Weight, c.UpperThreshold, c.LowerThreshold)
}

// EditDestination implements Control.
func (d *Director) EditDestination(k ServiceKey, c Destination) error {
	k = k.clean()
	d.ctl.Lock()
	defer d.ctl.Unlock()
	s := d.lookup(k)
	if s == nil {
		return fmt.Errorf("%w: %v", ErrNoService, k)
	}
	dst := s.find(c.AddrPort())
	if dst == nil {
		return fmt.Errorf("%w: %v in %v", ErrNoDestination, c.AddrPort(), k)
	}
	if err := c.check(); err != nil {
		return err
	}
	d.fwd.Lock()
	defer d.fwd.Unlock()
	dst.configure(c)
	s.scheduler.Updated(s.schedDests(), &dst.Dest)
	return nil
}

// DeleteDestination implements Control.
func (d *Director) DeleteDestination(k ServiceKey, at netip.AddrPort) error {
	k = k.clean()
	d.ctl.Lock()
	defer d.ctl.Unlock()
	s := d.lookup(k)
	if s == nil {
		return fmt.Errorf("%w: %v", ErrNoService, k)
	}
	dst := s.find(at)
	if dst == nil {
		return fmt.Errorf("%w: %v in %v", ErrNoDestination, at, k)
	}
	d.fwd.Lock()
	defer d.fwd.Unlock()
	d.table.removeDest(s, dst, tickOf(d.clock()))
	d.lateSweep = d.sysctl.ExpireNodestConn != 0
	return nil
}

// Zero implements Control.
func (d *Director) Zero(k ServiceKey) error {
	k = k.clean()
	d.fwd.Lock()
	defer d.fwd.Unlock()
	s := d.table.find(k)
	if s == nil {
		return fmt.Errorf("%w: %v", ErrNoService, k)
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
func (d *Director) Timeouts() (t Timeouts, err error) {
	d.fwd.Lock()
	defer d.fwd.Unlock()
	t.TCP, t.TCPFin, t.UDP = d.conns.Timeouts()
	return t, nil
}

// SetTimeouts implements Control.
func (d *Director) SetTimeouts(t Timeouts) error {
	for _, v := range []time.Duration{t.TCP, t.TCPFin, t.UDP} {
		if v < 0 || v > maxPersistence {
			return fmt.Errorf("%w: timeout %v: use 0 to %v", ErrInvalid, v, maxPersistence)
		}
	}
	d.fwd.Lock()
	defer d.fwd.Unlock()
	d.conns.SetTimeouts(t.TCP, t.TCPFin, t.UDP)
	return nil
}
