package director

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/ulvs/ulvs/forward"

	"github.com/ulvs/ulvs"
)

// Version returns IPVS's version line without its size, "1.2.1", and the size of the
// connection table that the kernel is shipped with, which ipvsadm prints; ulvs has no
// buckets to count. It cannot fail.
func (d *Director) Version() (string, int, error) { return "1.2.1", 4096, nil }

const maxPersistence = 31 * 24 * time.Hour

// clean gives a key the form in which it is kept.
func clean(k ulvs.ServiceKey) ulvs.ServiceKey {
	if k.Mark != 0 {
		k.Protocol = 0
	} else {
		k.IPv6 = false
	}
	return k
}

// AddService adds a virtual service (ip_vs_ctl.c, ip_vs_add_service). It is claimed from
// the host before it is served. The error is ulvs.ErrServiceExists, ErrNoScheduler or
// ErrInvalid, or says that the plane cannot keep the host away.
func (d *Director) AddService(c ulvs.Service) error { return adding{d}.add(c, 0) }

// existing returns the service of a key, or ErrNoService. The caller holds ctl.
func existing(in *forward.Path, k ulvs.ServiceKey) (*forward.Service, error) {
	s := in.Commands.Find(clean(k))
	if s == nil {
		return nil, fmt.Errorf("%w: %v", ulvs.ErrNoService, k)
	}
	return s, nil
}

// EditService gives a service another configuration, with its connections, templates and
// counters as they are (ip_vs_edit_service). The error is ulvs.ErrNoService,
// ErrNoScheduler or ErrInvalid.
func (d *Director) EditService(c ulvs.Service) error {
	c.ServiceKey = clean(c.ServiceKey)
	d.ctl.Lock()
	defer d.ctl.Unlock()
	s, err := existing(d.path, c.ServiceKey)
	if err != nil {
		return err
	}
	if err := checkService(&c); err != nil {
		return err
	}
	was := s.FTP()
	if err := d.path.Commands.EditService(s, c); err != nil {
		return err
	}
	record := d.effects.record(command{Verb: "edit service", Service: recordService(c)})
	if s.FTP() != was { // its claims go with its persistence
		d.ctl.Unlock()
		err = d.effects.claim()
		d.ctl.Lock()
	}
	return errors.Join(err, record)
}

// DeleteService takes a service out, and gives its packets back to the host
// (ip_vs_del_service). Its real servers go to the trash, where they wait for their last
// connection. The error is ulvs.ErrNoService.
func (d *Director) DeleteService(k ulvs.ServiceKey) error {
	err := removing{d}.service(k)
	if !errors.Is(err, ulvs.ErrNoService) {
		removing{d}.giveBack()
	}
	return err
}

// Clear takes all services out (ip_vs_flush).
func (d *Director) Clear() error {
	err := removing{d}.all()
	removing{d}.giveBack()
	return err
}

// removing is how services are removed: first from the tables, then their packets are given
// back to the host.
type removing struct{ *Director }

func (r removing) service(k ulvs.ServiceKey) error {
	r.ctl.Lock()
	defer r.ctl.Unlock()
	s, err := existing(r.path, k)
	if err != nil {
		return err
	}
	r.remove(s)
	return r.effects.record(command{Verb: "delete service", Key: recordKey(s.ServiceKey)})
}

func (r removing) all() error {
	r.ctl.Lock()
	defer r.ctl.Unlock()
	r.remove(r.path.Commands.All()...)
	return r.effects.record(command{Verb: "clear"})
}

func (r removing) remove(list ...*forward.Service) {
	r.path.Commands.RemoveServices(list)
	if slices.ContainsFunc(list, func(s *forward.Service) bool { return len(s.Dests()) > 0 }) {
		r.effects.sweep()
	}
}

func (r removing) giveBack() {
	if err := r.effects.claim(); err != nil {
		r.log.Error("services are gone, but the host is still kept from their packets", "err", err)
	}
}

// warnMethod says what becomes of a real server's packets; the caller holds ctl.
func (d *Director) warnMethod(c ulvs.Destination) {
	if c.Forward != ulvs.DirectRoute {
		d.log.Warn("packets for this real server are dropped: its forwarding method is not implemented", "server", c.AddrPort(), "method", c.Forward)
	}
	if d.Caution(c) != "" && !d.cautioned {
		d.cautioned = true
		d.log.Warn(fmt.Sprintf(unreached, c.AddrPort()))
	}
}

// AddDestination adds a real server to a service, at the head of its list
// (ip_vs_add_dest); one that is in the trash comes back with its connections and
// counters. The error is ulvs.ErrNoService, ErrDestinationExists, ErrInvalid or ErrRange.
func (d *Director) AddDestination(k ulvs.ServiceKey, c ulvs.Destination) error {
	return d.addDestination(k, c, 0)
}

// addDestination adds a real server that has a number; 0 takes a free one.
func (d *Director) addDestination(k ulvs.ServiceKey, c ulvs.Destination, number uint32) error {
	d.ctl.Lock()
	defer d.ctl.Unlock()
	s, err := existing(d.path, k)
	if err != nil {
		return err
	}
	if err := checkNumbers(&c, s.ServiceKey); err != nil {
		return err
	}
	if _, err := s.Destination(c.AddrPort()); err == nil {
		return fmt.Errorf("%w: %v in %v", ulvs.ErrDestinationExists, c.AddrPort(), k)
	}
	if number == 0 { // what an earlier process had accepted stays
		if err := checkAddr(c.Addr, d.resolver); err != nil {
			return err
		}
	}
	d.warnMethod(c)
	dst, err := d.path.Commands.AddDest(s, c, number)
	if err != nil {
		return err
	}
	return d.effects.record(command{Verb: "server", Key: recordKey(s.ServiceKey), Destination: recordDestination(c),
		Number: dst.ID})
}

// EditDestination gives the real server with c's address and port another configuration
// (ip_vs_edit_dest). The error is ulvs.ErrNoService, ErrNoDestination, ErrInvalid or
// ErrRange.
func (d *Director) EditDestination(k ulvs.ServiceKey, c ulvs.Destination) error {
	d.ctl.Lock()
	defer d.ctl.Unlock()
	s, err := existing(d.path, k)
	if err != nil {
		return err
	}
	if err := checkNumbers(&c, s.ServiceKey); err != nil {
		return err
	}
	dst, err := s.Destination(c.AddrPort())
	if err != nil {
		return err
	}
	if dst.Conf().Forward != c.Forward {
		d.warnMethod(c)
	}
	d.path.Commands.EditDest(s, dst, c)
	return d.effects.record(command{Verb: "edit server", Key: recordKey(s.ServiceKey), Destination: recordDestination(c)})
}

// DeleteDestination takes a real server out (ip_vs_del_dest). Packets of its connections
// are dropped from now on, or with expire_nodest_conn scheduled anew. The error is
// ulvs.ErrNoService or ErrNoDestination.
func (d *Director) DeleteDestination(k ulvs.ServiceKey, at netip.AddrPort) error {
	d.ctl.Lock()
	defer d.ctl.Unlock()
	s, err := existing(d.path, k)
	if err != nil {
		return err
	}
	dst, err := s.Destination(at)
	if err != nil {
		return err
	}
	d.path.Commands.RemoveDest(s, dst)
	d.effects.sweep()
	return d.effects.record(command{Verb: "delete server", Key: recordKey(s.ServiceKey), Addr: at})
}

// Zero sets a service's counters to zero, and those of its real servers
// (ip_vs_zero_service). The error is ulvs.ErrNoService.
func (d *Director) Zero(k ulvs.ServiceKey) error {
	if !d.path.Commands.Zero(clean(k)) {
		return fmt.Errorf("%w: %v", ulvs.ErrNoService, k)
	}
	return nil
}

// ZeroAll zeroes the counters of all services (ip_vs_zero_all).
func (d *Director) ZeroAll() error {
	d.path.Commands.ZeroAll()
	return nil
}

// Timeouts returns TCP's established, TCP's FIN_WAIT and UDP's (__ip_vs_get_timeouts). It
// cannot fail.
func (d *Director) Timeouts() (ulvs.Timeouts, error) { return d.path.Commands.Timeouts(), nil }

// SetTimeouts sets them, in whole seconds up to 31 days; 0 keeps (ip_vs_set_timeout). A
// connection has its new timeout from its next packet on. The error is ulvs.ErrInvalid.
func (d *Director) SetTimeouts(t ulvs.Timeouts) error {
	for _, v := range []time.Duration{t.TCP, t.TCPFin, t.UDP} {
		if v < 0 || v > maxPersistence || v%time.Second != 0 {
			return fmt.Errorf("%w: timeout %v: use whole seconds, 0 to %d", ulvs.ErrInvalid, v, maxPersistence/time.Second)
		}
	}
	d.ctl.Lock()
	defer d.ctl.Unlock()
	generation := d.path.Commands.SetTimeouts(t)
	return d.effects.record(command{Verb: "timeouts", Timeouts: recordTimeouts(t), Generation: generation})
}

// Sysctl reads net.ipv4.vs.NAME, in the kernel's units. The error is
// ulvs.ErrUnsupported, with the names that there are.
func (d *Director) Sysctl(name string) (int, error) { return d.path.Listing.Sysctl(name) }

// Sysctls returns all of them, by name. It cannot fail.
func (d *Director) Sysctls() (map[string]int, error) { return d.path.Listing.Sysctls() }

// SetSysctl sets net.ipv4.vs.NAME, within the kernel's bounds (ip_vs_ctl.c, vs_vars). One
// that changes nothing in direct routing is kept, with a warning. The error is
// ulvs.ErrUnsupported or ErrInvalid.
func (d *Director) SetSysctl(name string, value int) error {
	d.ctl.Lock()
	defer d.ctl.Unlock()
	effect, err := d.path.Commands.SetSysctl(name, value)
	if err != nil {
		return err
	}
	if !effect {
		d.effects.warn("this sysctl changes nothing in direct routing", "name", "net.ipv4.vs."+name, "value", value)
	}
	return d.effects.record(command{Verb: "sysctl", Name: name, Value: value})
}
