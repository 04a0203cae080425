package forward

import (
	"encoding/binary"
	"errors"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/preselect"
	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/persist"
	"github.com/ulvs/ulvs/sched"
)

// opener is the director's side of a plane that opens connections by itself: what is
// decided ahead for it, and what it says it has made. The forwarding lock guards it.
//
// Programs open a connection as schedule would, and where a packet is one of those that
// schedule looks at more closely, they leave it to Go: with mark rules, with a defence
// under way, with thresholds, FTP, one-packet scheduling or a persistence engine, from
// the host's own addresses; and where a scheduler is to be asked that does not take its
// real servers in turn.
type opener struct {
	fast             accel.Opener
	cpus             int
	services         []preselect.Service
	begun            bool
	conns, templates *shtab.SlotPool
	// locals are the addresses that the plane was told of, and apart whether that
	// sufficed, by family; open is what it was told by SetOpening.
	locals *dataplane.Locals
	apart  [2]bool
	open   accel.Opening
	low    []*Service
	opened uint64 // connections that the plane has opened
}

// adoptPicks takes the memory of what is decided ahead, in which an earlier process may
// have left something: how far its schedulers had come goes to their states.
func (d *Path) adoptPicks(block []byte) error {
	fast, ok := d.table.fast.(accel.Opener)
	if !ok {
		return nil
	}
	services, err := preselect.Over(block)
	if err != nil {
		return err
	}
	for n := range services {
		if by, last := services[n].Close(); by&preselect.ByPicks != 0 {
			c := &d.table.states.kept[stateCount+n]
			c.last, c.current = last.Dest, last.Current
		}
	}
	d.opener = &opener{fast: fast, services: services}
	return nil
}

// startOpening lets the plane open connections.
func (d *Path) startOpening() error {
	m := d.opener
	if m == nil {
		return nil
	}
	conns, templates, cpus := m.fast.Rings()
	m.cpus = cpus
	var failed, err error
	m.conns, err = d.conns.SlotPool(conns, cpus)
	if m.templates, failed = d.templates.SlotPool(templates, cpus); err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	d.lock()
	defer d.unlock()
	m.conns.Open()
	m.templates.Open()
	m.begun = true
	for s := range d.table.Each {
		d.enableOpening(s)
	}
	d.updateOpening()
	return nil
}

// drainOpened takes over what the plane has opened. The caller holds the lock.
func (d *Path) drainOpened() {
	m := d.opener
	if m == nil || !m.begun {
		return
	}
	// A connection was told of after its template.
	templates := m.templates.Drain(d.acceptTemplate)
	if m.conns.Drain(d.acceptConn) || templates {
		d.updateOpening()
	}
}

// refillLow decides ahead for the services that may need it.
func (d *Path) refillLow() {
	m := d.opener
	if m == nil {
		return
	}
	for _, s := range m.low {
		s.low = false
		d.refill(s)
	}
	m.low = m.low[:0]
}

// acceptConn takes over a connection that the plane has made, unless that has been done,
// and acceptTemplate a template.
func (d *Path) acceptConn(slot uint32) {
	if id := conn.ID(slot); d.conns.Opened(id) {
		d.acceptedConn(id)
	}
}

func (d *Path) acceptTemplate(slot uint32) {
	if id := persist.ID(slot); d.templates.Opened(id) {
		d.acceptedTemplate(id)
	}
}

// acceptedConn makes a connection that the plane has made one of the director's: it does what
// serve, connect and state would have done for its first packet.
func (d *Path) acceptedConn(id conn.ID) {
	if d.opener != nil {
		d.opener.opened++
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
	c := d.conns.Accept(id, template, ownerBits(own && dst.conf.Port != 0, ulvs.DirectRoute))
	dst.Bind(false, c.Activated)
	dst.Conns++
	s.Conns++
	d.markLow(s)
}

// acceptedTemplate makes a template that the plane has made one of the director's: it does
// what persistent would have done.
func (d *Path) acceptedTemplate(id persist.ID) {
	dst := d.table.dests[d.templates.Dest(id)]
	d.templates.Accept(id, dst.svc.Persistence.Timeout)
	dst.Bind(true, false)
	d.markLow(dst.svc)
}

// acceptAll takes over what an earlier process had not. What has no real server ends.
func (d *Path) acceptAll(known func(uint32) *Dest) {
	d.templates.EachPending(func(id persist.ID) {
		if known(d.templates.Dest(id)) == nil {
			d.templates.Discard(id)
			return
		}
		d.acceptedTemplate(id)
	})
	d.conns.EachPending(func(id conn.ID) {
		if known(d.conns.Dest(id)) == nil {
			d.conns.Remove(id)
			return
		}
		d.acceptedConn(id)
	})
}

// findTemplate is the template of a key.
func (d *Path) findTemplate(k *persist.Key, hash uint64) (ct persist.ID, found bool) {
	ct, found = d.templates.Lookup(k, hash)
	if found && d.opener != nil && d.templates.Pending(ct) {
		d.acceptTemplate(uint32(ct)) // just made, on another CPU
	}
	return ct, found
}

// markLow has refillLow look at a service's choices: before the next packets, commands or
// listing, at the end of a batch.
func (d *Path) markLow(s *Service) {
	if d.opener != nil && s.usesPicks && !s.low {
		s.low = true
		d.opener.low = append(d.opener.low, s)
	}
}

// refill decides ahead, if it is time.
func (d *Path) refill(s *Service) {
	if !s.usesPicks {
		return
	}
	room := s.picks.Room()
	if room < preselect.Picks/8 {
		return
	}
	n := 0
	for ; n < room; n++ {
		last, current := s.positioned.Position()
		chosen := s.scheduler.Schedule(&d.request)
		if chosen == nil {
			s.positioned.SetPosition(last, current) // nobody has asked yet
			break
		}
		_, current = s.positioned.Position()
		s.picks.Add(n, preselect.Pick{Dest: chosen.ID, Current: current})
	}
	s.picks.Publish(n)
}

// enableOpening lets the plane open connections to a service, if it can do that as the
// director would.
func (d *Path) enableOpening(s *Service) {
	m := d.opener
	if m == nil || !m.begun || s.picks != nil || int(s.number) >= len(m.services) {
		return
	}
	by := d.openable(s)
	if by == 0 {
		return
	}
	var key preselect.Key
	copy(key[:], s.Addr.AsSlice())
	binary.BigEndian.PutUint16(key[16:], s.Port)
	key[18], key[19] = byte(s.Protocol), 4
	if s.Is6() {
		key[19] = 6
	}
	keep, _ := s.form.Keep(s.Port != 0)
	s.picks, s.usesPicks = &m.services[s.number], by&preselect.ByPicks != 0
	last := preselect.Pick{}
	if s.usesPicks {
		at, current := s.positioned.Position()
		if last.Current = current; at != nil {
			last.Dest = at.ID
		}
	}
	s.picks.Open(by, key, keep, last)
	d.refill(s)
}

// openable is by what the plane may open a service's connections: 0, or as
// preselect.Open has it.
func (d *Path) openable(s *Service) (by uint32) {
	if s.Mark != 0 || s.Protocol != ulvs.TCP && s.Protocol != ulvs.UDP || s.OnePacket || s.Persistence.Engine != "" || s.Port == ftpPort || len(s.dests) == 0 {
		return 0
	}
	for _, dst := range s.dests {
		if dst.conf.Forward != ulvs.DirectRoute || dst.conf.UpperThreshold != 0 || dst.conf.LowerThreshold != 0 || dst.Overloaded() {
			return 0
		}
	}
	switch {
	case s.Port == 0 && d.table.find(ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: s.Addr, Port: ftpPort}) != nil:
		return 0 // some ports are that one's
	case s.Persistence.Timeout != 0:
		by = preselect.ByTemplate
	case s.Port == 0:
		return 0
	}
	if s.positioned != nil {
		by |= preselect.ByPicks
	}
	return by
}

// disableOpening takes back what enableOpening gave: what is decided ahead and was not used was
// never decided. It comes before each change of a service, of its real servers or of
// its scheduler.
func (d *Path) disableOpening(s *Service) {
	if s.picks == nil {
		return
	}
	d.drainOpened()
	_, last := s.picks.Close()
	if s.usesPicks {
		s.last, s.current = last.Dest, last.Current
		s.restorePosition()
	}
	s.picks, s.usesPicks = nil, false
}

// withOpeningDisabled makes a change to a service, which may be nil, while its opening is disabled.
func (d *Path) withOpeningDisabled(s *Service, change func()) {
	if d.opener == nil || s == nil {
		change()
		return
	}
	d.disableOpening(s)
	change()
	if d.table.find(s.ServiceKey) == s {
		d.enableOpening(s)
	}
}

// anyPortSibling is the service of every port that a service takes ports from, or nil.
func (d *Path) anyPortSibling(k ulvs.ServiceKey) *Service {
	if k.Mark != 0 || k.Port != ftpPort || k.Protocol != ulvs.TCP {
		return nil
	}
	k.Port = 0
	return d.table.find(k)
}

// updateOpening tells the plane whether connections may be opened now.
func (d *Path) updateOpening() {
	m := d.opener
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
	open := accel.Opening{
		IPv4:      able && m.apart[0] && !d.table.marked(0),
		IPv6:      able && m.apart[1] && !d.table.marked(1),
		Templates: room(d.templates, m.cpus),
	}
	if open != m.open {
		m.open = open
		m.fast.SetOpening(open)
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

// restorePosition has the scheduler go on from where its service's state says.
func (s *Service) restorePosition() {
	if s.positioned == nil {
		return
	}
	var last *sched.Dest
	for _, dst := range s.dests {
		if dst.ID == s.last {
			last = &dst.Dest
		}
	}
	s.positioned.SetPosition(last, s.current)
}
