package director

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/forward"
)

// While says while what a director serves: it is one of a pair, of which the other one serves
// meanwhile. What is not served has its connections kept, whose packets are dropped; all else is the
// host's. The zero value is always.
type While struct {
	// Addrs are addresses: all is served while the host has all of them, as a VRRP router has
	// that is master.
	Addrs []netip.Addr
	// Virtual has each virtual address be served while the host has it, as kernel IPVS does, and
	// answers for none in the host's place. A service by mark is served while the host has one of
	// the addresses that the mark rules name. Addrs are ignored then.
	Virtual bool
}

func (w While) forward() forward.While {
	if w.Virtual {
		return forward.While{Virtual: true}
	}
	return forward.While{Addrs: w.Addrs}
}

// standby is what becomes of a director that serves at times. Its methods are Tick's.
type standby struct {
	*Director
	while While
	// announced are the addresses for which the director answers in the host's place and has said
	// so, counted how many virtual addresses there were then, and again when it is to say so
	// again; 0: not.
	announced []netip.Addr
	counted   int
	again     time.Duration
	// unclaimed says that the plane has not taken what is claimed now: it was refused, and is
	// tried at claimAt.
	unclaimed, refused bool
	claimAt            time.Duration
	conflicts          conflicts
}

// follow does what is due when what is served has changed.
func (s *standby) follow(now time.Duration) {
	t := s.path.Upkeep.Turned()
	if t != nil {
		if t.Claim {
			s.unclaimed, s.refused, s.claimAt = true, false, now
		}
		if t.Moved {
			s.say(t)
		}
	}
	if s.unclaimed && now >= s.claimAt {
		s.claim(now)
	}
	if len(s.while.Addrs) > 0 && !s.while.Virtual {
		s.announce(now, t != nil && t.Moved)
	}
	s.ask(now)
}

// claim tells the plane what is claimed, again and again until it takes that: an interface may have
// vanished at the same time.
func (s *standby) claim(now time.Duration) {
	err := s.effects.claim()
	if err != nil && !s.refused {
		s.log.Error("the host cannot be kept from the services' packets, and may answer them too", "err", err)
	}
	s.unclaimed, s.refused, s.claimAt = err != nil, err != nil, now+time.Second
}

// say logs what is served now.
func (s *standby) say(t *forward.Turn) {
	switch {
	case s.while.Virtual:
		s.log.Info("services whose address the host has are served, others stand by", "served", t.Served, "standing_by", t.Away)
	case t.Served > 0 || t.Away == 0 && s.path.Upkeep.Serving():
		s.log.Info("serving: the host has the address", "while_address", addresses(s.while.Addrs))
	default:
		s.log.Info("standing by: the host has not the address", "while_address", addresses(s.while.Addrs))
	}
}

func addresses(list []netip.Addr) string {
	words := make([]string, len(list))
	for i, a := range list {
		words[i] = a.String()
	}
	return strings.Join(words, ",")
}

// announceAgain is after what time it is said again at which link address the director answers, as
// keepalived does by default (vrrp_garp_master_delay).
const announceAgain = 5 * time.Second

// announce tells the neighbours of addresses for which the director answers: of all when the host has
// got the address, and of those that are new then; and of all once more after a while.
func (s *standby) announce(now time.Duration, moved bool) {
	n, repeat := s.path.Upkeep.CountVirtual(), s.again != 0 && now >= s.again
	if !moved && !repeat && n == s.counted {
		return
	}
	if moved {
		s.announced = nil
	}
	answered := s.path.Upkeep.Answered()
	var fresh []netip.Addr
	for _, a := range answered {
		if !slices.Contains(s.announced, a) {
			fresh = append(fresh, a)
		}
	}
	list := fresh
	if repeat {
		s.again, list = 0, answered
	}
	if len(fresh) > 0 {
		s.again = now + announceAgain
	}
	s.announced, s.counted = answered, n
	s.path.Upkeep.Announce(list)
}

// facts say what is served now.
func (s *standby) facts() []ulvs.Fact {
	switch {
	case s.while.Virtual:
		served, away := s.path.Upkeep.Placed()
		return []ulvs.Fact{{Name: "while-address", Value: fmt.Sprintf("auto: %d services are served, "+
			"%d stand by as the host has not their address", served, away)}}
	case len(s.while.Addrs) == 0:
		return nil
	case s.path.Upkeep.Serving():
		return []ulvs.Fact{{Name: "while-address", Value: addresses(s.while.Addrs) + ": serving, the host has it"}}
	}
	return []ulvs.Fact{{Name: "while-address", Value: addresses(s.while.Addrs) + ": standing by, the host has it not"}}
}
