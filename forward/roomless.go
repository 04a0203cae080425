package forward

import (
	"maps"
	"slices"

	"github.com/ulvs/ulvs/internal/preselect"
)

// roomless are services for whose picks, buckets or servers the plane's memory had no room: Go
// opens their connections, until there is some. The forwarding lock guards it.
type roomless struct {
	services map[*Service]bool
	left     int        // what was left of the memory when they were tried last
	again    []*Service // are to be tried again
}

// reserve gives a service memory for a sequence of so many bytes. Where there is none, it is opened by
// its templates alone, which take none, or by is 0.
func (o *opener) reserve(s *Service, by *uint32, size int) (ok bool) {
	if s.picks, ok = o.services.Reserve(s.number, size); ok {
		return true
	}
	r := &o.roomless
	if left := o.services.Left(); len(r.services) == 0 {
		r.services, r.left = map[*Service]bool{}, left
	} else {
		r.left = min(r.left, left)
	}
	r.services[s] = true
	if *by &= preselect.ByTemplate; *by != 0 {
		s.picks, _ = o.services.Reserve(s.number, 0)
	}
	return false
}

// forget ends that a service is without room: what it takes is about to change.
func (r *roomless) forget(s *Service) { delete(r.services, s) }

// retry opens some services that had no room, if others have given some back since. more says that
// some are left to be tried. It is called at each tick, so that it sees what was given back.
func (o *opener) retry(some int) (more bool) {
	r := &o.roomless
	if len(r.services) > 0 && len(r.again) == 0 {
		left := o.services.Left()
		if left > r.left {
			r.again = slices.Collect(maps.Keys(r.services))
		}
		r.left = left
	}
	some = min(some, len(r.again))
	for _, s := range r.again[:some] {
		if r.services[s] {
			o.withDisabled(s, func() {})
		}
	}
	if r.again = r.again[some:]; len(r.again) == 0 {
		r.again = nil
	}
	return len(r.again) > 0
}

// unopened says why the plane does not open all of a service's connections, or "".
func (o *opener) unopened(s *Service) string {
	if _, why := o.openable(s); why != "" || !o.roomless.services[s] {
		return why
	}
	return "no room for its choices"
}
