package forward

import (
	"fmt"
	"slices"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/persist"
	"github.com/ulvs/ulvs/sched"
)

// Commands are the moments in which a command changes something. Each takes the
// forwarding lock; the caller holds the control lock.
type Commands struct{ *tables }

// Find returns the service with exactly this key, or nil. The caller holds the control
// lock, so that the answer stays true.
func (cm *Commands) Find(k ulvs.ServiceKey) *Service {
	cm.lock()
	defer cm.unlock()
	return cm.index.find(k)
}

// NewService makes a service that is not served yet; 0 takes a free number for its state.
func (cm *Commands) NewService(c ulvs.Service, number uint32) (*Service, error) {
	sc, err := sched.New(c.Scheduler, nil, c.SchedFlags)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ulvs.ErrNoScheduler, err)
	}
	cm.persists(c)
	s := &Service{Service: c, scheduler: sc}
	s.positioned, _ = sc.(sched.Positioned)
	s.form = persist.FormFor(c.Is6(), c.Mark, c.Persistence.Netmask)
	cm.change(func() {
		s.number, s.state = cm.index.states.service(number)
		s.serial = cm.opener.serial(s.number, number == 0)
		cm.index.served[family(c.Is6())]++ // it is claimed before it is served
	})
	return s, nil
}

// Forget gives back what NewService took.
func (cm *Commands) Forget(s *Service) {
	cm.change(func() {
		cm.index.states.freeService(s.number)
		cm.index.served[family(s.Is6())]--
	})
}

// AddService serves a service that Find does not find. By a mark it may get ISAKMP, after
// which there is more to claim.
func (cm *Commands) AddService(s *Service) (isakmp bool) {
	cm.change(func() {
		cm.remember(s)
		cm.index.addService(s)
		isakmp = cm.index.nameMark(s.ServiceKey)
		if cm.standby.Limited() {
			cm.place(s)
		}
	})
	return isakmp
}

// All returns every service, in the kernel's order.
func (cm *Commands) All() []*Service {
	cm.lock()
	defer cm.unlock()
	return slices.Collect(cm.index.All())
}

// RemoveServices takes services out; their real servers go to the trash.
func (cm *Commands) RemoveServices(list []*Service) {
	now := tickOf(cm.clock())
	const some = 64 // while packets wait
	marks := false
	for left := list; len(left) > 0; {
		part := left[:min(some, len(left))]
		left = left[len(part):]
		cm.change(func() {
			for _, s := range part {
				cm.opener.disable(s)
				s.retireScheduler()
				cm.leave(s)
				cm.index.removeService(s, now)
				marks = marks || s.Mark != 0
			}
			if marks && len(left) == 0 { // once: it looks at all marks
				cm.index.nameMarks()
			}
		})
	}
}

// SetMarks puts a family's rules to work; some says that there are any. It reports whether
// other addresses get ISAKMP now, which changes what there is to claim.
func (cm *Commands) SetMarks(ipv6 bool, set *fwmark.Set, some bool) (isakmp bool) {
	cm.change(func() {
		cm.index.sets[family(ipv6)], cm.index.ruled[family(ipv6)] = set, some
		isakmp = cm.index.nameMarks()
		cm.placeAll()
	})
	return isakmp
}

// Claims returns what the plane has to keep from the host, but for the mark rules. The
// services are read without the forwarding lock, as they change under both; those that are
// gone but for their connections change under that one.
func (cm *Commands) Claims() (c dataplane.Claims) {
	cm.lock()
	cm.claimDue = false
	cm.index.leavingClaims(&c)
	c.WhileLocal = cm.standby.Virtual || cm.standby.away
	cm.unlock()
	cm.index.claims(&c)
	return c
}

// ByMark returns the services that have a mark. The caller holds the control lock.
func (cm *Commands) ByMark() (list []*Service) {
	for s := range cm.index.Each {
		if s.Mark != 0 {
			list = append(list, s)
		}
	}
	return list
}

// EditDest gives a real server another configuration.
func (cm *Commands) EditDest(s *Service, dst *Dest, c ulvs.Destination) {
	cm.change(func() {
		cm.opener.withDisabled(s, func() {
			dst.conf = c
			dst.Set(c.Weight, c.UpperThreshold, c.LowerThreshold)
			s.scheduler.Updated(s.schedDests(), &dst.Dest)
			cm.index.mirror.savePosition(s)
		})
	})
}

// RemoveDest puts a real server into the trash.
func (cm *Commands) RemoveDest(s *Service, dst *Dest) {
	cm.change(func() {
		cm.opener.withDisabled(s, func() { cm.index.removeDest(s, dst, tickOf(cm.clock())) })
	})
}

// AddDest adds a real server that has a number; 0 takes a free one.
func (cm *Commands) AddDest(s *Service, c ulvs.Destination, number uint32) (*Dest, error) {
	// Resolving may talk to the system, so it comes before the lock.
	hop := cm.resolver.NextHop(c.Addr)
	hop.OnLost(cm.answerLost)
	dst, err := cm.enlist(s, c, hop, number)
	if err != nil {
		cm.resolver.Release(hop)
	}
	return dst, err
}

// Zero sets a service's counters to zero, and those of its real servers; false: there is
// no such service.
func (cm *Commands) Zero(k ulvs.ServiceKey) bool {
	cm.lock()
	defer cm.unlock()
	s := cm.index.find(k)
	if s != nil {
		s.zeroAll()
	}
	return s != nil
}

// ZeroAll zeroes the counters of all services, and what they have in common.
func (cm *Commands) ZeroAll() {
	cm.lock()
	defer cm.unlock()
	cm.index.total.Zero()
	for s := range cm.index.All() {
		s.zeroAll()
	}
}

// Timeouts returns those of ipvsadm --set.
func (cm *Commands) Timeouts() ulvs.Timeouts {
	cm.lock()
	defer cm.unlock()
	return cm.timeouts()
}

// SetTimeouts sets them; 0 keeps. It returns their generation.
func (cm *Commands) SetTimeouts(t ulvs.Timeouts) (generation uint32) {
	cm.change(func() {
		cm.conns.SetTimeouts(t.TCP, t.TCPFin, t.UDP)
		generation = cm.conns.Generation()
		cm.index.mirror.setGeneration(generation)
	})
	cm.opener.acceptStates()
	return generation
}

// EditService gives a service another configuration (ip_vs_edit_service).
func (cm *Commands) EditService(s *Service, c ulvs.Service) error {
	cm.persists(c)
	cm.lock()
	defer cm.unlock()
	cm.opener.disable(s)
	defer cm.opener.enable(s)
	if c.Scheduler != s.Scheduler {
		sc, err := sched.New(c.Scheduler, s.schedDests(), c.SchedFlags)
		if err != nil {
			return fmt.Errorf("%w: %v", ulvs.ErrNoScheduler, err)
		}
		s.retireScheduler()
		s.scheduler = sc
		s.positioned, _ = sc.(sched.Positioned)
		cm.index.mirror.savePosition(s)
		s.Scheduler = c.Scheduler
		cm.remember(s)
	} else if f, ok := s.scheduler.(sched.Flagged); ok {
		f.SetFlags(c.SchedFlags)
	}
	s.Service = c
	s.form = persist.FormFor(c.Is6(), c.Mark, c.Persistence.Netmask)
	return nil
}

// enlist puts a real server into a service.
func (cm *Commands) enlist(s *Service, c ulvs.Destination, hop *dataplane.NextHop, number uint32) (*Dest, error) {
	cm.lock()
	defer cm.unlock()
	if len(cm.index.dests) > conn.MaxDest && len(cm.index.free) == 0 {
		return nil, fmt.Errorf("%w: no more than %d real servers", ulvs.ErrInvalid, conn.MaxDest)
	}
	dst := cm.index.fromTrash(s, c.AddrPort())
	if dst != nil && number != 0 && dst.ID != number {
		// The process whose commands these were had emptied its trash meanwhile.
		cm.index.dests[dst.ID] = nil
		cm.resolver.Release(dst.hop)
		dst = nil
	}
	if dst == nil {
		dst = &Dest{hop: hop}
		if number != 0 {
			if was := cm.index.number(dst, number); was != nil {
				cm.resolver.Release(was.hop)
			}
		}
	} else {
		cm.resolver.Release(hop)
		if dst.svc != s {
			dst.Zero()
		}
	}
	dst.conf = c
	copy(dst.Addr[:], c.Addr.AsSlice())
	dst.Port, dst.IPv6 = c.Port, s.Is6()
	dst.Enlist(c.Weight, c.UpperThreshold, c.LowerThreshold)
	cm.opener.withDisabled(s, func() { cm.index.addDest(s, dst) })
	return dst, nil
}
