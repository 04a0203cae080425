package director

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/forward"
)

// conflicts finds other hosts that answer for virtual addresses: the best-known mistake of direct
// routing is a real server that does. Each virtual address is asked for now and then; who answers
// is counted, and said once for each host.
type conflicts struct {
	all   []netip.Addr // to be asked for in this turn
	asked int          // how many of them were
	count int          // of virtual addresses, a tick ago
	next  time.Duration
	seen  []conflict // that are to be said, or not, when they are old enough
	said  map[conflictKey]bool
	since time.Duration // when the first of them was said
	// own are the link addresses of this host, as they were at ownAt.
	own   []net.HardwareAddr
	ownAt time.Duration
}

type conflict struct {
	forward.Conflict
	at time.Duration
}

type conflictKey struct {
	addr netip.Addr
	mac  dataplane.MAC
}

const (
	// askEach is how often each virtual address is asked for, and askAtOnce how many in a
	// tick, so that thousands are no burst.
	askEach   = time.Minute
	askSoon   = time.Second
	askAtOnce = 10
	// conflictAge is how long an address has to be served after somebody else answered for it
	// until that is said: the master of a pair hears of the next one a moment before it is told
	// that it is none any more.
	conflictAge = time.Second
	// mostSaid is how many hosts are named in an hour: a stranger can invent as many as he likes.
	mostSaid  = 16
	saidAgain = time.Hour
	// mostSeen bounds those that are not old enough.
	mostSeen = 1000
)

// ask asks for some virtual addresses, if it is time, and says who answered.
func (s *standby) ask(now time.Duration) {
	c := &s.conflicts
	// New ones are asked for soon.
	if n := s.path.Upkeep.CountVirtual(); n != c.count {
		c.count, c.next = n, min(c.next, now+askSoon)
	}
	if now >= c.next && c.asked >= len(c.all) {
		c.all, c.asked, c.next = s.path.Upkeep.Virtual(c.all[:0]), 0, now+askEach
	}
	for n := 0; n < askAtOnce && c.asked < len(c.all); n++ {
		s.path.Upkeep.Ask(c.all[c.asked])
		c.asked++
	}
	for _, found := range s.path.Upkeep.Conflicts() {
		if len(c.seen) < mostSeen {
			c.seen = append(c.seen, conflict{found, now})
		}
	}
	c.seen = slices.DeleteFunc(c.seen, func(x conflict) bool {
		if now < x.at+conflictAge {
			return false
		}
		s.tell(x, now)
		return true
	})
}

// tell counts that another host answers for an address that is still served, unless it is one of
// this host's own interfaces, and says so where it was not named before.
func (s *standby) tell(x conflict, now time.Duration) {
	if s.own(x.MAC, now) || !s.path.Upkeep.Confirm(x.Conflict) {
		return
	}
	c, k := &s.conflicts, conflictKey{x.Addr, x.MAC}
	if c.said == nil || now >= c.since+saidAgain {
		c.said, c.since = map[conflictKey]bool{}, now
	}
	if c.said[k] || len(c.said) >= mostSaid {
		return
	}
	c.said[k] = true
	s.log.Warn("another host answers for a virtual address, and gets its packets: on a real server, "+
		advice(x.Addr), "address", x.Addr, "at", net.HardwareAddr(x.MAC[:]).String(),
		"interface", s.resolver.LinkName(x.In))
}

// advice is what to type on a host that answers for an address it should not answer for.
func advice(a netip.Addr) string {
	if a.Is6() {
		return fmt.Sprintf("have the address on lo alone (ip -6 addr add %v/128 dev lo)", a)
	}
	return "sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"
}

// ownEach is how often this host's link addresses are read at most.
const ownEach = 10 * time.Second

// own reports whether a link address is one of this host's, also of an interface that the plane does
// not have.
func (s *standby) own(mac dataplane.MAC, now time.Duration) bool {
	c := &s.conflicts
	if c.own == nil || now >= c.ownAt+ownEach {
		c.own, c.ownAt = []net.HardwareAddr{}, now
		list, _ := net.Interfaces() // without, the plane's own are known
		for _, i := range list {
			c.own = append(c.own, i.HardwareAddr)
		}
	}
	return slices.ContainsFunc(c.own, func(a net.HardwareAddr) bool { return slices.Equal(a, mac[:]) })
}
