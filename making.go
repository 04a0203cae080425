package ulvs

import (
	"encoding/binary"
	"errors"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/ahead"
	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/persist"
	"github.com/ulvs/ulvs/sched"
)

// making is the director's side of a plane that opens connections by itself: what is
// decided ahead for it, and what it says it has made. The forwarding lock guards it.
//
// Programs open a connection as schedule would, and where a packet is one of those that
// schedule looks at more closely, they leave it to Go: with mark rules, with a defence
// under way, with thresholds, FTP, one-packet scheduling or a persistence engine, from
// the host's own addresses; and where a scheduler is to be asked that does not take its
// real servers in turn.
type making struct {
	fast             dataplane.Maker
	cpus             int
	services         []ahead.Service
	begun            bool
	conns, templates *shtab.Loan
	// locals are the addresses that the plane was told of, and apart whether that
	// sufficed, by family; open is what it was told by SetMaking.
	locals  *dataplane.Locals
	apart   [2]bool
	open    dataplane.Making
	thirsty []*virtual
	opened  uint64 // connections that the plane has opened
}

// prepare takes the memory of what is decided ahead, in which an earlier process may
// have left something: how far its schedulers had come goes to their cells.
func (d *Director) prepare(block []byte) error {
	fast, ok := d.table.fast.(dataplane.Maker)
	if !ok {
		return nil
	}
	services, err := ahead.Over(block)
	if err != nil {
		return err
	}
	for n := range services {
		if by, last := services[n].Close(); by&ahead.ByTurns != 0 {
			c := &d.table.cells.kept[cellCount+n]
			c.last, c.current = last.Dest, last.Current
		}
	}
	d.making = &making{fast: fast, services: services}
	return nil
}

// startMaking lets the plane open connections.
func (d *Director) startMaking() error {
	m := d.making
	if m == nil {
		return nil
	}
	conns, templates, cpus := m.fast.Rings()
	m.cpus = cpus
	var failed, err error
	m.conns, err = d.conns.Lend(conns, cpus)
	if m.templates, failed = d.templates.Lend(templates, cpus); err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	d.fwd.Lock()
	defer d.fwd.Unlock()
	m.conns.Begin()
	m.templates.Begin()
	m.begun = true
	for s := range d.table.Each {
		d.offer(s)
	}
	d.review()
	return nil
}

// gather takes over what the plane has made. The caller holds fwd.
func (d *Director) gather() {
	m := d.making
	if m == nil || !m.begun {
		return
	}
	// A connection was told of after its template.
	templates := m.templates.Gather(d.takeTemplate)
	if m.conns.Gather(d.takeConn) || templates {
		d.review()
	}
}

// quench decides ahead for the services that may need it. Of a batch of packets it
// comes last: those are older than what a program will see.
func (d *Director) quench() {
	m := d.making
	if m == nil {
		return
	}
	for _, s := range m.thirsty {
		s.thirsty = false
		d.fill(s)
	}
	m.thirsty = m.thirsty[:0]
}

// lock takes the forwarding lock, and sees what there is to see.
func (d *Director) lock() {
	d.fwd.Lock()
	d.gather()
	d.quench()
}

// takeConn takes over a connection that the plane has made, unless that has been done,
// and takeTemplate a template.
func (d *Director) takeConn(slot uint32) {
	if id := conn.ID(slot); d.conns.Made(id) {
		d.own(id)
	}
}

func (d *Director) takeTemplate(slot uint32) {
	if id := persist.ID(slot); d.templates.Made(id) {
		d.ownTemplate(id)
	}
}

// own makes a connection that the plane has made one of the director's: it does what
// serve, connect and state would have done for its first packet.
func (d *Director) own(id conn.ID) {
	if d.making != nil {
		d.making.opened++
	}
	dst := d.table.dests[d.conns.Dest(id)]
	s := dst.svc
	flow := d.conns.Flow(id)
	own := true
	template := uint32(0)
	if s.Persistence.Timeout != 0 {
		var e early
		own = flow.VirtualPort() == s.Port
		d.templateKey(s, flow, &e)
		if ct, ok := d.findTemplate(&e.key, e.keyHash); ok && d.templates.Dest(ct) == dst.ID {
			template = uint32(ct) + 1
			d.templates.Controlled(ct, d.conns.Stamp(id))
		}
	}
	c := d.conns.Take(id, template, ownerBits(own && dst.conf.Port != 0, DirectRoute))
	dst.Bind(false, c.Activated)
	dst.Conns++
	s.Conns++
	d.wants(s)
}

// ownTemplate makes a template that the plane has made one of the director's: it does
// what persistent would have done.
func (d *Director) ownTemplate(id persist.ID) {
	dst := d.table.dests[d.templates.Dest(id)]
	d.templates.Take(id, dst.svc.Persistence.Timeout)
	dst.Bind(true, false)
	d.wants(dst.svc)
}

// ownAll takes over what an earlier process had not. What has no real server ends.
func (d *Director) ownAll(known func(uint32) *dest) {
	d.templates.EachUntaken(func(id persist.ID) {
		if known(d.templates.Dest(id)) == nil {
			d.templates.Discard(id)
			return
		}
		d.ownTemplate(id)
	})
	d.conns.EachUntaken(func(id conn.ID) {
		if known(d.conns.Dest(id)) == nil {
			d.conns.Remove(id)
			return
		}
		d.own(id)
	})
}

// findTemplate is the template of a key.
func (d *Director) findTemplate(k *persist.Key, hash uint64) (ct persist.ID, found bool) {
	ct, found = d.templates.Lookup(k, hash)
	if found && d.making != nil && d.templates.Untaken(ct) {
		d.takeTemplate(uint32(ct)) // just made, on another CPU
	}
	return ct, found
}

// wants has quench look at a service's choices: before the next packets, commands or
// listing, at the end of a batch.
func (d *Director) wants(s *virtual) {
	if d.making != nil && s.turning && !s.thirsty {
		s.thirsty = true
		d.making.thirsty = append(d.making.thirsty, s)
	}
}

// fill decides ahead, if it is time.
func (d *Director) fill(s *virtual) {
	if !s.turning {
		return
	}
	room := s.ahead.Room()
	if room < ahead.Choices/8 {
		return
	}
	n := 0
	for ; n < room; n++ {
		last, current := s.turns.Turn()
		chosen := s.scheduler.Schedule(&d.request)
		if chosen == nil {
			s.turns.SetTurn(last, current) // nobody has asked yet
			break
		}
		_, current = s.turns.Turn()
		s.ahead.Add(n, ahead.Choice{Dest: chosen.ID, Current: current})
	}
	s.ahead.Publish(n)
}

// offer lets the plane open connections to a service, if it can do that as the
// director would.
func (d *Director) offer(s *virtual) {
	m := d.making
	if m == nil || !m.begun || s.ahead != nil || int(s.number) >= len(m.services) {
		return
	}
	by := d.openable(s)
	if by == 0 {
		return
	}
	var key ahead.Key
	copy(key[:], s.Addr.AsSlice())
	binary.BigEndian.PutUint16(key[16:], s.Port)
	key[18], key[19] = byte(s.Protocol), 4
	if s.Is6() {
		key[19] = 6
	}
	keep, _ := s.form.Keep(s.Port != 0)
	s.ahead, s.turning = &m.services[s.number], by&ahead.ByTurns != 0
	last := ahead.Choice{}
	if s.turning {
		at, current := s.turns.Turn()
		if last.Current = current; at != nil {
			last.Dest = at.ID
		}
	}
	s.ahead.Open(by, key, keep, last)
	d.fill(s)
}

// openable is by what the plane may open a service's connections: 0, or as
// ahead.Open has it.
func (d *Director) openable(s *virtual) (by uint32) {
	if s.Mark != 0 || s.Protocol != TCP && s.Protocol != UDP || s.OnePacket || s.Persistence.Engine != "" || s.Port == ftpPort || len(s.dests) == 0 {
		return 0
	}
	for _, dst := range s.dests {
		if dst.conf.Forward != DirectRoute || dst.conf.UpperThreshold != 0 || dst.conf.LowerThreshold != 0 || dst.Overloaded() {
			return 0
		}
	}
	switch {
	case s.Port == 0 && d.table.find(ServiceKey{Protocol: TCP, Addr: s.Addr, Port: ftpPort}) != nil:
		return 0 // some ports are that one's
	case s.Persistence.Timeout != 0:
		by = ahead.ByTemplate
	case s.Port == 0:
		return 0
	}
	if s.turns != nil {
		by |= ahead.ByTurns
	}
	return by
}

// withdraw takes back what was offered: what is decided ahead and was not used was
// never decided. It comes before each change of a service, of its real servers or of
// its scheduler.
func (d *Director) withdraw(s *virtual) {
	if s.ahead == nil {
		return
	}
	d.gather()
	_, last := s.ahead.Close()
	if s.turning {
		s.last, s.current = last.Dest, last.Current
		s.goOn()
	}
	s.ahead, s.turning = nil, false
}

// around withdraws a service, which may be nil, for a change.
func (d *Director) around(s *virtual, change func()) {
	if d.making == nil || s == nil {
		change()
		return
	}
	d.withdraw(s)
	change()
	if d.table.find(s.ServiceKey) == s {
		d.offer(s)
	}
}

// beside is the service of every port that a service takes ports from, or nil.
func (d *Director) beside(k ServiceKey) *virtual {
	if k.Mark != 0 || k.Port != ftpPort || k.Protocol != TCP {
		return nil
	}
	k.Port = 0
	return d.table.find(k)
}

// review tells the plane whether connections may be opened now.
func (d *Director) review() {
	m := d.making
	if m == nil || !m.begun {
		return
	}
	if l := d.resolver.Locals(); l != m.locals {
		m.locals = l
		m.apart[0], m.apart[1] = m.fast.SetLocals(l)
	}
	// Those that the plane may have made and not told of yet have to find room. (Where
	// there are so many CPUs that they might be more than a quarter of the table, that
	// has a few more entries for a moment.)
	able := room(d.conns, m.cpus) && d.sysctl.ExpireQuiescentTemplate == 0 && d.defense.rate == 0 && !d.conns.Secure()
	open := dataplane.Making{
		IPv4:      able && m.apart[0] && !d.table.marked(0),
		IPv6:      able && m.apart[1] && !d.table.marked(1),
		Templates: room(d.templates, m.cpus),
	}
	if open != m.open {
		m.open = open
		m.fast.SetMaking(open)
	}
}

// room reports whether a table has room for all that programs may make.
func room(t interface {
	Len() int
	Max() int
}, cpus int) bool {
	return t.Len()+min(cpus*shtab.RingCells, t.Max()/4) <= t.Max()
}

// marked reports whether a packet of a family may belong to a service by its mark.
func (t *table) marked(family int) bool {
	return t.sets[family] != nil && t.markServices[family] > 0
}

// goOn has the scheduler go on from where its service's cell says.
func (s *virtual) goOn() {
	if s.turns == nil {
		return
	}
	var last *sched.Dest
	for _, dst := range s.dests {
		if dst.ID == s.last {
			last = &dst.Dest
		}
	}
	s.turns.SetTurn(last, s.current)
}
