package ratelimit_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/ratelimit"
)

const hz = 250

// portUnreachable is one to client number n.
func portUnreachable(n int) *ratelimit.Message {
	m := &ratelimit.Message{Type: 3, Code: 3}
	binary.BigEndian.PutUint32(m.To[:], uint32(n))
	return m
}

func portUnreachable6(n int) *ratelimit.Message {
	m := &ratelimit.Message{IPv6: true, Type: 1, Code: 4}
	binary.BigEndian.PutUint64(m.To[8:], uint64(n))
	return m
}

// mean has every message take one from the bucket of all.
func mean(l *ratelimit.Limiter) *ratelimit.Limiter {
	l.SetRandom(func(uint32) uint32 { return 1 })
	return l
}

// sent counts what may be sent of n at once.
func sent(l *ratelimit.Limiter, m *ratelimit.Message, n int, now uint32) (sent int) {
	for range n {
		if l.ICMP(m, now) == ratelimit.Allowed {
			sent++
		}
	}
	return sent
}

func want(t *testing.T, what string, got, want int) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %d, want %d", what, got, want)
	}
}

// The kernel's defaults: a client is sent six errors at once and one a second after; the
// bucket that all share has 50, and gets 1,000 a second.
func TestDefaults(t *testing.T) {
	l := mean(ratelimit.New(dataplane.DefaultErrorLimits(), 0, hz, 1000))
	want(t, "to one client", sent(l, portUnreachable(1), 100, 1000), 6)
	want(t, "in the same second", sent(l, portUnreachable(1), 100, 1000+hz-1), 0)
	want(t, "a second later", sent(l, portUnreachable(1), 100, 1000+hz), 1)
	want(t, "of IPv6", sent(l, portUnreachable6(1), 100, 1000+hz), 6)
	want(t, "to one client, long after", sent(l, portUnreachable(1), 100, 1<<20), 6)
	all := 0
	for n := range 1000 {
		all += sent(l, portUnreachable(10+n), 1, 2<<20)
	}
	// What was left, and then a full bucket: it is filled up when it is empty.
	want(t, "to a thousand clients", all, 50-6-1-6-6+50)
	got := l.Suppressed()
	if got.Host != 94+100+99+94+94 || got.Global != 919 || got.RSTs != 0 {
		t.Errorf("not sent: %+v", got)
	}
	all = 0
	for n := range 10_000 { // 10 s of them
		all += sent(l, portUnreachable(5000+n), 1, 3<<20+uint32(n)/4)
	}
	if all < 9950 || all > 10_050 {
		t.Errorf("of 10,000 in 10 s %d were sent", all)
	}
	all = 0
	for n := range 100_000 { // ten times as many
		all += sent(l, portUnreachable(20_000+n), 1, 4<<20+uint32(n)/40)
	}
	if all < 9950 || all > 10_100 {
		t.Errorf("of 100,000 in 10 s %d were sent", all)
	}
}

// What the masks and the kernel leave out is not limited, and takes nothing from what is.
func TestNotLimited(t *testing.T) {
	lim := dataplane.DefaultErrorLimits()
	for _, tt := range []struct {
		name    string
		m       ratelimit.Message
		limited bool
	}{
		{"host unreachable", ratelimit.Message{Type: 3, Code: 1}, true},
		{"fragmentation needed", ratelimit.Message{Type: 3, Code: 4}, false},
		{"time exceeded", ratelimit.Message{Type: 11}, true},
		{"echo reply", ratelimit.Message{Type: 0}, false},
		{"a type that is none", ratelimit.Message{Type: 35}, false},
		{"IPv6: unreachable", ratelimit.Message{IPv6: true, Type: 1, Code: 3}, true},
		{"IPv6: packet too big", ratelimit.Message{IPv6: true, Type: 2}, false},
		{"IPv6: time exceeded", ratelimit.Message{IPv6: true, Type: 3}, true},
		{"IPv6: parameter problem", ratelimit.Message{IPv6: true, Type: 4, Code: 1}, true},
		{"IPv6: echo reply", ratelimit.Message{IPv6: true, Type: 129}, false},
	} {
		l := mean(ratelimit.New(lim, 0, hz, 1))
		if got := sent(l, &tt.m, 1000, 1); (got < 1000) != tt.limited {
			t.Errorf("%s: %d of 1000 were sent", tt.name, got)
		}
		want(t, tt.name+": left for others", sent(l, portUnreachable(7), 10, 1), 6)
	}
	lim.Mask, lim.Mask6 = 1, [4]uint64{2: 1 << 1} // echo replies alone
	l := mean(ratelimit.New(lim, 0, hz, 1))
	want(t, "errors", sent(l, portUnreachable(1), 1000, 1), 1000)
	want(t, "echo replies", sent(l, &ratelimit.Message{}, 1000, 1), 6)
	want(t, "echo replies of IPv6", sent(l, &ratelimit.Message{IPv6: true, Type: 129}, 1000, 1), 6)
}

// Without an interval only all together are limited; with 0 a second nothing is sent.
func TestSet(t *testing.T) {
	l := mean(ratelimit.New(dataplane.ErrorLimits{}, 0, hz, 1))
	want(t, "nothing is limited", sent(l, portUnreachable(1), 1000, 1), 1000)
	lim := dataplane.DefaultErrorLimits()
	lim.Interval = 0
	l.Set(lim)
	want(t, "no interval", sent(l, portUnreachable(1), 1000, 1), 50)
	lim.PerSecond, lim.Burst = 10, 4
	l.Set(lim)
	want(t, "ten a second", sent(l, portUnreachable(1), 1000, 1+hz), 4)
	lim.PerSecond = 0
	l.Set(lim)
	want(t, "none a second", sent(l, portUnreachable(1), 1000, 1+10*hz), 0)
	lim = dataplane.DefaultErrorLimits()
	lim.Interval = 100 * time.Millisecond
	l.Set(lim)
	want(t, "every 100 ms", sent(l, portUnreachable(2), 1000, 1+20*hz), 6)
	want(t, "every 100 ms, a second later", sent(l, portUnreachable(2), 1000, 1+21*hz), 6)
	want(t, "every 100 ms, 300 ms later", sent(l, portUnreachable(2), 1000, 1+21*hz+75), 3)
}

// Whoever asks too often takes nothing from others.
func TestOthers(t *testing.T) {
	l := mean(ratelimit.New(dataplane.DefaultErrorLimits(), 0, hz, 1))
	want(t, "one client", sent(l, portUnreachable(1), 100_000, 1), 6)
	for n := range 7 {
		want(t, "another", sent(l, portUnreachable(100+n), 10, 1), 6)
	}
}

// What goes from the bucket of all goes by chance, and is one on the average.
func TestChance(t *testing.T) {
	lim := dataplane.DefaultErrorLimits()
	lim.Interval, lim.PerSecond, lim.Burst = 0, 1_000_000, 100_000
	l := ratelimit.New(lim, 0, hz, 1)
	got := sent(l, portUnreachable(1), 1_000_000, 1)
	if got < 98_000 || got > 102_000 || got == 100_000 {
		t.Errorf("%d messages used up 100,000", got)
	}
}

// A budget of RSTs for each interface.
func TestRST(t *testing.T) {
	rsts := func(l *ratelimit.Limiter, ifindex, n int, now uint32) (sent int) {
		for range n {
			if l.RST(ifindex, now) {
				sent++
			}
		}
		return sent
	}
	l := ratelimit.New(dataplane.ErrorLimits{}, 1000, hz, 1)
	want(t, "at once", rsts(l, 2, 10_000, 1), 100)
	want(t, "of another interface", rsts(l, 3, 10_000, 1), 100)
	total := 0
	for tick := range uint32(10 * hz) {
		total += rsts(l, 2, 100, 2+tick)
	}
	want(t, "in ten seconds", total, 10_000)
	want(t, "after a pause", rsts(l, 2, 10_000, 100*hz), 100)
	if got := l.Suppressed(); got.RSTs != 3*10_000-300+10*hz*100-10_000 || got.Host+got.Global != 0 {
		t.Errorf("not sent: %+v", got)
	}
	want(t, "a clock that is a little behind", rsts(l, 2, 1, 100*hz-10), 0)
	want(t, "without a budget", rsts(ratelimit.New(dataplane.ErrorLimits{}, 0, hz, 1), 2, 10_000, 1), 10_000)
	l = ratelimit.New(dataplane.ErrorLimits{}, 3, hz, 1)
	total = 0
	for tick := range uint32(10 * hz) {
		total += rsts(l, 2, 1, 1+tick)
	}
	want(t, "three a second, for ten", total, 30)
}

// slow does the same tick by tick, with a map; of two clients in one place it remembers
// the latter too, since that is what the kernel's memory is, made small.
type slow struct {
	lim     dataplane.ErrorLimits
	now     uint32
	credit  int
	since   int // ticks since the bucket of all was filled up
	clients map[uint64]*slowClient
	random  func() int
}

type slowClient struct {
	m      ratelimit.Message
	tokens int
}

func (s *slow) advance(to uint32) {
	for ; s.now != to; s.now++ {
		s.since++
		for _, c := range s.clients {
			c.tokens++
		}
	}
}

func (s *slow) icmp(m *ratelimit.Message, place uint64) ratelimit.Verdict {
	interval := int(s.lim.Interval.Milliseconds()+3) / 4
	limited := s.lim.Mask>>m.Type&1 != 0 && !(m.Type == 3 && m.Code == 4)
	if m.IPv6 {
		interval = int(s.lim.Interval6.Milliseconds()+3) / 4
		limited = s.lim.Mask6[m.Type/64]>>(m.Type%64)&1 != 0
	}
	if !limited {
		return ratelimit.Allowed
	}
	if s.credit <= 0 {
		ticks := min(s.since, hz)
		more := s.lim.PerSecond * ticks / hz
		if ticks < hz/50 || more == 0 {
			return ratelimit.GlobalLimit
		}
		s.since = 0
		s.credit = min(s.credit+more, s.lim.Burst)
	}
	key := *m
	key.Type, key.Code = 0, 0
	c := s.clients[place]
	if c == nil || c.m != key {
		c = &slowClient{m: key, tokens: 60 * hz}
		s.clients[place] = c
	}
	c.tokens = min(c.tokens, 6*interval)
	if c.tokens < interval {
		return ratelimit.HostLimit
	}
	c.tokens -= interval
	s.credit -= s.random()
	return ratelimit.Allowed
}

func TestAgainstOracle(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, seed))
			draw := func() *rand.Rand { return rand.New(rand.NewPCG(2, seed)) }
			limits := func() dataplane.ErrorLimits {
				l := dataplane.DefaultErrorLimits()
				l.Interval = time.Duration(rng.IntN(30)*rng.IntN(100)) * time.Millisecond
				l.Interval6 = time.Duration(rng.IntN(30)*rng.IntN(100)) * time.Millisecond
				l.PerSecond, l.Burst = rng.IntN(2000), rng.IntN(100)
				if rng.IntN(4) == 0 {
					l.Mask = rng.Uint32()
					l.Mask6[0] = rng.Uint64()
				}
				return l
			}
			now := uint32(1<<32 - 5000) // the tick wraps on the way
			lim := limits()
			l, mine, theirs := ratelimit.New(lim, 0, hz, now), draw(), draw()
			l.SetRandom(mine.Uint32N)
			s := &slow{lim: lim, now: now, since: hz, clients: map[uint64]*slowClient{},
				random: func() int { return int(theirs.Uint32N(3)) }}
			var count [3]int
			clients := 1 + rng.IntN(20_000) // more than there are places, at times
			for step := range 15_000 {
				switch rng.IntN(2000) {
				case 0:
					now += uint32(rng.IntN(2 * hz))
				case 1:
					lim = limits()
					l.Set(lim)
					s.lim = lim
				default:
					now += uint32(rng.IntN(8) / 7)
				}
				m := portUnreachable(rng.IntN(clients))
				if rng.IntN(3) == 0 {
					m = portUnreachable6(rng.IntN(clients))
				}
				if rng.IntN(5) == 0 {
					m.Type, m.Code = uint8(rng.IntN(19)), uint8(rng.IntN(6))
				}
				s.advance(now)
				got, want := l.ICMP(m, now), s.icmp(m, l.Place(m))
				if got != want {
					t.Fatalf("step %d, tick %d, %+v, limits %+v: %d, want %d", step, now, m, lim, got, want)
				}
				count[got]++
			}
			if count[ratelimit.Allowed] == 0 || count[ratelimit.HostLimit]+count[ratelimit.GlobalLimit] == 0 {
				t.Errorf("%v: the test does not test", count)
			}
			if got := l.Suppressed(); got.Host != uint64(count[1]) || got.Global != uint64(count[2]) {
				t.Errorf("counted %+v, want %v", got, count)
			}
		})
	}
}

// A clock that is a little behind gives nothing, and one that was not looked at for half
// of its range takes nothing.
func TestClock(t *testing.T) {
	l := mean(ratelimit.New(dataplane.DefaultErrorLimits(), 0, hz, 1000))
	want(t, "at first", sent(l, portUnreachable(1), 10, 1000), 6)
	want(t, "before that", sent(l, portUnreachable(1), 10, 995), 0)
	want(t, "at the same time", sent(l, portUnreachable(1), 10, 1000), 0)
	want(t, "100 days later", sent(l, portUnreachable(1), 10, 1000+1<<31+1), 6)
}

// Millions of clients take no more memory than one, and nothing is allocated.
func TestNoAllocation(t *testing.T) {
	lim := dataplane.DefaultErrorLimits()
	lim.PerSecond, lim.Burst = 1<<30, 1<<30
	l := ratelimit.New(lim, 1000, hz, 1)
	l.RST(2, 1)
	m, n := portUnreachable6(0), uint64(0)
	var now uint32
	if allocs := testing.AllocsPerRun(100, func() {
		now++
		for range 10_000 {
			n++
			binary.BigEndian.PutUint64(m.To[8:], n)
			l.ICMP(m, now)
			l.RST(2, now)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}
