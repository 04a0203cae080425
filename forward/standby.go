package forward

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/ulvs/ulvs/dataplane"
)

// While says while what a path serves: one of a pair of directors, of which the other one serves
// meanwhile. The zero value is always.
type While struct {
	// Addrs are addresses: services are served while the host has all of them.
	Addrs []netip.Addr
	// Virtual has each virtual address be served while the host has it, as kernel IPVS does,
	// which only sees what is for the host (ip_vs_core.c, ip_vs_ops: NF_INET_LOCAL_IN). A
	// service by mark is served while the host has one of the addresses that the rules name.
	Virtual bool
}

// Limited reports whether there are such times.
func (w While) Limited() bool { return w.Virtual || len(w.Addrs) > 0 }

// standby is what a path knows of its times. Services that are away have their connections kept,
// whose packets are dropped; all else is the host's.
type standby struct {
	While
	locals *dataplane.Locals // that were looked at last
	away   bool              // the host lacks one of Addrs
	turned bool              // since Turned was asked
	// claimDue says that what is claimed has changed since then.
	claimDue bool
	// has is which virtual addresses the host had when that was looked at.
	has  map[netip.Addr]bool
	told bool // away, when it was asked
}

// Turn is what has changed of what is served.
type Turn struct {
	// Moved says that the host has got or lost an address that counts. Without it services were
	// added or edited.
	Moved        bool
	Served, Away int  // services
	Claim        bool // the plane is to hear what is claimed
}

// isAway reports whether a service is not served now.
func (tb *tables) isAway(s *Service) bool {
	switch w := &tb.standby; {
	case !w.Virtual:
		return w.away
	case s.Mark == 0:
		return !tb.resolver.Local(s.Addr)
	}
	named := tb.index.sets[family(s.IPv6)].Destinations([]uint32{s.Mark})
	return len(named) > 0 && !slices.ContainsFunc(named, tb.resolver.Local)
}

// place serves a service, or has it stand by, as is due now.
func (tb *tables) place(s *Service) {
	away := tb.isAway(s)
	if away == s.away.Load() {
		return
	}
	tb.opener.withDisabled(s, func() {
		s.away.Store(away)
		for _, d := range s.dests {
			tb.index.suspend(d, away)
		}
	})
	tb.standby.claimDue = tb.standby.claimDue || s.Mark == 0 // by a mark it is claimed as before
}

// placeAll does so with all services, if there are times in which they are not served.
func (tb *tables) placeAll() {
	if tb.standby.Limited() {
		for s := range tb.index.Each {
			tb.place(s)
		}
	}
}

// suspend has a real server's connections be the host's, or the director's again.
func (ix *index) suspend(d *Dest, away bool) {
	ix.mirror.collectCounters(d)
	d.available, d.suspended = !away, away
	ix.mirror.pushServer(d)
}

// StandBy looks at the host's addresses for the first time, before anything is claimed.
func (up *Upkeep) StandBy() {
	up.lock()
	defer up.unlock()
	up.look()
	w := &up.standby
	w.turned, w.claimDue, w.told = w.Limited(), w.Limited(), !w.Virtual
	// What was placed while an earlier process's commands were carried out again, the plane has not
	// heard of.
	for s := range up.index.Each {
		for _, d := range s.dests {
			if d.suspended {
				up.index.suspend(d, true)
			}
		}
	}
}

// look looks at the host's addresses, if they have changed.
func (up *Upkeep) look() {
	w := &up.standby
	if l := up.resolver.Locals(); w.Limited() && l != w.locals {
		w.locals = l
		away := slices.ContainsFunc(w.Addrs, func(a netip.Addr) bool { return !up.resolver.Local(a) })
		turned := away != w.away
		w.away = away
		if turned || w.Virtual && up.moved() {
			w.turned = true
			up.placeAll()
		}
	}
}

// outdated reports whether the host's addresses have changed, and what is served has not followed yet.
func (w *standby) outdated(now *dataplane.Locals) bool { return w.Limited() && now != w.locals }

// moved reports whether the host has got or lost a virtual address since it was asked: routes change
// too, and often.
func (up *Upkeep) moved() bool {
	has := map[netip.Addr]bool{}
	for a := range up.index.vips {
		has[a] = up.resolver.Local(a)
	}
	for a := range up.index.markVIPs {
		has[a] = up.resolver.Local(a)
	}
	moved := !maps.Equal(has, up.standby.has)
	up.standby.has = has
	return moved
}

// Turned returns what has changed since it was asked last, or nil.
func (up *Upkeep) Turned() *Turn {
	up.lock()
	defer up.unlock()
	up.look()
	if !up.standby.turned && !up.standby.claimDue {
		return nil
	}
	w := &up.standby
	flipped := w.away != w.told
	t := &Turn{Moved: w.turned, Claim: w.claimDue || flipped}
	w.turned, w.claimDue, w.told = false, false, w.away
	t.Served, t.Away = up.placed()
	return t
}

// placed returns how many services are served and away. The caller holds the lock.
func (up *Upkeep) placed() (served, away int) {
	for s := range up.index.Each {
		if s.away.Load() {
			away++
		} else {
			served++
		}
	}
	return served, away
}

// Placed returns how many services are served now, and how many are away.
func (up *Upkeep) Placed() (served, away int) {
	up.lock()
	defer up.unlock()
	return up.placed()
}

// Serving reports whether the host has While.Addrs.
func (up *Upkeep) Serving() bool {
	up.lock()
	defer up.unlock()
	return !up.standby.away
}

// Answered are the addresses for which the director answers in the host's place while it has
// While.Addrs, sorted.
func (up *Upkeep) Answered() (list []netip.Addr) {
	up.lock()
	defer up.unlock()
	if up.standby.Virtual || up.standby.away {
		return nil
	}
	return up.index.virtual(nil, up.resolver.Local)
}

// awayFrom reports whether a virtual address is not served now.
func (tb *tables) awayFrom(a netip.Addr) bool {
	w := &tb.standby
	return w.away || w.Virtual && !tb.resolver.Local(a)
}

// isAwayVIP reports whether an address is a virtual one that is not served now.
func (tb *tables) isAwayVIP(a netip.Addr) bool {
	return tb.standby.Limited() && tb.index.isVirtual(a) && tb.awayFrom(a)
}

// isVIP reports whether an address is that of a service, or named by a mark
// rule of one, and is served now.
func (tb *tables) isVIP(a netip.Addr) bool {
	return tb.index.isVirtual(a) && !tb.awayFrom(a)
}
