package forward

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/estimator"
	"github.com/ulvs/ulvs/persist"
)

func (s *Service) status() ulvs.ServiceStatus {
	st := ulvs.ServiceStatus{Service: s.Service, Stats: stats(&s.Estimator), Rate: rate(&s.Estimator), Destinations: make([]ulvs.DestinationStatus, len(s.dests))}
	for i, dst := range s.dests {
		st.Destinations[i] = ulvs.DestinationStatus{
			Destination: dst.conf, ActiveConns: dst.ActiveConns(), InactConns: dst.InactConns(), PersistConns: dst.PersistConns(),
			Stats: stats(&dst.Estimator), Rate: rate(&dst.Estimator),
		}
	}
	return st
}

func stats(e *estimator.Estimator) ulvs.Stats {
	c := e.Shown()
	return ulvs.Stats{Conns: c.Conns, InPkts: c.Packets, InBytes: c.Bytes}
}

func rate(e *estimator.Estimator) ulvs.Rate {
	r := e.Rate()
	return ulvs.Rate{CPS: r.Conns, InPPS: r.Packets, InBPS: r.Bytes}
}

// Services is ulvs.Control's.
func (d *Path) Services() ([]ulvs.ServiceStatus, error) {
	d.lock()
	list := slices.Collect(d.table.All())
	d.unlock()
	out := make([]ulvs.ServiceStatus, 0, len(list))
	for _, s := range list {
		d.lock()
		out = append(out, s.status())
		d.unlock()
	}
	return out, nil
}

// Service is ulvs.Control's.
func (d *Path) Service(k ulvs.ServiceKey) (ulvs.ServiceStatus, error) {
	d.lock()
	defer d.unlock()
	s := d.table.find(k)
	if s == nil {
		return ulvs.ServiceStatus{}, fmt.Errorf("%w: %v", ulvs.ErrNoService, k)
	}
	return s.status(), nil
}

// Conns is ulvs.Control's. It holds the forwarding lock for some hundred
// entries at a time.
func (d *Path) Conns(yield func(ulvs.ConnStatus) bool) error {
	if list(d, d.conns.Each, d.connStatus, yield) {
		list(d, d.templates.Each, d.templateStatus, yield)
	}
	return nil
}

// list calls yield for the entries of a table until it says false, which is
// the result then.
func list[ID ~uint32](d *Path, each func(ID, int, func(ID)) (ID, bool), status func(ID, uint32) ulvs.ConnStatus, yield func(ulvs.ConnStatus) bool) bool {
	const chunk = 512
	entries := make([]ulvs.ConnStatus, 0, chunk)
	for at, more := ID(0), true; more; {
		now := tickOf(d.clock())
		d.lock()
		at, more = each(at, chunk, func(id ID) { entries = append(entries, status(id, now)) })
		d.unlock()
		for _, e := range entries {
			if !yield(e) {
				return false
			}
		}
		entries = entries[:0]
	}
	return true
}

func (d *Path) connStatus(id conn.ID, now uint32) ulvs.ConnStatus {
	f, dst := d.conns.Flow(id), d.table.dests[d.conns.Dest(id)].conf
	port := f.VirtualPort()
	if d.conns.Owner(id)&ownDestPort != 0 {
		port = dst.Port
	}
	return ulvs.ConnStatus{
		Protocol: ulvs.Protocol(f.Proto()), Client: f.Client(), Virtual: f.Virtual(),
		Dest:  netip.AddrPortFrom(dst.Addr, port),
		State: d.conns.StateName(id), Expires: d.conns.Expires(id, now),
	}
}

func (d *Path) templateStatus(id persist.ID, now uint32) ulvs.ConnStatus {
	k, dst := d.templates.Key(id), d.table.dests[d.templates.Dest(id)].conf
	c := ulvs.ConnStatus{
		Protocol: ulvs.Protocol(k.Protocol()), Client: netip.AddrPortFrom(k.Client(), 0), Virtual: k.Virtual(),
		Dest:  netip.AddrPortFrom(dst.Addr, 0),
		State: d.templates.StateName(id), Expires: d.templates.Expires(id, now), Template: true,
	}
	c.Engine, c.EngineData = d.templates.Engine(id)
	const gone = 65535
	switch {
	case d.templates.Invalid(id):
		c.Virtual = netip.AddrPortFrom(c.Virtual.Addr(), gone)
		c.Dest = netip.AddrPortFrom(dst.Addr, gone)
	case c.Virtual.Port() != 0:
		c.Dest = dst.AddrPort()
	}
	return c
}

// Counters is ulvs.Control's.
func (d *Path) Counters() (map[string]uint64, error) {
	c := maps.Clone(d.plane.Counters())
	if c == nil {
		c = map[string]uint64{}
	}
	d.lock()
	defer d.unlock()
	for i, n := range d.drops {
		c[dropNames[i]] = n
	}
	c["answers"] = d.answered
	c["shed"] = d.shedCount
	c["connections"] = uint64(d.conns.Len())
	c["connections_max"] = uint64(d.conns.Max())
	c["templates"] = uint64(d.templates.Len())
	c["templates_max"] = uint64(d.templates.Max())
	c["templates_evicted"] = d.templates.Evicted()
	c["parked_lost"] = d.parkedLost
	if d.opener.able() {
		c["opened_by_plane"] = d.opener.opened
	}
	for _, dst := range d.table.dests {
		if dst != nil {
			c["parked_lost"] += dst.hop.Lost()
		}
	}
	return c, nil
}

// Sysctl is ulvs.Control's.
func (d *Path) Sysctl(name string) (int, error) {
	d.lock()
	defer d.unlock()
	n, ok := d.sysctl.Get(name)
	if !ok {
		return 0, fmt.Errorf("%w: net.ipv4.vs.%s; ulvs has %v", ulvs.ErrUnsupported, name, d.sysctl.Names())
	}
	return n, nil
}

// Sysctls is ulvs.Control's.
func (d *Path) Sysctls() (map[string]int, error) {
	d.lock()
	defer d.unlock()
	out := map[string]int{}
	for _, name := range d.sysctl.Names() {
		out[name], _ = d.sysctl.Get(name)
	}
	return out, nil
}
