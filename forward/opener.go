package forward

import (
	"errors"
	"slices"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/preselect"
	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/persist"
)

// opener is the director's side of a plane that opens connections by itself: the
// picks that it may use, and what it says it has opened. The forwarding lock guards it.
//
// Programs open a connection as schedule would, and where a packet is one of those that
// schedule looks at more closely, they leave it to Go: whose mark depends on what they do not look
// at, with a defence under way, at a threshold, maybe of FTP's data, one-packet scheduling by template
// or a persistence engine, from the host's own addresses; and where a scheduler is to be asked that
// is neither Positioned, Hashing nor Comparing.
type opener struct {
	*tables
	fast                     accel.Opener // without one, nothing ever begins
	cpus                     int
	services                 *preselect.Memory // or nil
	servers                  uint32            // for how many there is room, by number
	begun                    bool
	double                   func(conn.ID) // uncount, made once
	connSlots, templateSlots *shtab.SlotPool
	named                    uint32 // how many templates a connection can name
	// locals are the addresses that the plane was told of, and apart whether that
	// sufficed, by family; open is what it was told by SetOpening.
	locals *dataplane.Locals
	apart  [2]bool
	open   accel.Opening
	low    []*Service
	// flipped are services of which a real server has got overloaded, or is so no more.
	flipped  []*Service
	roomless roomless
	// compared is how many real servers the largest service had whose are compared.
	compared int
	opened   uint64 // connections that the plane has opened
	inGo     [causes]uint64
	full     bool   // the table of connections is too full for the plane to open any
	states   uint64 // changes of state of connections, by the plane, as far as they were accepted one by one
}

// adopt takes the memory of the picks, in which an earlier process may
// have left something: how far its schedulers had come goes to their states.
func (o *opener) adopt(fast accel.Opener, records, sequences []byte) error {
	services, err := preselect.Over(records, sequences)
	if err != nil {
		return err
	}
	services.CloseAll(func(number int, last preselect.Pick) {
		c := &o.kept.services[number]
		c.last, c.current = last.Dest, last.Current
	})
	o.fast, o.services, o.double, o.servers = fast, services, o.uncount, uint32(fast.Servers())
	return nil
}

// able reports whether the plane opens connections at all.
func (o *opener) able() bool { return o.services != nil }

// start lets the plane open connections.
func (o *opener) start() error {
	if !o.able() {
		return nil
	}
	conns, templates, cpus := o.fast.Rings()
	o.named = uint32(o.templates.Slots())
	o.cpus = cpus
	var failed, err error
	o.connSlots, err = o.conns.NamingPool(conns, cpus, conn.TemplateShift, o.touchNamed)
	if o.templateSlots, failed = o.templates.SlotPool(templates, cpus); err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	o.lock()
	o.connSlots.Open()
	o.templateSlots.Open()
	o.begun = true
	o.crossings.begin()
	o.conns.CountAnswers(o.connSlots.Answered)
	o.open.Untold = o.conns.Untold()
	o.fast.SetOpening(o.open)
	o.unlock()
	eachInParts(o.tables, o.enable)
	o.change(func() {}) // where there is no service
	return nil
}

// drain accepts what the plane has opened. The caller holds the lock.
func (o *opener) drain() {
	if !o.begun {
		return
	}
	// Connections first: a template that is accepted for the one that it gives is not put on the list
	// of those that give none.
	conns := o.connSlots.Drain(o.acceptConn)
	if o.templateSlots.Drain(o.acceptTemplate) || conns {
		o.update()
	}
}

// touchNamed reads what acceptConn will need of the template that the plane names in a connection.
func (o *opener) touchNamed(n uint32) uint32 {
	if n > o.named {
		return 0
	}
	ct := persist.ID(n - 1)
	return o.templates.Stamp(ct) + o.templates.TouchRecord(ct)
}

// refillLow refills the picks of the services that may need it. Those of services of which a real
// server has got overloaded, or is so no more, are void.
func (o *opener) refillLow() {
	for _, s := range o.flipped {
		o.shut(s)
	}
	for _, s := range o.low {
		s.low = false
		o.refill(s)
	}
	o.low = o.low[:0]
}

// reopen lets the plane open connections to some of those services again: at a tick, as it may be
// with each connection that a real server is at its threshold, or is so no more. It takes as long as
// the scheduler takes for two thousand choices each. more says that some are left.
func (o *opener) reopen(some int) (more bool) {
	some = min(some, len(o.flipped))
	for i := range some { // which may add some
		s := o.flipped[i]
		s.flipped = false
		o.withDisabled(s, func() {})
	}
	o.flipped = slices.Delete(o.flipped, 0, some)
	return len(o.flipped) > 0
}

// acceptConn accepts a connection that the plane has opened, or the state that it has brought
// one into, unless that has been done, and acceptTemplate a template, or that it is ASSURED.
func (o *opener) acceptConn(slot uint32, opened bool) {
	switch id := conn.ID(slot); {
	case !opened:
		if o.conns.Live(id) {
			o.acceptState(id)
		}
	case o.conns.Opened(id, o.double):
		o.acceptedConn(id).Counted()
	}
}

// uncount takes away that the plane has counted a connection, of which there is another. What
// packets that found this one have done to its state goes with it: that takes a SYN that comes by
// two ways at the same moment, and is mended by the next packet.
func (o *opener) uncount(id conn.ID) {
	o.acceptNamed(o.conns.Named(id))
	o.conns.CloseState(id, true)
	o.index.dests[o.conns.Dest(id)].Unbind(false, o.conns.Active(id))
}

func (o *opener) acceptTemplate(slot uint32, opened bool) {
	switch id := persist.ID(slot); {
	case !opened:
		if o.templates.Live(id) && o.templates.Controls(id) > 0 {
			o.templates.Assure(id)
		}
	case o.templates.Opened(id, nil):
		o.acceptedTemplate(id)
	}
}

// acceptState accepts the state into which the plane has brought a connection, if it has.
func (o *opener) acceptState(id conn.ID) {
	if !o.conns.Changed(id) {
		return
	}
	o.states++
	if o.conns.AcceptState(id) {
		o.assure(id)
	}
}

// acceptStates accepts the states into which the plane has brought connections without telling:
// their timeouts are those of when it did.
func (o *opener) acceptStates() {
	const chunk = 4096
	for at, more := conn.ID(0), o.begun; more; {
		o.lock()
		at, more = o.conns.Each(at, chunk, o.acceptState)
		o.unlock()
	}
}

// acceptedConn makes a connection that the plane has opened one of the director's: it does
// what serve, connect and state would have done for its first packet.
func (o *opener) acceptedConn(id conn.ID) (dst *Dest) {
	o.opened++
	dst = o.index.dests[o.conns.Dest(id)]
	s := dst.svc
	own, template := true, uint32(0)
	if named := o.conns.Named(id); named != 0 || s.Persistence.Timeout != 0 {
		if own, template = o.control(id, named, dst); named != template {
			o.conns.Rename(id, template)
		}
	}
	changed, established := o.conns.Accept(id, template, ownerBits(own && dst.conf.Port != 0, ulvs.DirectRoute))
	if changed {
		o.states++
	}
	if established {
		o.assure(id)
	}
	dst.Conns++
	of := s
	if s.Persistence.Timeout != 0 && s.Mark == 0 && (s.Port == 0 || s.Port == FTPPort) {
		of = o.openedBy(id, s)
	}
	of.Conns++
	of.byPlane++
	o.markLow(s)
	return dst
}

// openedBy returns the service that a connection is of which the plane has opened, to a real server of service
// s, of FTP's port or of every port. It may be the other one: they share a client's template, if they are persistent
// (ip_vs_sched_persist, ip_vs_conn_stats).
func (o *opener) openedBy(id conn.ID, s *Service) *Service {
	k := s.ServiceKey
	if k.Port = 0; o.conns.Flow(id).VirtualPort() == FTPPort {
		k.Port = FTPPort
	}
	if of := o.index.find(k); of != nil {
		return of
	}
	return s
}

// acceptNamed accepts the template that the plane names in a connection, if that has not been done,
// and returns it if it is alive: it may have been a double. The plane tells in no other way of
// one that it has made for the connection. The connection's acceptance comes before the template's slot
// can be another's: what is told is read whenever the lock is taken, and so before slots are given
// back.
func (o *opener) acceptNamed(n uint32) (ct persist.ID, ok bool) {
	if n == 0 || n > o.named {
		return 0, false
	}
	ct = persist.ID(n - 1)
	if !o.templates.Pending(ct) {
		return ct, o.templates.Live(ct)
	}
	if !o.templates.Opened(ct, nil) {
		return 0, false
	}
	o.acceptedTemplate(ct)
	return ct, true
}

// control has the template by which the plane has opened a connection to dst control it, and returns its
// number and 1, or 0; own says that the connection is to its service's own port. The service may not be
// persistent any more: then the template that was made for it has nothing to do with it.
func (o *opener) control(id conn.ID, named uint32, dst *Dest) (own bool, template uint32) {
	ct, ok := o.acceptNamed(named)
	s := dst.svc
	if s.Persistence.Timeout == 0 {
		return true, 0
	}
	flow := o.conns.Flow(id)
	if !ok {
		var e early
		o.templateKey(s, flow, &e)
		ct, ok = o.findTemplate(&e.key, e.keyHash)
	}
	if ok && o.templates.Dest(ct) == dst.ID {
		template = uint32(ct) + 1
		o.templates.Controlled(ct, o.conns.Stamp(id))
	}
	return flow.VirtualPort() == s.Port, template
}

// acceptedTemplate makes a template that the plane has opened one of the director's: it does
// what persistent would have done.
func (o *opener) acceptedTemplate(id persist.ID) {
	dst := o.index.dests[o.templates.Dest(id)]
	o.templates.Accept(id, dst.svc.Persistence.Timeout)
	dst.Bind(true, false)
	o.markLow(dst.svc)
}

// acceptAll accepts what an earlier process had not. What has no real server ends.
func (o *opener) acceptAll(known func(uint32) *Dest) {
	o.named = uint32(o.templates.Slots())
	o.templates.EachPending(func(id persist.ID) {
		if known(o.templates.Dest(id)) == nil {
			o.templates.End(id)
			return
		}
		o.acceptedTemplate(id)
	})
	o.conns.EachPending(func(id conn.ID) {
		if known(o.conns.Dest(id)) == nil {
			o.conns.End(id)
			return
		}
		o.acceptedConn(id).Bind(false, o.conns.Active(id))
	})
}

// markLow has refillLow look at a service's picks: before the next packets, commands or
// listing, at the end of a batch.
func (o *opener) markLow(s *Service) {
	if s.usesPicks && !s.cycles && !s.low {
		s.low = true
		o.low = append(o.low, s)
	}
}

// refill adds picks, if it is time.
func (o *opener) refill(s *Service) {
	if !s.usesPicks || s.cycles {
		return
	}
	room := s.picks.Room()
	if room < preselect.Picks/8 {
		return
	}
	n := 0
	for ; n < room; n++ {
		last, current := s.positioned.Position()
		chosen := s.scheduler.Schedule(&o.request)
		if chosen == nil {
			s.positioned.SetPosition(last, current) // nobody has asked yet
			break
		}
		_, current = s.positioned.Position()
		s.picks.Add(n, preselect.Pick{Dest: chosen.ID, Current: current})
	}
	s.picks.Publish(n)
}

// serial returns which service it is that has a number: with fresh another one than before.
func (o *opener) serial(number uint32, fresh bool) uint32 {
	switch {
	case !o.able() || number >= preselect.Services:
		return 0
	case fresh:
		return o.services.Renew(number)
	}
	return o.services.Serial(number)
}

// update tells the plane whether connections may be opened now.
func (o *opener) update() {
	if !o.begun {
		return
	}
	if l := o.resolver.Locals(); l != o.locals {
		o.locals = l
		o.apart[0], o.apart[1] = o.fast.SetLocals(l)
	}
	// Those that the plane may have opened and Go has not accepted yet have to find room. (Where
	// there are so many CPUs that they might be more than an eighth of the table, that
	// has a few more entries for a moment.)
	o.full = o.conns.Len()+o.margin(o.conns.Max()) > o.conns.Max()
	able := !o.full && o.defense.rate == 0 && !o.conns.Secure()
	open := accel.Opening{
		IPv4:      able && o.apart[0],
		IPv6:      able && o.apart[1],
		Templates: o.templates.Len()+o.margin(o.templates.Max()) <= o.templates.Max(),
		Losing:    o.crossings.loses(),
		SloppyTCP: o.sysctl.SloppyTCP != 0, SloppySCTP: o.sysctl.SloppySCTP != 0,
		Untold:   o.conns.Untold(),
		Compared: o.compared,
	}
	if open != o.open {
		o.open = open
		o.fast.SetOpening(open)
	}
}

// margin returns how many entries of a table programs may have opened, of which Go does not
// know yet.
func (o *opener) margin(max int) int {
	if !o.begun {
		return 0
	}
	return min(o.cpus*shtab.RingCells, max-nearFull(max))
}
