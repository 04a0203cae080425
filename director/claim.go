package director

import (
	"errors"
	"fmt"
	"sync"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/forward"
	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/internal/accel"
)

// claims has the plane hear of what the director answers for. Commands that wait while it
// hears of others share the next round. The caller of its methods does not hold ctl, which
// a round takes to look at the present state.
type claims struct {
	turn sync.Mutex // the plane hears of one round at a time

	mu   sync.Mutex
	next *round // that has not begun, or nil
}

// round is one Claim of the plane.
type round struct {
	ended chan struct{}
	err   error
}

// share returns when a round has ended that began after the call.
func (c *claims) share(carryOut func() error) error {
	c.mu.Lock()
	r := c.next
	if r != nil {
		c.mu.Unlock()
		<-r.ended
		return r.err
	}
	r = &round{ended: make(chan struct{})}
	c.next = r
	c.mu.Unlock()

	c.turn.Lock()
	c.mu.Lock()
	c.next = nil
	c.mu.Unlock()
	r.err = carryOut()
	c.turn.Unlock()
	close(r.ended)
	return r.err
}

// idle carries out a round if none is under way.
func (c *claims) idle(carryOut func() error) error {
	if !c.turn.TryLock() {
		return nil
	}
	defer c.turn.Unlock()
	return carryOut()
}

// announced is what the plane hears of before it is put to work, so that a packet in
// between is nobody's, and not the host's to reset. ctl guards it.
type announced struct {
	services map[*forward.Service]bool
	marks    [2]*fwmark.Table // IPv4's and IPv6's rules, or nil
}

// claim implements effects.
func (e live) claim() error {
	return e.claims.share(e.tell)
}

// claimIdle implements effects.
func (e live) claimIdle() error { return e.claims.idle(e.tell) }

// tell is a round.
func (e live) tell() error {
	if err := e.plane.Claim(e.claimed()); err != nil {
		return fmt.Errorf("the %s plane cannot keep the host from the services' packets: %w", e.plane.Name(), err)
	}
	return nil
}

// claimed is what the director answers for, and is about to.
func (e live) claimed() dataplane.Claims {
	e.ctl.Lock()
	defer e.ctl.Unlock()
	c := e.path.Commands.Claims()
	rules := [2]*fwmark.Table{e.marks4, e.marks6}
	for i, t := range e.announced.marks {
		if t != nil {
			rules[i] = t
		}
	}
	c.Rules4, c.Rules6 = markRules(rules[0].Rules()), markRules(rules[1].Rules())
	for s := range e.announced.services {
		c.Services = append(c.Services, s.Claim()...)
		switch {
		case s.Mark == 0:
		case s.IPv6:
			c.Marks6 = append(c.Marks6, s.Mark)
		default:
			c.Marks4 = append(c.Marks4, s.Mark)
		}
	}
	if _, opens := e.plane.(accel.Opener); opens {
		marked := e.path.Commands.ByMark()
		for s := range e.announced.services {
			if s.Mark != 0 {
				marked = append(marked, s)
			}
		}
		e.marked.claims(rules, marked, e.links.read(rules), &c)
		e.path.Commands.SetUndecided(e.marked.undecided(marked))
	}
	return c
}

// adding is how services are added: each is announced, then claimed, then served.
type adding struct{ *Director }

// announce checks a service, and says that it is about to be added. Its state has a number;
// 0 takes a free one.
func (a adding) announce(c ulvs.Service, number uint32) (*forward.Service, error) {
	a.ctl.Lock()
	defer a.ctl.Unlock()
	return a.announceLocked(c, number, nil)
}

// announceLocked does so where the caller holds ctl. A service that is not to be there any
// more then is no hindrance.
func (a adding) announceLocked(c ulvs.Service, number uint32,
	gone func(ulvs.ServiceKey) bool) (*forward.Service, error) {
	c.ServiceKey = clean(c.ServiceKey)
	if a.path.Commands.Find(c.ServiceKey) != nil && (gone == nil || !gone(c.ServiceKey)) {
		return nil, fmt.Errorf("%w: %v", ulvs.ErrServiceExists, c.ServiceKey)
	}
	if err := checkService(&c); err != nil {
		return nil, err
	}
	s, err := a.path.Commands.NewService(c, number)
	if err != nil {
		return nil, err
	}
	a.announced.services[s] = true
	return s, nil
}

// revoke takes an announcement back. What was claimed for it is the plane's until the next
// round.
func (a adding) revoke(s *forward.Service) {
	a.ctl.Lock()
	defer a.ctl.Unlock()
	delete(a.announced.services, s)
	a.path.Commands.Forget(s)
}

// serve adds a service that was announced and claimed. Another command may have added one
// of its key meanwhile.
func (a adding) serve(s *forward.Service) error {
	isakmp, err := a.serveClaimed(s)
	if isakmp { // by its mark, after which there is more to claim
		return errors.Join(a.effects.claim(), err)
	}
	return err
}

func (a adding) serveClaimed(s *forward.Service) (isakmp bool, err error) {
	a.ctl.Lock()
	defer a.ctl.Unlock()
	delete(a.announced.services, s)
	if a.path.Commands.Find(s.ServiceKey) != nil {
		a.path.Commands.Forget(s)
		return false, fmt.Errorf("%w: %v", ulvs.ErrServiceExists, s.ServiceKey)
	}
	isakmp = a.path.Commands.AddService(s)
	return isakmp, a.effects.record(command{Verb: "service", Service: recordService(s.Service), Number: s.Number()})
}

// add adds one service.
func (a adding) add(c ulvs.Service, number uint32) error {
	s, err := a.announce(c, number)
	if err != nil {
		return err
	}
	if err = a.effects.claim(); err != nil {
		a.revoke(s)
		return err
	}
	if err = a.serve(s); errors.Is(err, ulvs.ErrServiceExists) {
		if e := a.effects.claim(); e != nil { // the other's number is the one that counts
			a.log.Error("the host cannot be kept from the services' packets, and may answer them too", "err", e)
		}
	}
	return err
}
