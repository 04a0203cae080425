package neigh

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/vishvananda/netlink"
)

// key names a neighbour: an address on a link.
type key struct {
	ifindex int
	addr    netip.Addr
}

// state is the kernel's word about a neighbour (NUD_*), with its link address
// when it has one.
type state struct {
	nud int
	mac dataplane.MAC
	has bool // mac holds an address
}

// usable is NUD_VALID of include/net/neighbour.h: a link address is known,
// and used, also while it is being verified.
const usable = netlink.NUD_PERMANENT | netlink.NUD_NOARP | netlink.NUD_REACHABLE |
	netlink.NUD_PROBE | netlink.NUD_STALE | netlink.NUD_DELAY

func (s state) valid() bool { return s.nud&usable != 0 && s.has }

// entry is a neighbour that hops lead to.
//
//	valid --probe--> PROBE --answer--> valid
//	                   `--FAILED--> ask --answer--> valid
//	                                 `--FAILED--> dead, HoldDown --> idle --want--> ask
type entry struct {
	state
	key  key
	hops []*hop
	// verifyAt is when to probe a valid entry again.
	verifyAt time.Time
	// askedAt is when the kernel was asked to resolve it; zero when it is not
	// being asked.
	askedAt time.Time
	// deadUntil is the end of the time in which a failed neighbour counts as
	// unreachable.
	deadUntil time.Time
}

func newEntry(k key, s state, verify time.Duration) *entry {
	e := &entry{state: s, key: k}
	if s.nud&netlink.NUD_REACHABLE != 0 {
		// Spread, so that a thousand servers are not probed at once.
		e.verifyAt = time.Now().Add(time.Duration(rand.Int64N(int64(verify))))
	}
	return e
}

// patience is how long an answer is waited for before it is assumed that the
// kernel's word about it was lost. The kernel gives up after three seconds,
// unless it was configured otherwise.
const patience = 10 * time.Second

func (e *entry) asking(now time.Time) bool {
	return !e.askedAt.IsZero() && now.Before(e.askedAt.Add(patience))
}

// ask has the kernel resolve e from the beginning. NTF_USE on an entry that
// is absent, incomplete or failed sends a broadcast or multicast at once
// (net/core/neighbour.c, neigh_add and __neigh_event_send), and the kernel
// tells us only the outcome.
func (r *Resolver) ask(e *entry, now time.Time) {
	link := r.snap.Load().links[e.key.ifindex]
	if link.noARP {
		// As arp_constructor does (net/ipv4/arp.c), without notification.
		e.state = state{nud: netlink.NUD_NOARP, mac: link.mac, has: true}
		return
	}
	e.askedAt, e.deadUntil = now, time.Time{}
	e.state = state{nud: netlink.NUD_INCOMPLETE}
	err := r.kernel.NeighSet(&netlink.Neigh{
		LinkIndex: e.key.ifindex,
		Family:    family(e.key.addr),
		Flags:     netlink.NTF_USE,
		State:     netlink.NUD_NONE,
		IP:        net.IP(e.key.addr.AsSlice()),
	})
	if err == nil {
		return
	}
	e.fail(now, r.opt.HoldDown)
	// Frames can make this happen at any rate; the log must not follow.
	if now.Sub(r.complainedAt) > 10*time.Second {
		r.complainedAt = now
		r.log.Warn("neigh: the kernel did not start resolving a neighbour; CAP_NET_ADMIN is needed and the link must be up",
			"addr", e.key.addr, "ifindex", e.key.ifindex, "err", err)
	}
}

// probe has the kernel verify a valid entry by unicast while it stays in use.
// It gives no link address, so the kernel keeps the one that it has: giving
// the one that we know could undo a change that happened just now.
func (r *Resolver) probe(e *entry, now time.Time) {
	e.verifyAt = now.Add(r.opt.Verify)
	err := r.kernel.NeighSet(&netlink.Neigh{
		LinkIndex: e.key.ifindex,
		Family:    family(e.key.addr),
		State:     netlink.NUD_PROBE,
		IP:        net.IP(e.key.addr.AsSlice()),
	})
	if err != nil {
		// Not valid any more, and the notification is on its way or was lost.
		r.ask(e, now)
	}
}

func (e *entry) fail(now time.Time, hold time.Duration) {
	e.state = state{nud: netlink.NUD_FAILED}
	e.askedAt, e.deadUntil = time.Time{}, now.Add(hold)
}

// learn takes the kernel's word about e, and reports whether hops that lead
// there may have to publish something new. Most words say only that a probe
// was sent and answered.
func (r *Resolver) learn(e *entry, s state, now time.Time) bool {
	if s.valid() {
		if !e.valid() {
			e.verifyAt = now.Add(r.opt.Verify)
			if s.nud&netlink.NUD_STALE != 0 {
				e.verifyAt = now
			}
		}
		same := e.valid() && e.mac == s.mac
		e.state, e.askedAt, e.deadUntil = s, time.Time{}, time.Time{}
		return !same
	}
	switch {
	case e.valid():
		// It failed to confirm, or was removed: it may have moved, so ask
		// everyone before giving it up. Frames wait meanwhile.
		r.ask(e, now)
	case s.nud&netlink.NUD_FAILED != 0 && !e.askedAt.IsZero():
		e.fail(now, r.opt.HoldDown)
	default:
		return false
	}
	return true
}

// tick does what is due for e.
func (r *Resolver) tick(e *entry, now time.Time) {
	const steady = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY
	switch {
	case e.valid():
		if e.nud&steady != 0 && !now.Before(e.verifyAt) {
			r.probe(e, now)
		}
	case !e.askedAt.IsZero() && !e.asking(now):
		r.ask(e, now)
	}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}
