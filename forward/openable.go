package forward

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/internal/preselect"
	"github.com/ulvs/ulvs/sched"
)

// enable lets the plane open connections to a service, if it can do that as the
// director would.
func (o *opener) enable(s *Service) {
	if !o.begun || s.picks != nil || s.flipped {
		return
	}
	by, why := o.openable(s)
	if s.unopened = why != ""; s.number >= preselect.Services {
		return
	}
	o.limit(s)
	if by == 0 {
		return
	}
	if s.OnePacket {
		by |= preselect.OnePacket
	}
	keep, put := s.form.Words(s.Port != 0 && s.Port != FTPPort)
	form := preselect.Form{Keep: keep, Put: put[preselect.PutWord(s.Is6())]}
	switch {
	case by&preselect.ByHash != 0:
		_, buckets := s.scheduler.(sched.Hashing).Hashed()
		if o.reserve(s, &by, preselect.BucketsSize(len(buckets))) {
			s.picks.SetBuckets(func(i int) uint32 { return bucketOf(buckets[i]) })
		}
	case by&preselect.ByCounts != 0:
		_, list := weigh(s.scheduler.(sched.Comparing).Compared())
		if o.reserve(s, &by, preselect.ServersSize(len(list))) {
			s.picks.SetServers(list)
			o.compared = max(o.compared, len(list))
		}
	case by&preselect.ByPicks != 0:
		last := preselect.Pick{}
		at, current := s.positioned.Position()
		if last.Current = current; at != nil {
			last.Dest = at.ID
		}
		list, wrap, cycles := o.cycle(s)
		size := preselect.RingSize
		if cycles {
			size = preselect.CycleSize(len(list))
		}
		if o.reserve(s, &by, size) {
			s.usesPicks, s.cycles = true, cycles
			if cycles {
				s.picks.OpenCycle(by, form, last, list, wrap)
				return
			}
			s.picks.Open(by, form, last)
			o.refill(s)
			return
		}
	default:
		o.reserve(s, &by, 0)
	}
	if by != 0 {
		s.picks.Open(by, form, preselect.Pick{})
	}
}

// limit tells the plane which of a service's real servers may be chosen when, and to which of them
// templates lead.
func (o *opener) limit(s *Service) {
	for _, d := range s.dests {
		o.limitOne(d)
		if d.conf.UpperThreshold == 0 {
			d.Watch(nil)
			continue
		}
		d.Watch(func() {
			o.limitOne(d)
			if !s.flipped {
				s.flipped = true
				o.flipped = append(o.flipped, s)
			}
		})
	}
}

func (o *opener) limitOne(d *Dest) {
	o.fast.SetLimits(d.ID, d.Limit(), o.sysctl.ExpireQuiescentTemplate != 0 && d.Quiescent())
}

// limitAll is limit for all services. The caller does not hold the lock.
func (o *opener) limitAll() {
	eachInParts(o.tables, func(s *Service) {
		if o.begun && s.picks != nil {
			o.limit(s)
		}
	})
}

// cycle returns what a service's scheduler chooses from now on, until it stands where it stood
// after number wrap of that. False: that takes too long, or there is nobody to choose.
func (o *opener) cycle(s *Service) (list []preselect.Pick, wrap int, ok bool) {
	type position struct {
		last    *sched.Dest
		current int32
	}
	last, current := s.positioned.Position()
	defer s.positioned.SetPosition(last, current)
	stood := map[position]int{{last, current}: 0}
	for len(list) < preselect.Picks-1 {
		chosen := s.scheduler.Schedule(&o.request)
		if chosen == nil {
			return nil, 0, false
		}
		at, current := s.positioned.Position()
		list = append(list, preselect.Pick{Dest: chosen.ID, Current: current})
		if n, been := stood[position{at, current}]; been {
			return list, n, true
		}
		stood[position{at, current}] = len(list)
	}
	return nil, 0, false
}

// openable says by what the plane may open a service's connections, as preselect.Open has it, and
// why it may not open all of them; without a reason and with 0 nobody opens any.
func (o *opener) openable(s *Service) (by uint32, why string) {
	switch {
	case s.away.Load() || len(s.dests) == 0 || s.Mark == 0 && s.Port == 0 && s.Persistence.Timeout == 0:
		return 0, ""
	case s.OnePacket && s.Persistence.Timeout != 0:
		return 0, "one-packet scheduling by template"
	case s.Persistence.Engine != "":
		return 0, "persistence engine " + s.Persistence.Engine
	case slices.ContainsFunc(s.dests, func(d *Dest) bool { return d.conf.Forward != ulvs.DirectRoute }):
		return 0, "a real server is not for direct routing"
	case s.number >= preselect.Services:
		return 0, fmt.Sprintf("beyond the first %d services", preselect.Services-1)
	}
	if slices.ContainsFunc(s.dests, func(d *Dest) bool { return d.ID >= o.servers }) {
		why = fmt.Sprintf("a real server beyond the first %d of all", o.servers-1)
	}
	if s.Persistence.Timeout != 0 {
		by = preselect.ByTemplate
	}
	if s.positioned != nil {
		return by | preselect.ByPicks, why
	}
	if h, ok := s.scheduler.(sched.Hashing); ok {
		return by | hashOf(h.Hashed()), why
	}
	c, ok := s.scheduler.(sched.Comparing)
	switch {
	case !ok && by != 0:
		return by, s.Scheduler + " for new clients"
	case !ok:
		return 0, s.Scheduler
	case why != "":
		return by, why
	}
	how, list := weigh(c.Compared())
	if how == 0 && len(list) > 0 {
		why = fmt.Sprintf("%s of more than %d real servers", s.Scheduler, preselect.MostCompared)
	}
	return by | how, why
}

// weigh returns how programs compare, as preselect.Open has it, and what they compare: 0 and a part
// of that if they cannot, 0 and nothing if there is nobody to choose. What is compared is the same
// whatever the comparison: who looks at no weight has none, and who wants the most of it looks at
// the heaviest first.
func weigh(how sched.Comparison, dests []*sched.Dest) (by uint32, list []preselect.Weighed) {
	for _, d := range dests {
		if !d.Usable() {
			continue
		}
		if len(list) == preselect.MostCompared {
			return 0, list
		}
		list = append(list, preselect.Weighed{Dest: d.ID, Weight: d.Weight()})
	}
	if len(list) == 0 {
		return 0, nil
	}
	by = preselect.ByCounts
	switch how {
	case sched.Least:
		for i := range list {
			list[i].Weight = 1
		}
	case sched.SoonestForWeight:
		by |= preselect.Soonest
	case sched.IdleOrSoonest:
		by |= preselect.Soonest | preselect.IdleFirst
	case sched.Heaviest, sched.HeaviestUnfilled:
		by |= preselect.Unfilled
		slices.SortStableFunc(list, func(a, b preselect.Weighed) int { return cmp.Compare(b.Weight, a.Weight) })
		for i := range list {
			if how == sched.Heaviest {
				list[i].Weight = math.MaxInt32
			}
		}
	}
	return by, list
}

// Programs hash as schedulers do.
var (
	_ = [1]struct{}{}[sched.MHKey-preselect.SipKey]
	_ = [1]struct{}{}[sched.Golden-preselect.Golden]
)

// hashOf says by what hash programs choose: 0, or as preselect.Open has it.
func hashOf(h sched.Hash, buckets []*sched.Dest) (by uint32) {
	if h.Sip && len(buckets) != preselect.SipBuckets || !h.Sip && len(buckets) != 256 {
		return 0
	}
	by = preselect.ByHash
	if h.Virtual {
		by |= preselect.OfVirtual
	}
	if h.Port {
		by |= preselect.WithPort
	}
	if h.Sip {
		by |= preselect.BySip
	}
	return by
}

// bucketOf is the number of a bucket's real server. Go chooses where there is none that can be used.
func bucketOf(d *sched.Dest) uint32 {
	if d == nil || !d.Usable() {
		return 0
	}
	return d.ID
}

// disable ends that the plane opens a service's connections. Picks that it has not used are
// void. It comes before each change of a service, of its real servers or of
// its scheduler.
func (o *opener) disable(s *Service) {
	o.roomless.forget(s)
	if s.picks != nil {
		o.drain()
		o.shut(s)
	}
}

// shut is disable in the middle of a batch, where what the plane tells may not be read: a packet's
// connection or template that is pending was looked for already, and not found.
func (o *opener) shut(s *Service) {
	if s.picks == nil {
		return
	}
	_, last := s.picks.Close()
	if s.usesPicks {
		s.last, s.current = last.Dest, last.Current
		s.restorePosition()
	}
	s.picks, s.usesPicks, s.cycles = nil, false, false
}

// withDisabled makes a change to a service, which may be nil, while its opening is disabled.
func (o *opener) withDisabled(s *Service, change func()) {
	if s == nil {
		change()
		return
	}
	o.disable(s)
	change()
	if o.index.find(s.ServiceKey) == s {
		o.enable(s)
	}
}
