package director

import (
	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/forward"
)

// Batch carries out changes one after the other, as the method of each would, and calls
// answer for each as it is done, until that returns false. All that they add is claimed
// from the host at once, before the first of them. Both locks are taken for each change by
// itself, so that packets and other commands come between. The error is nil.
func (d *Director) Batch(changes []ulvs.Change, answer func(n int, err error) bool) error {
	b := &batch{Director: d, announced: make([]*forward.Service, len(changes))}
	b.announce(changes)
	for i := range changes {
		if more := answer(i, b.carryOut(i, &changes[i])); !more {
			break
		}
	}
	for _, s := range b.announced {
		if s != nil {
			adding{d}.revoke(s)
			b.stale = true
		}
	}
	if b.stale {
		removing{d}.giveBack()
	}
	return nil
}

// batch is a director within a batch: what its commands give back to the host is given back
// at the end, at once.
type batch struct {
	*Director
	announced []*forward.Service // by change; nil if it adds none, or has been carried out
	refused   error              // of their claim
	stale     bool               // more is claimed than is answered for
}

// announce claims what the changes add, as far as it can be told before they are carried
// out: another service of that key may be in the way, or may go before.
func (b *batch) announce(changes []ulvs.Change) {
	cleared, deleted, some := false, map[ulvs.ServiceKey]bool{}, false
	gone := func(k ulvs.ServiceKey) bool { return cleared || deleted[k] }
	b.ctl.Lock()
	for i := range changes {
		switch c := &changes[i]; c.Verb {
		case ulvs.VerbClear:
			cleared = true
		case ulvs.VerbDeleteService:
			deleted[clean(c.Key)] = true
		case ulvs.VerbAddService:
			// What is wrong with it is said in its turn.
			if s, err := (adding{b.Director}).announceLocked(c.Service, 0, gone); err == nil {
				b.announced[i], some = s, true
			}
		}
	}
	b.ctl.Unlock()
	if some {
		b.refused = b.effects.claim()
	}
}

// carryOut carries out one change.
func (b *batch) carryOut(n int, c *ulvs.Change) error {
	s := b.announced[n]
	switch {
	case s == nil:
		return c.Apply(b)
	case b.refused != nil:
		return b.refused
	}
	b.announced[n] = nil
	err := adding{b.Director}.serve(s)
	b.stale = b.stale || err != nil // there was one of its key
	return err
}

// DeleteService is Director's but for the claim.
func (b *batch) DeleteService(k ulvs.ServiceKey) error {
	b.stale = true
	return removing{b.Director}.service(k)
}

// Clear is Director's but for the claim.
func (b *batch) Clear() error {
	b.stale = true
	return removing{b.Director}.all()
}
