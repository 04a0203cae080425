package sched

import "sync/atomic"

// Dest is a real server as schedulers see it: its weight and its connections.
// The same Dest serves again when a removed real server comes back, with the
// connections it still has.
//
// The zero value is a quiescent destination without connections. It is not safe for
// concurrent use: the director's forwarding lock guards it. Where its connections are counted
// elsewhere (Share), others may count beside it. A locked instruction for each count has a new
// connection wait for its lines of memory, so that it is only there.
type Dest struct {
	// ID is the owner's number of it; Addr and Port are the real server's
	// address (an IPv4 address in the first four bytes) and its port in host
	// order; IPv6 is the service's family, by which an address is hashed. They
	// are set before the first use.
	ID   uint32
	Addr [16]byte
	Port uint16
	IPv6 bool

	weight       int32
	templ        int32
	counts       uint64  // of connections: active 32 | inactive 32
	shared       *uint64 // or nil: in the place of counts
	overloaded   bool
	upper, lower uint32
	lastWeight   int32 // the last that was not 0, since it was enlisted
	pos          int   // index in the list of its scheduler; -1 when removed, for those that ask
	held         int   // how often a scheduler remembers it
	kept         *uint32
	watch        func() // or nil: called when it gets overloaded, and when it is so no more
}

// Weight is 0 to 2^31-1.
func (d *Dest) Weight() int32 { return d.weight }

// Quiescent reports a weight of 0: no new connections, those there are go on.
func (d *Dest) Quiescent() bool { return d.weight == 0 }

// LastWeight is the last weight that was not 0 since the destination was enlisted.
func (d *Dest) LastWeight() int32 { return d.lastWeight }

// Overloaded reports that the upper threshold was reached and the connections
// have not yet fallen below the lower one.
func (d *Dest) Overloaded() bool { return d.overloaded }

// Keep has the destination write down whether it is overloaded, as 1 or 0, for
// Recall to take it from there in another process.
func (d *Dest) Keep(at *uint32) { d.kept = at }

// Recall makes the destination overloaded or not, as it was.
func (d *Dest) Recall(kept uint32) { d.overload(kept != 0) }

// Watch has f called whenever the destination has got overloaded, or is so no more.
func (d *Dest) Watch(f func()) { d.watch = f }

func (d *Dest) overload(is bool) {
	was := d.overloaded
	d.overloaded = is
	if d.kept != nil {
		*d.kept = 0
		if is {
			*d.kept = 1
		}
	}
	if was != is && d.watch != nil {
		d.watch()
	}
}

// Limit is of how many connections none may be the last without the destination being asked: the
// upper threshold, 0 if there is none, or 1 while it is overloaded.
func (d *Dest) Limit() uint32 {
	if d.overloaded {
		return 1
	}
	return d.upper
}

// What a word of counts has for a connection, active or inactive.
const (
	ActiveConn   = 1 << 32
	InactiveConn = 1
)

// Share has connections be counted in a word that others read and add to, atomically: 0, or
// with what it has counted so far.
func (d *Dest) Share(at *uint64) { d.shared = at }

// conns returns how many connections there are, of both kinds at one moment. A program moves one
// from one half of the word to the other by a single addition, which may come after Go has taken
// that away: the one half is then less than 0 for a moment, and has borrowed from the other. The
// sum is right all the time.
func (d *Dest) conns() (active, inact int32) {
	n := d.counts
	if d.shared != nil {
		n = atomic.LoadUint64(d.shared)
	}
	inact = int32(uint32(n))
	return int32((n - uint64(int64(inact))) >> 32), inact
}

// BothConns returns ActiveConns and InactConns of one moment.
func (d *Dest) BothConns() (active, inactive uint32) {
	a, i := d.conns()
	return uint32(max(a, 0)), uint32(max(i, 0))
}

// count adds to the word of counts.
func (d *Dest) count(n uint64) {
	if d.shared != nil {
		atomic.AddUint64(d.shared, n)
		return
	}
	d.counts += n
}

func connection(active bool) uint64 {
	if active {
		return ActiveConn
	}
	return InactiveConn
}

// total returns how many connections there are.
func (d *Dest) total() uint32 {
	active, inact := d.conns()
	return uint32(active + inact)
}

func (d *Dest) activeConns() int32 {
	active, _ := d.conns()
	return active
}

// ActiveConns, InactConns and PersistConns are ipvsadm's columns.
func (d *Dest) ActiveConns() uint32 {
	return uint32(max(d.activeConns(), 0))
}

// InactConns are the connections in states that are not active.
func (d *Dest) InactConns() uint32 {
	_, inact := d.conns()
	return uint32(max(inact, 0))
}

// PersistConns are the templates that lead to this destination.
func (d *Dest) PersistConns() uint32 { return uint32(d.templ) }

// Bound is how many connections and templates lead to this destination.
func (d *Dest) Bound() uint32 { return d.total() + uint32(d.templ) }

// Usable reports whether a destination may be chosen: it is not quiescent, and not above
// its upper threshold. It is what rr, wrr and others ask.
func (d *Dest) Usable() bool { return !d.overloaded && d.weight > 0 }

// Held reports that the service's scheduler remembers the destination, though
// it may have been removed: if it comes back, it is to be the same Dest
// (the kernel's references, ip_vs_dest_hold).
func (d *Dest) Held() bool { return d.held > 0 }

// Enlist is Set for a destination that is about to be added, for the first
// time or again: what weight it had before is forgotten.
func (d *Dest) Enlist(weight int32, upper, lower uint32) {
	d.lastWeight = 0
	d.Set(weight, upper, lower)
}

// Set gives the destination its configuration. Overload ends when the upper
// threshold is lifted or raised (ip_vs_ctl.c, __ip_vs_update_dest).
func (d *Dest) Set(weight int32, upper, lower uint32) {
	d.weight = weight
	if weight != 0 {
		d.lastWeight = weight
	}
	if upper == 0 || upper > d.upper {
		d.overload(false)
	}
	d.upper, d.lower = upper, lower
}

// Bind counts a new connection, active or not, or a template, and marks the
// destination overloaded at its upper threshold
// (ip_vs_conn.c, ip_vs_bind_dest).
func (d *Dest) Bind(template, active bool) {
	if template {
		d.templ++
	} else {
		d.count(connection(active))
	}
	d.Counted()
}

// Counted marks the destination overloaded at its upper threshold: what Bind does where others
// have counted the connection.
func (d *Dest) Counted() {
	if d.upper != 0 && d.total() >= d.upper {
		d.overload(true)
	}
}

// Unbind is the end of what Bind counted (ip_vs_conn.c, ip_vs_unbind_dest).
func (d *Dest) Unbind(template, active bool) {
	if template {
		d.templ--
	} else {
		d.count(-connection(active))
	}
	if d.overloaded && d.relieved() {
		d.overload(false)
	}
}

// relieved reports whether a destination that is overloaded is so no more.
func (d *Dest) relieved() bool {
	switch total := uint64(d.total()); {
	case d.lower != 0:
		return total < uint64(d.lower)
	case d.upper != 0:
		return total*4 < uint64(d.upper)*3
	}
	return true
}

// Once counts a connection that is over at once, as Bind and Unbind would: but nobody is told of an
// overload that is over with it.
func (d *Dest) Once() {
	over := d.overloaded || d.upper != 0 && uint64(d.total())+1 >= uint64(d.upper)
	if over = over && !d.relieved(); over != d.overloaded {
		d.overload(over)
	}
}

// Activate moves a connection between the active and the inactive column.
func (d *Dest) Activate(active bool) {
	d.count(connection(active) - connection(!active))
}

// number gives each destination its index in the list, so that a scheduler
// finds what comes after it without a search.
func number(dests []*Dest) {
	for i, d := range dests {
		d.pos = i
	}
}
