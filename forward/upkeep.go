package forward

import (
	"math/rand/v2"
	"time"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/persist"
)

// Upkeep is what is done in time, and in the background.
type Upkeep struct{ *tables }

// Tick does what is due at time now without a packet, as far as it is done under the
// lock: expiry, the estimator's round, the trash. claimDue says that the plane is to hear
// what is claimed now. Settle does the rest.
func (up *Upkeep) Tick(now time.Duration) (claimDue bool, gone []*Dest, shed bool) {
	tick := tickOf(now)
	up.now.Store(tick)
	for more := true; more; {
		up.lock()
		more = up.advance(tick)
		up.unlock()
	}
	for left, more := mostReopened, true; more && left > 0; left -= reopenedAtOnce {
		up.lock()
		more = up.opener.reopen(reopenedAtOnce) || up.opener.retry(reopenedAtOnce)
		up.unlock()
	}
	up.syncServers(tick)
	up.estimate(tick)
	lost := up.crossings.lossesOf()
	var say func()
	defer func() {
		if say != nil {
			say()
		}
	}()
	up.lock()
	defer up.unlock()
	up.crossings.settle(lost)
	up.makeRoom()
	say = up.watchFlood(tick)
	up.index.mirror.heartbeat(tick)
	up.setContents()
	shed = up.defense.due(tick) && up.defend()
	up.opener.update()
	gone = up.index.emptyTrash(tick)
	for _, dst := range gone {
		up.parkedLost += dst.hop.Lost()
	}
	return up.claimDue, gone, shed
}

// syncServers tells the plane where real servers are now.
func (up *Upkeep) syncServers(tick uint32) {
	const some = 4096
	for at, more := 0, true; more; at += some {
		up.lock()
		dests := up.index.dests[min(at, len(up.index.dests)):]
		up.index.mirror.syncServers(dests[:min(some, len(dests))], tick)
		more = len(dests) > some
		up.unlock()
	}
}

// estimate carries out the estimator's round, if it is due.
func (up *Upkeep) estimate(tick uint32) {
	up.lock()
	due, runs := int32(tick-*up.nextEst) >= 0, up.sysctl.RunEstimation != 0
	up.unlock()
	if !due {
		return
	}
	if runs {
		eachInParts(up.tables, up.index.estimate)
	}
	up.lock()
	defer up.unlock()
	if runs {
		up.index.estimateTotal()
	}
	up.claimDue = up.index.settleLeaving() || up.claimDue
	*up.nextEst = tick + estimatorPeriod
}

// Of services of which a real server has got overloaded, or is so no more, or for which there was no
// room, so many are opened again with each tick, and so many while packets wait.
const mostReopened, reopenedAtOnce = 128, 4

// SetErrorLimits changes how often ICMP errors are sent.
func (up *Upkeep) SetErrorLimits(l dataplane.ErrorLimits) { up.limiter.Set(l) }

// Shed ends entries as drop_entry has it (ip_vs_random_dropentry).
func (up *Upkeep) Shed(now time.Duration) { up.shed(tickOf(now)) }

// Due says that so many slots wait to be used again that Settle is due before the next Tick.
func (up *Upkeep) Due() <-chan struct{} { return up.settle }

// Settle gives back what nobody needs any more: the next hops of real servers that have
// left the trash, and the slots of what has ended.
func (up *Upkeep) Settle(gone []*Dest) {
	for _, dst := range gone {
		up.resolver.Release(dst.hop)
	}
	up.freeRetired()
}

// freeRetired gives back the slots of connections and templates that ended, once the
// plane has seen the last of them.
func (up *Upkeep) freeRetired() {
	up.lock()
	conns, templates := up.conns.Retired(), up.templates.Retired()
	inserted, some := up.crossings.serial, len(up.crossings.fresh) > 0
	up.unlock()
	if len(conns)+len(templates) == 0 && !some {
		return
	}
	if err := up.index.mirror.grace(); err != nil {
		up.log.Error("slots of connections and templates that ended cannot be used again", "slots", len(conns)+len(templates), "err", err)
		return
	}
	up.lock()
	up.conns.Free(conns)
	up.templates.Free(templates)
	up.crossings.graced = inserted
	up.unlock()
}

// shed looks at a thirty-second part of all entries, chosen at random, and ends
// those that are worth least (ip_vs_conn.c, ip_vs_random_dropentry).
func (up *Upkeep) shed(now uint32) {
	const chunk = 256
	up.lock()
	conns, templates := up.conns.Slots(), up.templates.Slots()
	up.unlock()
	each := func(slots int, f func(i uint32)) {
		for left := slots / 32; left > 0; left -= chunk {
			up.lock()
			for range min(left, chunk) {
				f(rand.Uint32N(uint32(slots)))
			}
			up.unlock()
		}
	}
	each(conns, func(i uint32) {
		id := conn.ID(i)
		if !up.conns.Live(id) {
			return
		}
		switch up.conns.Worth(id) {
		case conn.Keep:
			return
		case conn.IfStale:
			if !up.defense.takesIdle(up.conns.Idle(id, now), up.conns.Packets(id)) {
				return
			}
		}
		ct := up.conns.Template(id)
		up.removeConn(id)
		up.shedCount++
		// What it leaves without a connection goes too, unless assured.
		if t := persist.ID(ct - 1); ct != 0 && up.templates.Controls(t) == 0 && !up.templates.Assured(t) {
			up.templates.Remove(t)
		}
	})
	each(templates, func(i uint32) {
		id := persist.ID(i)
		if !up.templates.Live(id) || up.templates.Controls(id) > 0 {
			return
		}
		if up.index.dests[up.templates.Dest(id)].svc.OnePacket {
			if !up.defense.takesIdle(up.templates.Idle(id, now), up.templates.Packets(id)) {
				return
			}
		} else if up.templates.Assured(id) {
			return
		}
		up.templates.Remove(id)
		up.shedCount++
	})
}

// SweepNoDest ends every connection and template whose real server is gone, with
// expire_nodest_conn; the kernel does so in the background
// (ip_vs_conn.c, ip_vs_expire_nodest_conn_flush).
func (up *Upkeep) SweepNoDest() {
	up.lock()
	on := up.sysctl.ExpireNodestConn != 0
	up.unlock()
	if !on {
		return
	}
	const chunk = 4096
	for at, more := conn.ID(0), true; more; {
		up.lock()
		at, more = up.conns.Each(at, chunk, func(id conn.ID) {
			if up.index.dests[up.conns.Dest(id)].gone() {
				up.removeConn(id)
			}
		})
		up.unlock()
	}
	for at, more := persist.ID(0), true; more; {
		up.lock()
		at, more = up.templates.Each(at, chunk, func(id persist.ID) {
			if up.templates.Controls(id) == 0 && up.index.dests[up.templates.Dest(id)].gone() {
				up.templates.Remove(id)
			}
		})
		up.unlock()
	}
}
