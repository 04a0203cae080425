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
// out here, at each command: a packet's claim leads to the service of its mark or, where that
// depends on more, has a list of steps that do.

// marked works out claims by marks. The control lock guards it.
type marked [2]struct {
	table *fwmark.Table // whose outcomes these are
	links []fwmark.Link
	rules *fwmark.Partial
	known map[endpoint][]fwmark.Outcome
	lists map[*fwmark.Step]*dataplane.MarkList // by their first steps
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

// claims works out what is to go before the claims of services by address, in c: rules are those
// of both families, services those by marks, and links the interfaces.
func (m *marked) claims(rules [2]*fwmark.Table, services []*forward.Service, links []fwmark.Link,
	c *dataplane.Claims) {
	if len(services) == 0 && !slices.ContainsFunc(c.Services, ofFTP) {
		return
	}
	byMark := [2]map[uint32]fate{{}, {}}
	for _, s := range services {
		f := fate{verb: served, number: s.Number(), serial: s.Serial()}
		if c.WhileLocal { // it depends on the addresses that the host has
			f = fate{verb: open}
		} else {
			one := dataplane.MarkClaim{Mark: s.Mark, IPv6: s.IPv6, Service: f.number, Serial: f.serial}
			c.ByMark = append(c.ByMark, one)
		}
		byMark[family(s.IPv6)][s.Mark] = f
	}
	at := map[endpoint]*ports{}
	for _, c := range c.Services {
		if !c.Away && slices.Contains(openedProtocols, c.Proto) {
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
		m.follow(i, rules[i], links)
		for _, a := range m[i].rules.Addressed() {
			for _, proto := range openedProtocols {
				if e := (endpoint{a, proto}); at[e] == nil {
					at[e] = new(ports)
				}
			}
		}
	}
	list := c.Marked
	for _, e := range slices.SortedFunc(maps.Keys(at), endpoint.compare) {
		p := at[e]
		p.endpoint = e
		i := family(e.addr.Is6())
		if len(byMark[i]) == 0 {
			p.decideFTP()
			list = append(list, p.claims...)
			continue
		}
		if len(m[i].known) > 2*len(at) { // mostly of addresses that are gone
			clear(m[i].known)
		}
		stretches := m.stretches(i, e, byMark[i], !c.WhileLocal)
		p.decide(stretches, len(list) < maxMarked)
		list, c.Open = append(list, p.claims...), append(c.Open, p.open...)
	}
	c.Marked = list
}

// follow begins anew with other rules, or interfaces.
func (m *marked) follow(i int, rules *fwmark.Table, links []fwmark.Link) {
	if m[i].table != rules || !slices.Equal(m[i].links, links) {
		m[i].table, m[i].links, m[i].known = rules, links, map[endpoint][]fwmark.Outcome{}
		m[i].rules = fwmark.NewPartial(rules.Rules(), i == 1, links)
		m[i].lists = map[*fwmark.Step]*dataplane.MarkList{}
	}
}

// stretches returns what becomes of packets to an endpoint, by port. Lists of steps are followed
// where services by mark are served whatever the packet's destination.
func (m *marked) stretches(i int, e endpoint, byMark map[uint32]fate, listed bool) (list []stretch) {
	for _, o := range m.outcomes(i, e) {
		f := fate{verb: open}
		switch {
		case o.Certain:
			f = byMark[o.Mark] // of no service: byAddress
		case listed && len(o.Steps) > 0:
			f = fate{verb: follows, list: m.list(i, o.Steps)}
		}
		list = append(list, stretch{int(o.First), int(o.Last), f})
	}
	return list
}

// list returns steps in the planes' terms; of equal ones there is one.
func (m *marked) list(i int, steps []fwmark.Step) *dataplane.MarkList {
	list := m[i].lists[&steps[0]]
	if list == nil {
		list = new(dataplane.MarkList)
		for _, s := range steps {
			list.Steps = append(list.Steps, dataplane.MarkStep{Field: uint8(s.Field), Yes: s.Yes, No: s.No,
				Mask: s.Mask, Low: s.Low, Span: s.Span, And: s.And, Xor: s.Xor})
		}
		m[i].lists[&steps[0]] = list
	}
	return list
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

// They are the same here and there.
var (
	_ = [1]struct{}{}[fwmark.FieldSource-dataplane.SourceField]
	_ = [1]struct{}{}[fwmark.FieldPort-dataplane.PortField]
	_ = [1]struct{}{}[fwmark.FieldInterface-dataplane.InterfaceField]
	_ = [1]struct{}{}[fwmark.FieldMark-dataplane.MarkField]
	_ = [1]struct{}{}[fwmark.MaxSteps-dataplane.MostSteps]
	_ = [1]struct{}{}[fwmark.Undecided-dataplane.UndecidedStep]
	_ = [1]struct{}{}[fwmark.Done-dataplane.DoneStep]
)

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
	follows               // by the service of the mark to which a list leads, or like byAddress
	open                  // it depends
)

type fate struct {
	verb           verb
	number, serial uint32
	list           *dataplane.MarkList
}

// stretch is what becomes of packets to some ports, both ends included.
type stretch struct {
	first, last int
	fate        fate
}

// ports are the ports of an endpoint: which services by address there are, and what claims are
// to go before theirs.
type ports struct {
	endpoint
	own    map[uint16]fate // services by address, by port
	every  *fate           // that of every port
	data   bool            // FTP's data connections are claimed
	claims []dataplane.Claim
	open   []dataplane.Claim // of what depends, and no service by address is for
}

func (p *ports) add(c dataplane.Claim) {
	f := fate{verb: served, number: c.Service, serial: c.Serial}
	if c.Last != 0 {
		p.data = true
		return
	}
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
		Addr: p.addr, Proto: p.proto, Port: port, Service: f.number, Serial: f.serial, List: f.list,
	})
}

// leave has Go decide about a port, 0 for every other one, of which no claim says that it does.
func (p *ports) leave(port uint16) {
	p.open = append(p.open, dataplane.Claim{Addr: p.addr, Proto: p.proto, Port: port, Service: dataplane.Undecided})
}

var undecided, elsewhere = fate{number: dataplane.Undecided}, fate{number: dataplane.Elsewhere}

// decide works out the claims. With enough said already, Go decides all that may have a mark.
func (p *ports) decide(list []stretch, room bool) {
	sizes := map[fate]int{}
	for _, s := range list {
		sizes[s.fate] += s.last - s.first + 1
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
		p.decideFTP()
		return
	}
	if most.verb != open || p.every != nil {
		p.claim(0, p.outcome(most, 0))
	} else {
		p.leave(0)
	}
	for port := range p.own {
		if !named[port] {
			p.claim(port, p.outcome(most, port))
		}
	}
}

// outcome returns what is claimed of a port, or with 0 of every one, that has a fate.
func (p *ports) outcome(f fate, port uint16) fate {
	switch f.verb {
	case open:
		return undecided
	case follows:
		by, has := p.byAddress(port)
		if !has {
			by = elsewhere
		}
		f.number, f.serial = by.number, by.serial
		if port == 0 && p.ftp() {
			f = f.unlessFTP()
		}
	}
	return f
}

// byAddress returns the service by address that a port has.
func (p *ports) byAddress(port uint16) (f fate, has bool) {
	f, has = p.own[port]
	switch {
	case has:
	case p.ftp() && (port == forward.FTPDataPort || port >= forward.Unprivileged):
		return undecided, true
	case p.every != nil:
		return *p.every, true
	}
	return f, has
}

// name says what becomes of packets to one port, where most others have another fate.
func (p *ports) name(port uint16, f, most fate) {
	by, has := p.byAddress(port)
	switch {
	case port == 0: // a claim of every port has that too, and programs leave it to Go
	case f.verb == served, f.verb == follows, f.verb == open && has:
		p.claim(port, p.outcome(f, port))
	case f.verb == open:
		p.leave(port)
	case f.verb == byAddress && has:
		p.claim(port, by)
	case most.verb == served, most.verb == follows:
		p.claim(port, elsewhere)
	}
}

func family(ipv6 bool) int {
	if ipv6 {
		return 1
	}
	return 0
}
