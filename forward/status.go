package forward

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/estimator"
	"github.com/ulvs/ulvs/persist"
)

// Listing is what is shown of a path.
type Listing struct{ *tables }

func (s *Service) status(opened ulvs.Opened) ulvs.ServiceStatus {
	st := ulvs.ServiceStatus{Service: s.Service, Stats: stats(&s.Estimator), Rate: rate(&s.Estimator), Opened: opened,
		Destinations: make([]ulvs.DestinationStatus, len(s.dests))}
	for i, dst := range s.dests {
		active, inactive := dst.BothConns()
		st.Destinations[i] = ulvs.DestinationStatus{
			Destination: dst.conf, ActiveConns: active, InactConns: inactive,
			PersistConns: dst.PersistConns(),
			Stats:        stats(&dst.Estimator), Rate: rate(&dst.Estimator),
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

// Unopened is a service of which Go opens connections, though the plane opens some by itself.
type Unopened struct {
	ulvs.ServiceKey
	Why string // not the plane
	ulvs.Opened
}

// Unopened returns such services, some at most, and how many there are.
func (ls *Listing) Unopened(some int) (list []Unopened, n int) {
	ls.lock()
	defer ls.unlock()
	o := ls.opener
	if !o.able() {
		return nil, 0
	}
	for s := range ls.index.All() {
		if why := o.unopened(s); why != "" {
			if n++; n <= some {
				list = append(list, Unopened{s.ServiceKey, why, o.shareOf(s)})
			}
		}
	}
	return list, n
}

// Total serves ulvs.Control.
func (ls *Listing) Total() (ulvs.Total, error) {
	ls.lock()
	defer ls.unlock()
	return ulvs.Total{Stats: stats(&ls.index.total.Estimator), Rate: rate(&ls.index.total.Estimator)}, nil
}

// Services serves ulvs.Control.
func (ls *Listing) Services() ([]ulvs.ServiceStatus, error) {
	ls.lock()
	list := slices.Collect(ls.index.All())
	ls.unlock()
	out := make([]ulvs.ServiceStatus, 0, len(list))
	for _, s := range list {
		ls.lock()
		out = append(out, s.status(ls.opener.shareOf(s)))
		ls.unlock()
	}
	return out, nil
}

// Service serves ulvs.Control.
func (ls *Listing) Service(k ulvs.ServiceKey) (ulvs.ServiceStatus, error) {
	ls.lock()
	defer ls.unlock()
	s := ls.index.find(k)
	if s == nil {
		return ulvs.ServiceStatus{}, fmt.Errorf("%w: %v", ulvs.ErrNoService, k)
	}
	return s.status(ls.opener.shareOf(s)), nil
}

// Conns serves ulvs.Control. It holds the forwarding lock for some hundred
// entries at a time.
func (ls *Listing) Conns(yield func(ulvs.ConnStatus) bool) error {
	if list(ls.tables, ls.conns.Each, ls.connStatus, yield) {
		list(ls.tables, ls.templates.Each, ls.templateStatus, yield)
	}
	return nil
}

// list calls yield for the entries of a table until it says false, which is
// the result then.
func list[ID ~uint32](tb *tables, each func(ID, int, func(ID)) (ID, bool), status func(ID, uint32) ulvs.ConnStatus,
	yield func(ulvs.ConnStatus) bool) bool {
	const chunk = 512
	entries := make([]ulvs.ConnStatus, 0, chunk)
	for at, more := ID(0), true; more; {
		now := tickOf(tb.clock())
		tb.lock()
		at, more = each(at, chunk, func(id ID) { entries = append(entries, status(id, now)) })
		tb.unlock()
		for _, e := range entries {
			if !yield(e) {
				return false
			}
		}
		entries = entries[:0]
	}
	return true
}

func (ls *Listing) connStatus(id conn.ID, now uint32) ulvs.ConnStatus {
	ls.opener.acceptState(id)
	f, dst := ls.conns.Flow(id), ls.index.dests[ls.conns.Dest(id)].conf
	port := f.VirtualPort()
	if ls.conns.Owner(id)&ownDestPort != 0 {
		port = dst.Port
	}
	return ulvs.ConnStatus{
		Protocol: ulvs.Protocol(f.Proto()), Client: f.Client(), Virtual: f.Virtual(),
		Dest:  netip.AddrPortFrom(dst.Addr, port),
		State: ls.conns.StateName(id), Expires: ls.conns.Expires(id, now),
	}
}

func (ls *Listing) templateStatus(id persist.ID, now uint32) ulvs.ConnStatus {
	k, dst := ls.templates.Key(id), ls.index.dests[ls.templates.Dest(id)].conf
	c := ulvs.ConnStatus{
		Protocol: ulvs.Protocol(k.Protocol()), Client: netip.AddrPortFrom(k.Client(), 0), Virtual: k.Virtual(),
		Dest:  netip.AddrPortFrom(dst.Addr, 0),
		State: ls.templates.StateName(id), Expires: ls.templates.Expires(id, now), Template: true,
	}
	c.Engine, c.EngineData = ls.templates.Engine(id)
	const gone = 65535
	switch {
	case ls.templates.Invalid(id):
		c.Virtual = netip.AddrPortFrom(c.Virtual.Addr(), gone)
		c.Dest = netip.AddrPortFrom(dst.Addr, gone)
	case c.Virtual.Port() != 0:
		c.Dest = dst.AddrPort()
	}
	return c
}

// Counters serves ulvs.Control.
func (ls *Listing) Counters() (map[string]uint64, error) {
	c := maps.Clone(ls.plane.Counters())
	if c == nil {
		c = map[string]uint64{}
	}
	ls.lock()
	defer ls.unlock()
	for i, n := range ls.drops {
		c[dropNames[i]] = n
	}
	c["answers"], c["address_conflicts"] = ls.answered, ls.conflicting
	unsent := ls.limiter.Suppressed()
	c["icmp_limited_client"], c["icmp_limited_global"], c["rst_limited"] = unsent.Host, unsent.Global, unsent.RSTs
	c["shed"] = ls.shedCount
	c["connections"] = uint64(ls.conns.Len())
	c["connections_max"] = uint64(ls.conns.Max())
	c["templates"] = uint64(ls.templates.Len())
	c["templates_max"] = uint64(ls.templates.Max())
	c["half_open"] = uint64(ls.conns.HalfOpen())
	c["half_open_evicted"] = ls.halfOpenEvicted
	answered, unanswered := ls.templates.Evicted()
	c["templates_evicted"], c["templates_unanswered"] = answered+unanswered, unanswered
	c["parked_lost"] = ls.parkedLost
	c["icmp_errors"], c["icmp_errors_taken"] = ls.icmpErrors.all, ls.icmpErrors.taken
	c["fragments"], c["fragments_taken"] = ls.fragmented.all, ls.fragmented.taken
	if ls.crossings.counts != nil {
		c["maybe_overtaken"] = ls.crossings.unsure
	}
	if ls.opener.able() {
		c["opened_by_plane"] = ls.opener.opened
		c["states_by_plane"] = ls.opener.states
		c["opened_in_go"] = 0
		for i, n := range ls.opener.inGo {
			c[causeNames[i]] = n
			c["opened_in_go"] += n
		}
	}
	for _, dst := range ls.index.dests {
		if dst != nil {
			c["parked_lost"] += dst.hop.Lost()
		}
	}
	return c, nil
}

// Sysctl serves ulvs.Control.
func (ls *Listing) Sysctl(name string) (int, error) {
	ls.lock()
	defer ls.unlock()
	n, ok := ls.sysctl.Get(name)
	if !ok {
		return 0, fmt.Errorf("%w: net.ipv4.vs.%s; ulvs has %s", ulvs.ErrUnsupported, name,
			strings.Join(ls.sysctl.Names(), ", "))
	}
	return n, nil
}

// Sysctls serves ulvs.Control.
func (ls *Listing) Sysctls() (map[string]int, error) {
	ls.lock()
	defer ls.unlock()
	out := map[string]int{}
	for _, name := range ls.sysctl.Names() {
		out[name], _ = ls.sysctl.Get(name)
	}
	return out, nil
}
