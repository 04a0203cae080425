package sched

import (
	"slices"
	"time"
)

// locality remembers, for lblc and lblcr, which destinations served a virtual
// address (ip_vs_lblc.c, ip_vs_lblcr.c: the table and its periodic timer).
//
// What it forgets, and when, depends on the kernel's buckets: once a minute a
// table of more than localityMax entries sheds those that were unused for six
// minutes, going round the buckets from where it last stopped until it has
// shed enough; and every half hour in which that did not happen, those that
// were unused for the time of expiration. A recency cache would shed others,
// so this is a table of its own.
//
// The kernel's timer starts with the service, this one with its first packet. And
// the kernel remembers as many as clients can make in six minutes; here a bucket has
// a bound, beyond which the address that was unused for the longest time gives way.
type locality struct {
	buckets    [localitySize]*place
	entries    int
	rover      int // the bucket looked at last
	checks     int // since the last check for expiration
	due        time.Duration
	last       time.Duration
	expiration time.Duration
}

const (
	localityBits = 10
	localitySize = 1 << localityBits
	localityMax  = 16 * localitySize
	// localityChain is the most that a bucket remembers: where addresses are spread
	// evenly, four times what the kernel begins to shed at.
	localityChain = 64

	checkInterval   = time.Minute
	checksForExpiry = 30
	staleAfter      = 6 * time.Minute

	// DefaultExpiration is after how long lblc and lblcr forget
	// (lblc_expiration, lblcr_expiration).
	DefaultExpiration = 24 * time.Hour
)

// local is what lblc and lblcr have in common: the destinations, numbered so that
// one that was removed is known, and what is remembered of them.
type local struct {
	list
	locality
}

func newLocal(dests []*Dest) local {
	number(dests)
	return local{list{dests}, newLocality()}
}

// Added implements Scheduler.
func (s *local) Added(dests []*Dest, _ *Dest) {
	s.dests = dests
	number(dests)
}

// Removed implements Scheduler.
func (s *local) Removed(dests []*Dest, d *Dest) {
	s.Added(dests, nil)
	d.pos = -1
}

// place is a virtual address and what served it. lblc has one server in a
// place, lblcr any number, the latest last.
type place struct {
	next    *place
	addr    [16]byte
	servers []*Dest
	used    time.Duration
	changed time.Duration // when servers did
}

func newLocality() locality { return locality{checks: 1, expiration: DefaultExpiration} }

// visit is the place of a request's virtual address, or nil. It brings the
// table to the request's time first.
func (l *locality) visit(r *Request) *place {
	l.advance(r.Now)
	p := l.find(r)
	if p != nil {
		p.used = r.Now
	}
	return p
}

func (l *locality) find(r *Request) *place {
	for p := l.buckets[localityBucket(r)]; p != nil; p = p.next {
		if p.addr == r.Virtual {
			return p
		}
	}
	return nil
}

// add makes a place that visit did not find.
func (l *locality) add(r *Request, d *Dest) {
	head := &l.buckets[localityBucket(r)]
	l.makeRoom(head)
	p := &place{next: *head, addr: r.Virtual, used: r.Now}
	p.join(d, r.Now)
	*head = p
	l.entries++
}

// makeRoom forgets the place of a full bucket that was unused for the longest time.
func (l *locality) makeRoom(head **place) {
	n, oldest := 0, head
	for at := head; *at != nil; at = &(*at).next {
		if n++; (*at).used < (*oldest).used {
			oldest = at
		}
	}
	if n < localityChain {
		return
	}
	p := *oldest
	*oldest = p.next
	p.free()
	l.entries--
}

func localityBucket(r *Request) uint32 {
	return multiplicative(fold(&r.Virtual, r.IPv6), localityBits)
}

// join and leave keep count of who is held.
func (p *place) join(d *Dest, now time.Duration) {
	p.servers = append(p.servers, d)
	p.changed = now
	d.held++
}

func (p *place) leave(d *Dest, now time.Duration) {
	if i := slices.Index(p.servers, d); i >= 0 {
		p.servers = slices.Delete(p.servers, i, i+1)
		p.changed = now
		d.held--
	}
}

// advance does the checks that are due by now.
func (l *locality) advance(now time.Duration) {
	if now < l.last || l.due == 0 {
		// A clock that went back says nothing about ages: all are new.
		for _, p := range l.buckets {
			for ; p != nil; p = p.next {
				p.used, p.changed = now, now
			}
		}
		l.due = now + checkInterval
	}
	l.last = now
	for ; now >= l.due; l.due += checkInterval {
		l.check(l.due)
	}
}

// check is one firing of the kernel's timer (ip_vs_lblc_check_expire).
func (l *locality) check(now time.Duration) {
	switch {
	case l.checks%checksForExpiry == 0:
		l.shed(now-l.expiration, l.entries+1)
		l.checks = 1
	case l.entries <= localityMax:
		l.checks++
	default:
		goal := min((l.entries-localityMax)*4/3, localityMax/2)
		l.shed(now-staleAfter, goal)
	}
}

// shed drops places last used by then, bucket by bucket, until goal are gone.
func (l *locality) shed(then time.Duration, goal int) {
	for range l.buckets {
		l.rover = (l.rover + 1) % localitySize
		for at := &l.buckets[l.rover]; *at != nil; {
			p := *at
			if p.used > then {
				at = &p.next
				continue
			}
			*at = p.next
			p.free()
			l.entries--
			goal--
		}
		if goal <= 0 {
			return
		}
	}
}

func (p *place) free() {
	for _, d := range p.servers {
		d.held--
	}
}

// SetExpiration implements Forgetful.
func (l *locality) SetExpiration(t time.Duration) { l.expiration = t }

// Close implements Closer.
func (l *locality) Close() {
	for i, p := range l.buckets {
		for ; p != nil; p = p.next {
			p.free()
		}
		l.buckets[i] = nil
	}
	l.entries = 0
}
