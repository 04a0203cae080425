// Package ratelimit decides how often the director answers: with ICMP errors as often
// as the host's kernel would, and with RSTs, which Linux does not limit, by a budget of
// its own.
//
// The kernel first asks a token bucket that all messages share, then one of the
// client's, and takes from the first only if the second has something: so who asks too
// often takes nothing from others (net/ipv4/icmp.c, icmpv4_global_allow and
// icmpv4_xrlim_allow; net/ipv6/icmp.c, icmpv6_global_allow and icmpv6_xrlim_allow;
// net/ipv4/inetpeer.c, inet_peer_xrlim_allow). The kernel limits nothing on lo, where
// no plane takes frames. Older kernels give more to IPv6 clients that they have a route
// with a short prefix to, which is left out here as it is in newer ones.
package ratelimit

import (
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ulvs/ulvs/dataplane"
)

// Message is an ICMP message that is to be sent.
type Message struct {
	To         [16]byte // the client, an IPv4 address in the first four
	IPv6       bool
	Type, Code uint8
}

// Verdict says whether a message may be sent.
type Verdict uint8

const (
	// Allowed: it may.
	Allowed Verdict = iota
	// HostLimit: the client has been sent enough (the kernel's OutRateLimitHost).
	HostLimit
	// GlobalLimit: all clients together have (OutRateLimitGlobal).
	GlobalLimit
)

const (
	// burst is how many messages a client is sent at once (XRLIM_BURST_FACTOR).
	burst = 6
	// peers is how many clients are remembered. Of two in one place the older is
	// forgotten, which gives it a full bucket; the bucket of all bounds what that gives
	// away. At the kernel's defaults 6,000 clients a bucket is less than full of.
	peers = 1 << 13
	// early is how far, in ticks, a caller's clock may be behind another's: batches of
	// packets read it before they wait for their turn.
	early = 256
	// unreachable and fragNeeded are IPv4's ICMP error that is never limited, as are
	// types above lastType (NR_ICMP_TYPES).
	unreachable = 3
	fragNeeded  = 4
	lastType    = 18
)

// peer is the bucket of a client (struct inet_peer).
type peer struct {
	to     [16]byte
	ipv6   bool
	used   bool
	tokens uint32 // ticks
	last   uint32 // tick
}

// Limiter has the buckets. It is safe for concurrent use. Make it with New.
type Limiter struct {
	hz     uint32
	seed   maphash.Seed
	random func(n uint32) uint32

	mu     sync.Mutex // guards all below
	limits limits
	credit int64  // of all clients
	stamp  uint32 // when it was last filled up
	peers  []peer
	resets budget
	// Not sent, by verdict, and RSTs.
	suppressed Suppressed
}

// Suppressed counts what was not sent.
type Suppressed struct{ Host, Global, RSTs uint64 }

// limits are dataplane.ErrorLimits in ticks.
type limits struct {
	dataplane.ErrorLimits
	interval, interval6 uint32
}

// New makes a limiter that keeps to l, and to rsts RSTs a second and interface; 0 is any
// number. A second has hz ticks in all times given to it, and now is the tick at which it
// starts.
func New(l dataplane.ErrorLimits, rsts int, hz, now uint32) *Limiter {
	r := &Limiter{
		hz: hz, seed: maphash.MakeSeed(), random: rand.Uint32N, stamp: now - hz, peers: make([]peer, peers),
		resets: newBudget(rsts, hz),
	}
	r.Set(l)
	return r
}

// Set changes the limits, which hold from the next message on.
func (r *Limiter) Set(l dataplane.ErrorLimits) {
	in := limits{l, ticks(l.Interval, r.hz), ticks(l.Interval6, r.hz)}
	r.mu.Lock()
	r.limits = in
	r.mu.Unlock()
}

// ticks rounds up, as msecs_to_jiffies does.
func ticks(d time.Duration, hz uint32) uint32 {
	const most = time.Hour // so that burst times it is far from 2^31 ticks
	tick := time.Second / time.Duration(hz)
	return uint32((min(max(d, 0), most) + tick - 1) / tick)
}

// Suppressed returns how many answers were not sent so far.
func (r *Limiter) Suppressed() Suppressed {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.suppressed
}

// ICMP says whether a message may be sent at tick now, and counts it.
func (r *Limiter) ICMP(m *Message, now uint32) Verdict {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.limits.cover(m):
		return Allowed
	case !r.globalAllows(now):
		r.suppressed.Global++
		return GlobalLimit
	case !r.peer(m, now).allows(r.limits.of(m), now):
		r.suppressed.Host++
		return HostLimit
	}
	// One on the average; by chance, so that nobody learns from it what others are
	// sent (icmp_global_consume).
	r.credit -= int64(r.random(3))
	return Allowed
}

// cover reports whether a message is limited at all (icmpv4_mask_allow,
// icmpv6_mask_allow).
func (l *limits) cover(m *Message) bool {
	switch {
	case m.IPv6:
		return l.Mask6[m.Type>>6]>>(m.Type&63)&1 != 0
	case m.Type == unreachable && m.Code == fragNeeded:
		return false
	}
	return m.Type <= lastType && l.Mask>>m.Type&1 != 0
}

// of returns the interval of a message's family.
func (l *limits) of(m *Message) uint32 {
	if m.IPv6 {
		return l.interval6
	}
	return l.interval
}

// globalAllows fills the bucket of all clients up, and reports whether something is in
// it (icmp_global_allow).
func (r *Limiter) globalAllows(now uint32) bool {
	if r.credit > 0 {
		return true
	}
	delta := min(elapsed(r.stamp, now), r.hz)
	if delta < r.hz/50 {
		return false
	}
	more := int64(max(r.limits.PerSecond, 0)) * int64(delta) / int64(r.hz)
	if more == 0 {
		return false
	}
	r.stamp = now
	r.credit = min(r.credit+more, int64(r.limits.Burst))
	return true
}

// elapsed returns the ticks from one to another; 0 if that comes a little before.
func elapsed(from, to uint32) uint32 {
	if from-to <= early {
		return 0
	}
	return to - from
}

// peer returns the bucket of a message's client. One that is not remembered is full
// (inet_getpeer).
func (r *Limiter) peer(m *Message, now uint32) *peer {
	p := &r.peers[r.place(m)]
	if !p.used || p.to != m.To || p.ipv6 != m.IPv6 {
		*p = peer{to: m.To, ipv6: m.IPv6, used: true, last: now - 60*r.hz}
	}
	return p
}

// place is where the bucket of a message's client is.
func (r *Limiter) place(m *Message) uint64 {
	h := maphash.Bytes(r.seed, m.To[:])
	if m.IPv6 {
		h = ^h
	}
	return h & (peers - 1)
}

// allows takes a message from the bucket, if it has one (inet_peer_xrlim_allow).
func (p *peer) allows(interval, now uint32) bool {
	if since := elapsed(p.last, now); since > 0 {
		p.tokens += min(since, 1<<30)
		p.last = now
	}
	p.tokens = min(p.tokens, burst*interval)
	if p.tokens < interval {
		return false
	}
	p.tokens -= interval
	return true
}
