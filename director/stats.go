package director

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/estimator"
	"github.com/ulvs/ulvs/persist"
)

// cells gives out cells, by a real server's number and by a service's own.
type states struct {
	kept     []state
	services map[uint32]bool // numbers in use
}

func (c *states) server(id uint32) *state {
	if int(id) < min(stateCount, len(c.kept)) {
		return &c.kept[id]
	}
	return new(state)
}

// service is the cell of service number n; 0 takes a free number.
func (c *states) service(n uint32) (uint32, *state) {
	if c.services == nil {
		c.services = map[uint32]bool{}
	}
	fresh := n == 0
	for n == 0 || fresh && c.services[n] {
		n++
	}
	c.services[n] = true
	at := new(state)
	if int(n) < stateCount && len(c.kept) > 0 {
		at = &c.kept[stateCount+n]
	}
	if fresh {
		*at = state{}
	}
	return n, at
}

// clocks are where the ticks of the estimator's next round and of the next look at
// the trash are kept: in the cell of service 0, which there is not.
func (c *states) clocks() (round, trash *uint32) {
	return &c.kept[stateCount].last, &c.kept[stateCount].idle
}

func (c *states) freeService(n uint32) { delete(c.services, n) }

func (s *virtual) status() ulvs.ServiceStatus {
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

// Services implements Control.
func (d *Director) Services() ([]ulvs.ServiceStatus, error) {
	d.lock()
	list := slices.Collect(d.table.All())
	d.fwd.Unlock()
	out := make([]ulvs.ServiceStatus, 0, len(list))
	for _, s := range list {
		d.lock()
		out = append(out, s.status())
		d.fwd.Unlock()
	}
	return out, nil
}

// Service implements Control.
func (d *Director) Service(k ulvs.ServiceKey) (ulvs.ServiceStatus, error) {
	k = clean(k)
	d.lock()
	defer d.fwd.Unlock()
	s := d.table.find(k)
	if s == nil {
		return ulvs.ServiceStatus{}, fmt.Errorf("%w: %v", ulvs.ErrNoService, k)
	}
	return s.status(), nil
}

// Conns implements Control. It holds the forwarding lock for some hundred
// entries at a time.
func (d *Director) Conns(yield func(ulvs.ConnStatus) bool) error {
	if list(d, d.conns.Each, d.connStatus, yield) {
		list(d, d.templates.Each, d.templateStatus, yield)
	}
	return nil
}

// list calls yield for the entries of a table until it says false, which is
// the result then.
func list[ID ~uint32](d *Director, each func(ID, int, func(ID)) (ID, bool), status func(ID, uint32) ulvs.ConnStatus, yield func(ulvs.ConnStatus) bool) bool {
	const chunk = 512
	entries := make([]ulvs.ConnStatus, 0, chunk)
	for at, more := ID(0), true; more; {
		now := tickOf(d.clock())
		d.lock()
		at, more = each(at, chunk, func(id ID) { entries = append(entries, status(id, now)) })
		d.fwd.Unlock()
		for _, e := range entries {
			if !yield(e) {
				return false
			}
		}
		entries = entries[:0]
	}
	return true
}

func (d *Director) connStatus(id conn.ID, now uint32) ulvs.ConnStatus {
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

func (d *Director) templateStatus(id persist.ID, now uint32) ulvs.ConnStatus {
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

// Facts implements Control.
func (d *Director) Facts() ([]ulvs.Fact, error) {
	facts := []ulvs.Fact{{Name: "plane", Value: d.plane.Name()}}
	if p, ok := d.plane.(dataplane.Described); ok {
		facts = append(facts, p.Facts()...)
	}
	return facts, nil
}

// Counters implements Control.
func (d *Director) Counters() (map[string]uint64, error) {
	c := maps.Clone(d.plane.Counters())
	if c == nil {
		c = map[string]uint64{}
	}
	d.lock()
	defer d.fwd.Unlock()
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
	if d.opener != nil {
		c["opened_by_plane"] = d.opener.opened
	}
	for _, dst := range d.table.dests {
		if dst != nil {
			c["parked_lost"] += dst.hop.Lost()
		}
	}
	return c, nil
}

// Why packets are dropped.
const (
	dropDamaged = iota
	dropDestGone
	dropNoServer
	dropConnsFull
	dropTemplatesFull
	dropTTL
	dropTooBig
	dropNoRoute
	dropMethod
	dropLocal
	dropHost
	dropChecksum
	dropFragment
	dropDefense
	dropEngine
	dropCauses
)

// drops counts dropped packets by cause; dropNames are the names in Counters.
type drops [dropCauses]uint64

var dropNames = [dropCauses]string{
	dropDamaged:       "damaged",             // counted; left to the host
	dropDestGone:      "drop_server_removed", // their connection's server was removed
	dropNoServer:      "drop_no_server",      // no usable server: port unreachable
	dropConnsFull:     "drop_connections_full",
	dropTemplatesFull: "drop_templates_full",
	dropTTL:           "drop_ttl",          // time exceeded
	dropTooBig:        "drop_too_big",      // above the MTU: fragmentation needed
	dropNoRoute:       "drop_no_route",     // no route to the server: host unreachable
	dropMethod:        "drop_method",       // masquerading or tunnelling
	dropLocal:         "drop_local_server", // the server is the director, which the plane keeps them from
	dropHost:          "answered_for_host", // nothing of ours: what the host would have answered
	dropChecksum:      "drop_checksum",     // ICMP errors
	dropFragment:      "drop_fragment",
	dropDefense:       "drop_defense", // drop_packet
	dropEngine:        "drop_engine",  // nothing in it for the persistence engine
}
