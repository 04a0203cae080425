package sched

// Dest is a real server as schedulers see it: its weight and its connections.
// The same Dest serves again when a removed real server comes back, with the
// connections it still has.
//
// The zero value is a quiescent destination without connections. It is not safe for
// concurrent use: the director's forwarding lock guards it, and a locked instruction
// for each count would have a new connection wait for its lines of memory.
type Dest struct {
	// ID is the owner's number of it; Addr and Port are the real server's
	// address (an IPv4 address in the first four bytes) and its port in host
	// order; IPv6 is the service's family, by which an address is hashed. They
	// are set before the first use.
	ID   uint32
	Addr [16]byte
	Port uint16
	IPv6 bool

	weight               int32
	active, inact, templ int32
	overloaded           bool
	upper, lower         uint32
	lastWeight           int32 // the last that was not 0, since it was enlisted
	pos                  int   // index in the list of its scheduler; -1 when removed, for those that ask
	held                 int   // how often a scheduler remembers it
	kept                 *uint32
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

func (d *Dest) overload(is bool) {
	d.overloaded = is
	if d.kept == nil {
		return
	}
	*d.kept = 0
	if is {
		*d.kept = 1
	}
}

// ActiveConns, InactConns and PersistConns are ipvsadm's columns.
func (d *Dest) ActiveConns() uint32 { return uint32(d.active) }

// InactConns are the connections in states that are not active.
func (d *Dest) InactConns() uint32 { return uint32(d.inact) }

// PersistConns are the templates that lead to this destination.
func (d *Dest) PersistConns() uint32 { return uint32(d.templ) }

// Bound is how many connections and templates lead to this destination.
func (d *Dest) Bound() uint32 { return uint32(d.active + d.inact + d.templ) }

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
	switch {
	case template:
		d.templ++
	case active:
		d.active++
	default:
		d.inact++
	}
	if d.upper != 0 && uint32(d.active+d.inact) >= d.upper {
		d.overload(true)
	}
}

// Unbind is the end of what Bind counted (ip_vs_conn.c, ip_vs_unbind_dest).
func (d *Dest) Unbind(template, active bool) {
	switch {
	case template:
		d.templ--
	case active:
		d.active--
	default:
		d.inact--
	}
	if !d.overloaded {
		return
	}
	total := uint64(uint32(d.active + d.inact))
	switch {
	case d.lower != 0:
		if total < uint64(d.lower) {
			d.overload(false)
		}
	case d.upper != 0:
		if total*4 < uint64(d.upper)*3 {
			d.overload(false)
		}
	default:
		d.overload(false)
	}
}

// Activate moves a connection between the active and the inactive column.
func (d *Dest) Activate(active bool) {
	if active {
		d.active++
		d.inact--
	} else {
		d.active--
		d.inact++
	}
}

// number gives each destination its index in the list, so that a scheduler
// finds what comes after it without a search.
func number(dests []*Dest) {
	for i, d := range dests {
		d.pos = i
	}
}
