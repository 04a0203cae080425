package director

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/forward"
	"github.com/ulvs/ulvs/fwmark"
)

// Programs know no rules. What those come to for an address, a protocol and a port is worked
// out here, at each command, wherever it does not depend on more: then a packet's claim leads
// to the service of its mark.

// marked works out claims by marks. The control lock guards it.
type marked [2]struct {
	table *fwmark.Table // whose outcomes these are
	rules *fwmark.Partial
	known map[endpoint][]fwmark.Outcome
}

// openedProtocols are those of which programs open connections.
var openedProtocols = []uint8{uint8(ulvs.TCP), uint8(ulvs.UDP), uint8(ulvs.SCTP)}

type endpoint struct {
	addr  netip.Addr
	proto uint8
}

func (e endpoint) compare(o endpoint) int {
	return cmp.Or(e.addr.Compare(o.addr), cmp.Compare(e.proto, o.proto))
}

const (
	// maxPorts is how many ports of an endpoint may have claims of their own for marks, and
	// maxMarked how many there may be in all. Beyond, Go decides.
	maxPorts  = 2048
	maxMarked = 1 << 15
)

// claims returns what is to go before the claims of services by address, in c: rules are those
// of both families, and services those by marks.
func (m *marked) claims(rules [2]*fwmark.Table, services []*forward.Service,
	c *dataplane.Claims) (list []dataplane.Claim) {
	if len(services) == 0 {
		return nil
	}
	byMark := [2]map[uint32]fate{{}, {}}
	for _, s := range services {
		f := fate{verb: served, number: s.Number(), serial: s.Serial()}
		if c.WhileLocal { // it depends on the addresses that the host has
			f = fate{verb: open}
		}
		byMark[family(s.IPv6)][s.Mark] = f
	}
	at := map[endpoint]*ports{}
	for _, c := range c.Services {
		if c.Last == 0 && !c.Away && slices.Contains(openedProtocols, c.Proto) {
			e := endpoint{c.Addr, c.Proto}
			if at[e] == nil {
				at[e] = new(ports)
			}
			at[e].add(c)
		}
	}
	for i, fates := range byMark {
		if len(fates) == 0 {
			continue
		}
		m.follow(i, rules[i])
		for _, a := range m[i].rules.Addressed() {
			for _, proto := range openedProtocols {
				if e := (endpoint{a, proto}); at[e] == nil {
					at[e] = new(ports)
				}
			}
		}
	}
	for _, e := range slices.SortedFunc(maps.Keys(at), endpoint.compare) {
		p := at[e]
		i := family(e.addr.Is6())
		if len(byMark[i]) == 0 {
			continue
		}
		if len(m[i].known) > 2*len(at) { // mostly of addresses that are gone
			clear(m[i].known)
		}
		p.endpoint = e
		p.decide(m.outcomes(i, e), byMark[i], len(list) < maxMarked)
		list = append(list, p.claims...)
	}
	return list
}

// follow begins anew with other rules.
func (m *marked) follow(i int, rules *fwmark.Table) {
	if m[i].table != rules {
		m[i].table, m[i].known = rules, map[endpoint][]fwmark.Outcome{}
		m[i].rules = fwmark.NewPartial(rules.Rules(), i == 1)
	}
}

// undecided returns of which endpoints not all outcomes are certain, of the families that have
// services by marks, as far as claims has looked.
func (m *marked) undecided(services []*forward.Service) forward.Undecided {
	u := forward.Undecided{}
	for i := range m {
		if !slices.ContainsFunc(services, func(s *forward.Service) bool { return family(s.IPv6) == i }) {
			continue
		}
		for e, list := range m[i].known {
			if slices.ContainsFunc(list, func(o fwmark.Outcome) bool { return !o.Certain }) {
				u[forward.Endpoint{Addr: e.addr, Proto: e.proto}] = list
			}
		}
	}
	return u
}

func (m *marked) outcomes(i int, e endpoint) []fwmark.Outcome {
	list, ok := m[i].known[e]
	if !ok {
		list = m[i].rules.Outcomes(e.addr, e.proto)
		m[i].known[e] = list
	}
	return list
}

// verb is what becomes of packets to a port.
type verb uint8

const (
	byAddress verb = iota // no service has their mark: they are those of the services by address
	served                // by the service of their mark
	open                  // it depends
)

type fate struct {
	verb           verb
	number, serial uint32
}

// ports are the ports of an endpoint: which services by address there are, and what claims are
// to go before theirs.
type ports struct {
	endpoint
	own    map[uint16]fate // services by address, by port
	every  *fate           // that of every port
	claims []dataplane.Claim
}

func (p *ports) add(c dataplane.Claim) {
	f := fate{served, c.Service, c.Serial}
	if c.Port == 0 {
		p.every = &f
		return
	}
	if p.own == nil {
		p.own = map[uint16]fate{}
	}
	p.own[c.Port] = f
}

// claim has a port, 0 for every other one, lead to a service.
func (p *ports) claim(port uint16, f fate) {
	p.claims = append(p.claims, dataplane.Claim{
		Addr: p.addr, Proto: p.proto, Port: port, Service: f.number, Serial: f.serial,
	})
}

var undecided, elsewhere = fate{number: dataplane.Undecided}, fate{number: dataplane.Elsewhere}

// decide works out the claims. With enough said already, Go decides all that may have a mark.
func (p *ports) decide(outcomes []fwmark.Outcome, byMark map[uint32]fate, room bool) {
	type stretch struct {
		first, last int
		fate        fate
	}
	var list []stretch
	sizes := map[fate]int{}
	for _, o := range outcomes {
		f := fate{verb: open}
		if o.Certain {
			f = byMark[o.Mark] // of no service: byAddress
		}
		list = append(list, stretch{int(o.First), int(o.Last), f})
		sizes[f] += int(o.Last) - int(o.First) + 1
	}
	// What most ports have in common is said of every port, and the others are named.
	most := fate{verb: open}
	for _, s := range list {
		if sizes[s.fate] > sizes[most] {
			most = s.fate
		}
	}
	if 65536-sizes[most] > maxPorts || !room {
		most = fate{verb: open}
	}
	named := map[uint16]bool{}
	for _, s := range list {
		if s.fate == most || !room || s.last-s.first >= maxPorts {
			continue
		}
		for port := s.first; port <= s.last && len(named) < maxPorts; port++ {
			named[uint16(port)] = true
			p.name(uint16(port), s.fate, most)
		}
	}
	if most.verb == byAddress {
		return
	}
	rest := most
	if most.verb == open {
		rest = undecided
	}
	if most.verb == served || p.every != nil {
		p.claim(0, rest)
	}
	for port := range p.own {
		if !named[port] {
			p.claim(port, rest)
		}
	}
}

// name says what becomes of packets to one port, where most others have another fate.
func (p *ports) name(port uint16, f, most fate) {
	by, has := p.own[port]
	if !has && p.every != nil {
		by, has = *p.every, true
	}
	switch {
	case port == 0: // a claim of every port has that too, and programs leave it to Go
	case f.verb == served:
		p.claim(port, f)
	case f.verb == open && has:
		p.claim(port, undecided)
	case f.verb == byAddress && has:
		p.claim(port, by)
	case most.verb == served:
		p.claim(port, elsewhere)
	}
}

func family(ipv6 bool) int {
	if ipv6 {
		return 1
	}
	return 0
}
