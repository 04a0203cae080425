package neigh

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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

// entry is a neighbour that hops lead to. The kernel's table decides about it, while it
// has it:
//
//	valid --probe--> PROBE --answer--> valid
//	                   `--FAILED--> ask --answer--> valid
//	                                 `--FAILED--> dead, HoldDown --> idle --want--> ask
//
// The kernel may throw it out, for strangers' sake or by hand, and may refuse to ask for
// it. What was known holds then, and we ask (solicit.go):
//
//	valid --vanish--> own, ask --the kernel's word--> valid
//	                    `--refused, silent--> solicit --answer--> own --Verify--> solicit
//	                                            `--none--> dead
type entry struct {
	state
	key  key
	hops []*hop
	// verifyAt is when to probe a valid entry again.
	verifyAt time.Time
	// askedAt is when the kernel was asked to resolve it; zero when it is not
	// being asked.
	askedAt time.Time
	// joined is set if the kernel was asking before us: when it fails, it is asked once more.
	joined bool
	// silent is set from when e has failed until it has an address, and hiddenAt is when it was
	// asked last without our address.
	silent   bool
	hiddenAt time.Time
	// deadUntil is the end of the time in which a failed neighbour counts as
	// unreachable.
	deadUntil time.Time
	// own is set while the link address is one that the kernel's table does not have.
	own bool
	// tries counts our own questions since the last answer, askNext is when the next one
	// is due, zero when none is, and solicitedAt was the last one.
	tries                int
	askNext, solicitedAt time.Time
	movedAt              time.Time // mac is another since then
}

func newEntry(k key, s state, verify time.Duration) *entry {
	e := &entry{state: s, key: k, joined: s.nud&netlink.NUD_INCOMPLETE != 0}
	if s.nud&netlink.NUD_REACHABLE != 0 {
		// Spread, so that a thousand servers are not probed at once.
		e.verifyAt = time.Now().Add(time.Duration(rand.Int64N(int64(verify))))
	}
	return e
}

// patience is how long the kernel's word is waited for before it is assumed that it was
// lost. The kernel gives up after three seconds, unless it was configured otherwise.
const patience = 4 * time.Second

// heard reports whether answers on the wire matter to e.
func (e *entry) heard() bool {
	return e.own || !e.askNext.IsZero() || !e.askedAt.IsZero() && e.solicitedAt.After(e.askedAt)
}

// asking reports whether the kernel or the wire is being asked for e.
func (e *entry) asking() bool { return !e.askedAt.IsZero() || !e.askNext.IsZero() }

// settle ends all questions: there is an answer, to be verified at a time.
func (e *entry) settle(verifyAt time.Time) {
	e.askedAt, e.askNext, e.deadUntil, e.tries = time.Time{}, time.Time{}, time.Time{}, 0
	e.verifyAt = verifyAt
}

// resolve has e resolved from the beginning: frames wait for an address.
func (r *Resolver) resolve(e *entry, now time.Time) {
	e.state, e.own = state{nud: netlink.NUD_INCOMPLETE}, false
	r.ask(e, everybody, now)
}

// vanish goes on with e's address although the kernel has thrown it out.
func (r *Resolver) vanish(e *entry, now time.Time) {
	e.own = true
	r.kept.Add(1)
	r.ask(e, everybody, now)
}

// ask has the kernel resolve e. NTF_USE on an entry that is absent, incomplete or failed
// sends a broadcast or multicast at once (net/core/neighbour.c, neigh_add and
// __neigh_event_send), and the kernel tells us only the outcome. It refuses where its
// table is full (neigh_alloc), and then we ask, beginning with the try-th question.
func (r *Resolver) ask(e *entry, try int, now time.Time) {
	link := r.snap.Load().links[e.key.ifindex]
	if link.noARP {
		// As arp_constructor does (net/ipv4/arp.c), without notification.
		e.state, e.own = state{nud: netlink.NUD_NOARP, mac: link.mac, has: true}, false
		e.settle(now)
		return
	}
	e.settle(now)
	err := r.setNeighbor(&netlink.Neigh{
		LinkIndex: e.key.ifindex,
		Family:    family(e.key.addr),
		Flags:     netlink.NTF_USE,
		State:     netlink.NUD_NONE,
		IP:        net.IP(e.key.addr.AsSlice()),
	})
	if err == nil {
		e.askedAt = now
		return
	}
	r.solicit(e, try, now)
	if !e.askNext.IsZero() {
		r.complain(&r.fullAt, now, "the kernel does not resolve a next hop, so ulvs asks for it itself; if its table is full, "+
			"raise net.ipv4.neigh.default.gc_thresh3 (or net.ipv6's)", "addr", e.key.addr, "ifindex", e.key.ifindex, "err", err)
	}
}

// probe has the kernel verify a valid entry by unicast while it stays in use.
// It gives no link address, so the kernel keeps the one that it has: giving
// the one that we know could undo a change that happened just now.
func (r *Resolver) probe(e *entry) error {
	return r.setNeighbor(&netlink.Neigh{
		LinkIndex: e.key.ifindex,
		Family:    family(e.key.addr),
		State:     netlink.NUD_PROBE,
		IP:        net.IP(e.key.addr.AsSlice()),
	})
}

// A neighbour is asked by unicast as often as the kernel does (ucast_solicit), if there
// is an address to be verified, and then by broadcast or multicast (mcast_solicit), a
// second apart (retrans_time_ms): in turn without our address, which the kernel gives, and
// with it.
const (
	everybody  = 3 // the first try that is
	tries      = 6
	retransmit = time.Second
)

// solicit asks e's neighbour on the wire, the try-th time, unless it was asked less than
// retransmit ago or too many were: it is done later then. Who has not answered the last
// one has failed.
func (r *Resolver) solicit(e *entry, try int, now time.Time) {
	e.askedAt, e.tries = time.Time{}, try
	if try >= tries {
		e.fail(now, r.opt.HoldDown)
		return
	}
	if next := e.solicitedAt.Add(retransmit); now.Before(next) {
		e.askNext = next
		return
	}
	if e.askNext = now; !r.budget.take(now) {
		return
	}
	link := r.snap.Load().links[e.key.ifindex]
	q := question{anonymous: try%2 == everybody%2 && e.mayHide(now)}
	if try < everybody && e.valid() {
		q.at = &e.mac
	}
	err := r.askWire(e.key, &link, q)
	if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EAGAIN) {
		e.fail(now, r.opt.HoldDown)
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
			return // the interface is gone, and the route will be too
		}
		// Frames can make this happen at any rate; the log must not follow.
		r.complain(&r.complainedAt, now, "a next hop cannot be asked for its address; CAP_NET_ADMIN or CAP_NET_RAW is needed and the link must be up",
			"addr", e.key.addr, "ifindex", e.key.ifindex, "err", err)
		return
	}
	e.solicitedAt, e.tries, e.askNext = now, try+1, now.Add(retransmit)
	if q.anonymous {
		e.hiddenAt = now
	}
}

// mayHide reports whether e may be asked without our address now. Who has failed is seldom asked
// so: a host that comes back takes such a question for another's claim to its address (RFC 5227,
// 2.1.1).
func (e *entry) mayHide(now time.Time) bool {
	const seldom = 30 * time.Second
	return !e.silent || now.Sub(e.hiddenAt) >= seldom
}

// assist asks e's neighbour beside the kernel, whose first question had no answer: with a full
// table of its own, it answers none that gives a sender.
func (r *Resolver) assist(e *entry, now time.Time) {
	if r.wire == nil || !e.mayHide(now) || now.Before(e.solicitedAt.Add(retransmit)) || !r.budget.take(now) {
		return
	}
	link := r.snap.Load().links[e.key.ifindex]
	_ = r.askWire(e.key, &link, question{anonymous: true}) // the kernel's word is due in any case
	e.solicitedAt, e.hiddenAt = now, now
}

// complain logs at most each ten seconds.
func (r *Resolver) complain(last *time.Time, now time.Time, text string, args ...any) {
	if now.Sub(*last) > 10*time.Second {
		*last = now
		r.log.Warn(text, args...)
	}
}

// budget bounds how many questions are sent a second, to all neighbours together.
type budget struct {
	left int
	at   time.Time
}

const questions = 1000 // a second

func (b *budget) take(now time.Time) bool {
	if more := int(min(now.Sub(b.at), time.Second) * questions / time.Second); more > 0 {
		b.left, b.at = min(b.left+more, questions), now
	}
	if b.left == 0 {
		return false
	}
	b.left--
	return true
}

func (e *entry) fail(now time.Time, hold time.Duration) {
	e.settle(now)
	e.state, e.own, e.silent = state{nud: netlink.NUD_FAILED}, false, true
	e.deadUntil = now.Add(hold)
}

// learn takes the kernel's word about e, and reports whether hops that lead
// there may have to publish something new. Most words say only that a probe
// was sent and answered. removed says that the kernel has e no more.
func (r *Resolver) learn(e *entry, s state, removed bool, now time.Time) bool {
	if s.valid() && !removed {
		verifyAt := e.verifyAt
		if !e.valid() || e.own {
			verifyAt = now.Add(r.opt.Verify)
			if s.nud&netlink.NUD_STALE != 0 {
				verifyAt = now
			}
		}
		same := e.valid() && e.mac == s.mac
		e.state, e.own, e.silent = s, false, false
		e.settle(verifyAt)
		return !same
	}
	failed := s.nud&netlink.NUD_FAILED != 0 && !removed
	switch {
	case e.own:
		if failed || removed {
			if e.askedAt.IsZero() {
				return false // it was not asked: we do so
			}
			r.solicit(e, everybody, now)
		}
	case e.valid() && failed && e.nud&netlink.NUD_PROBE != 0:
		// It may have moved, so ask everyone before giving it up. Frames wait meanwhile.
		// Its own table may be full, so that it does not answer the kernel.
		if r.resolve(e, now); r.wire != nil {
			r.solicit(e, everybody, now)
		}
	case e.valid():
		// It has not failed: it was removed, by hand or to make room.
		r.vanish(e, now)
	case failed && !e.askedAt.IsZero() && e.joined:
		e.joined = false
		r.resolve(e, now)
	case failed && !e.askedAt.IsZero():
		e.fail(now, r.opt.HoldDown)
	case removed && !e.askedAt.IsZero():
		r.solicit(e, everybody, now)
	default:
		return false
	}
	return true
}

// tick does what is due for e.
func (r *Resolver) tick(e *entry, now time.Time) {
	const steady = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY
	switch {
	case !e.askedAt.IsZero():
		switch passed := now.Sub(e.askedAt); {
		case passed >= patience:
			r.solicit(e, everybody, now)
		case passed >= retransmit:
			r.assist(e, now)
		}
	case !e.askNext.IsZero():
		if !now.Before(e.askNext) {
			r.solicit(e, e.tries, now)
		}
	case !e.valid() || e.nud&steady == 0 || now.Before(e.verifyAt):
	case e.own:
		r.verify(e, now)
	default:
		if e.verifyAt = now.Add(r.opt.Verify); r.probe(e) != nil {
			// Not valid any more, and the notification is on its way or was lost.
			r.vanish(e, now)
		}
	}
}

// verify asks whether e, which the kernel's table does not have, is there still: the
// kernel, if it can, so that it is the kernel's again.
func (r *Resolver) verify(e *entry, now time.Time) {
	if r.probe(e) != nil {
		r.ask(e, 0, now)
		return
	}
	e.settle(now)
	e.askedAt = now // it has e after all, and will say so
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}
