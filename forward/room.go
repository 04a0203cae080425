package forward

import (
	"time"
)

// The kernel makes connections and templates as long as there is memory. Here there may be
// so many, and who sends SYNs from addresses that are not his would keep all others out.
// So what nobody has answered makes room: connections that are half-open (conn.HalfOpen),
// the oldest first, and templates that gave none but such. drop_entry is beside this, and
// means what it means to the kernel.

const (
	// From nearFull of a table on, what has waited for its client for hesitation makes room:
	// who loses a SYN or its answer has sent it again by then.
	nearFullNum, nearFullDen = 7, 8
	// quarantineDen is of which part of a table the slots in quarantine are too many to wait
	// for the next Tick.
	quarantineDen = 32
	hesitation    = uint32(3 * time.Second * hz / time.Second)
	// slackDen is which part of what programs may have opened is room beyond that, once room is
	// made for them: else they could open none until the next packet makes some.
	slackDen = 8
	// listDen is from which part of a table on half-open connections are listed in the order in
	// which they come; below half of that they are not, which is cheaper. sweep is how many
	// slots are looked at each time then, for those that came before.
	listDen = 8
	sweep   = 4096
	// evictBudget is how many entries make room under one hold of the lock, beyond those
	// without which a packet would find none.
	evictBudget = 2048
	// evictTries is how often one packet looks for room for a template.
	evictTries = 8
)

func nearFull(max int) int { return max * nearFullNum / nearFullDen }

// makeRoom has entries make room that nobody has answered, before a table is full. The
// caller holds the lock, and the director is started.
func (tb *tables) makeRoom() {
	tb.listHalfOpen()
	conns, templates := tb.conns.Len() > nearFull(tb.conns.Max()), tb.templates.Len() > nearFull(tb.templates.Max())
	if conns {
		tb.makeConnRoom()
	}
	if templates {
		tb.makeTemplateRoom()
	}
	tb.makeSlotRoom()
	if conns || templates {
		tb.opener.update() // programs may open again
	}
	if tb.conns.Quarantined() > tb.conns.Max()/quarantineDen ||
		tb.templates.Quarantined() > tb.templates.Max()/quarantineDen {
		select {
		case tb.settle <- struct{}{}:
		default:
		}
	}
}

// listHalfOpen has half-open connections be listed where they may have to make room.
func (tb *tables) listHalfOpen() {
	c, t := tb.conns, tb.templates
	switch {
	case c.Len()*listDen > c.Max() || t.Len()*listDen > t.Max():
		c.ListHalfOpen(true, c.Now())
		c.SweepHalfOpen(sweep)
	case c.Len()*2*listDen < c.Max() && t.Len()*2*listDen < t.Max():
		c.ListHalfOpen(false, c.Now())
	}
}

// makeSlotRoom has what nobody has answered make room where overflow slots come to an end:
// the entries of a flood may have nearly all, as they came while others were in quarantine,
// and who comes after it needs one if both of his home slots are taken.
func (tb *tables) makeSlotRoom() {
	if tb.conns.Short() {
		for n := tb.spareConns.n; n > 0 && tb.evictHalfOpen(0); n-- {
		}
	}
	if t := tb.templates; t.Short() {
		for n := tb.spareTemplates.n; n > 0 && (t.Evict(false) || t.HalfOpen() > 0 && tb.evictHalfOpen(0)); n-- {
		}
	}
}

func (tb *tables) makeConnRoom() {
	c, margin := tb.conns, tb.opener.margin(tb.conns.Max())
	most := c.Max() - margin
	if c.Len() > most {
		most -= margin / slackDen
	}
	for budget := evictBudget; budget > 0; budget-- {
		age := hesitation
		switch over, short := c.Len() > nearFull(c.Max()), c.Len() > most; {
		case short && c.HalfOpen() > margin:
			age = 0
		case !over:
			return
		}
		if !tb.evictHalfOpen(age) {
			return
		}
	}
}

func (tb *tables) makeTemplateRoom() {
	t, margin := tb.templates, tb.opener.margin(tb.templates.Max())
	most := nearFull(t.Max()) - margin/slackDen
	for budget := evictBudget; budget > 0 && t.Len() > most; budget-- {
		if t.Evict(false) {
			continue
		}
		age := hesitation
		if t.Len() > t.Max()-margin && t.HalfOpen() > margin {
			age = 0
		}
		if t.HalfOpen() == 0 || !tb.evictHalfOpen(age) {
			return
		}
	}
}

// evictHalfOpen ends the half-open connection that came first, if it has had no packet for
// so many ticks.
func (tb *tables) evictHalfOpen(age uint32) bool {
	id, ok := tb.conns.OldestHalfOpen(tb.conns.Now(), age)
	if ok {
		tb.removeConn(id)
		tb.halfOpenEvicted++
	}
	return ok
}

// roomForTemplate makes room for one template in a full table, and reports whether there may
// be some now. Of clients that have answered, one that controls nothing goes where there is no
// other.
func (tb *tables) roomForTemplate() bool {
	t := tb.templates
	return t.Len() >= t.Max() && (t.Evict(false) || t.HalfOpen() > 0 && tb.evictHalfOpen(0) || t.Evict(true))
}

// spare are slots of a table that a plane's programs share, which are kept for when all others
// are taken, or in quarantine: under a flood that is so until the plane has seen the last of
// what made room. They are given so slowly that some are left for whoever comes after the
// flood. The zero value keeps none.
type spare struct {
	n      int
	credit int // of hz for each
	at     uint32
}

const (
	// spareRate is how many spare slots are given in a second at least, of large tables as
	// many as are kept.
	spareRate = 100
	// spareBurst is how many are given at once.
	spareBurst = 4
)

// spareOf is of a table for max entries: most of the room for chance (shtab.Slots), of which
// programs have the rest.
func spareOf(max int) spare { return spare{n: min(max/128+64, max/32)} }

// take reports whether one may be used at a tick.
func (s *spare) take(tick uint32) bool {
	if s.n == 0 {
		return false
	}
	passed := min(tick-s.at, spareBurst*hz)
	s.credit = min(s.credit+int(passed)*max(s.n, spareRate), spareBurst*hz)
	s.at = tick
	if s.credit < hz {
		return false
	}
	s.credit -= hz
	return true
}

// spareConn reports whether a connection may have a spare slot. Where nothing is in
// quarantine there is no flood, but chance.
func (tb *tables) spareConn(tick uint32) bool {
	return tb.conns.Len() < tb.conns.Max() && (!tb.conns.Waiting() || tb.spareConns.take(tick))
}

func (tb *tables) spareTemplate(tick uint32) bool {
	return tb.templates.Len() < tb.templates.Max() && (!tb.templates.Waiting() || tb.spareTemplates.take(tick))
}

// flood is what has been said of entries that make room.
type flood struct {
	evicted uint64
	last    uint32 // when there were some
	on      bool
}

// quietAfter is how long nothing makes room before that is said.
const quietAfter = 60 * hz

// watchFlood returns what there is to say of entries that make room: that it has begun,
// that it has ended, or nil. The caller holds the lock.
func (tb *tables) watchFlood(tick uint32) (say func()) {
	_, unanswered := tb.templates.Evicted()
	fl, n := &tb.flood, tb.halfOpenEvicted+unanswered
	conns, halfOpen, connsSoFar := tb.conns.Len(), tb.conns.HalfOpen(), tb.halfOpenEvicted
	templates := tb.templates.Len()
	switch {
	case n != fl.evicted:
		fl.evicted, fl.last = n, tick
		if fl.on {
			return nil
		}
		fl.on = true
		return func() {
			tb.log.Warn("a table is nearly full: what no client has answered makes room, the oldest first; "+
				"a flood of SYNs does this, or --connections is too small",
				"connections", conns, "half-open", halfOpen, "--connections", tb.conns.Max(),
				"templates", templates, "--templates", tb.templates.Max())
		}
	case fl.on && tick-fl.last >= quietAfter:
		fl.on = false
		return func() {
			tb.log.Info("the tables have room again", "connections", conns, "templates", templates,
				"connections that made room so far", connsSoFar, "templates that did", unanswered)
		}
	}
	return nil
}
