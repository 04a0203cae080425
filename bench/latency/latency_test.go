package latency

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// BenchmarkLatency is how long round trips of 64 bytes on an established connection take, and
// connect() until its socket is writable, by percentile in microseconds: undisturbed, and beside
// 20,000 SYNs a second to the same service, listings, and commands about another one. Both ends
// of a connection are one thread's, on a CPU that everybody else leaves alone (probe_test.go),
// but for what the kernel does there for packets. Contenders take turns; figures are the medians
// of rounds, and worst is the worst of all. A limit is judged by the median of the rounds'
// differences.
//
//   - wire: client and real server, without a director
//   - forwarding: a route of the kernel's
//   - bare-native, bare-tcx: a program that writes link addresses and sends back
//   - afpacket, native, tcx: "ulvs run", by kind of service
func BenchmarkLatency(b *testing.B) {
	s := newSite(b, 1<<20)
	part, err := regexp.Compile(*only)
	s.must(err)
	t := &table{site: s, list: s.contenders(part.MatchString), cells: map[string]*cell{}}
	t.run(*rounds, *roundTrips, *connects)
	taken := t.takeovers(*rounds)
	for _, what := range []string{"round-trip", "connect"} {
		for _, l := range loads {
			for _, c := range t.list {
				b.Run(strings.Join([]string{what, l.name, c.name}, "/"), func(b *testing.B) { t.report(b, what, l.name, c.name) })
			}
		}
	}
	for _, r := range taken {
		b.Run("takeover/"+r.plane, func(b *testing.B) { r.report(b) })
	}
}

// table is the contenders, and what they have taken beside each load.
type table struct {
	*site
	list  []*contender
	cells map[string]*cell
}

func (t *table) cell(load, contender string) *cell {
	name := load + "/" + contender
	if t.cells[name] == nil {
		t.cells[name] = new(cell)
	}
	return t.cells[name]
}

// run has contenders take turns, after a short round to warm up that does not count.
func (t *table) run(rounds, roundTrips, connects int) {
	t.Helper()
	for round := range rounds + 1 {
		began := time.Now()
		for _, l := range loads {
			for _, c := range t.list {
				if round == 0 {
					t.turn(l, c, max(1, roundTrips/20), max(1, connects/20))
					continue
				}
				r, at := t.turn(l, c, roundTrips, connects), t.cell(l.name, c.name)
				at.roundTrips, at.connects = append(at.roundTrips, of(r.trips)), append(at.connects, of(r.opened))
				at.done, at.preempted, at.given = append(at.done, r.done), at.preempted+r.preempted, at.given+r.given
			}
		}
		fmt.Printf("# round %d of %d took %v\n", round, rounds, time.Since(began).Round(time.Second))
	}
}

// turn is what a contender has taken in its turn.
type turn struct {
	trips, opened []time.Duration
	done          float64 // how often a second the load has done something
	preempted     int
	given         uint64 // to Go
}

// turn is one contender's. It fails if the packets were not carried by whom they were to be.
func (t *table) turn(l load, c *contender, roundTrips, connects int) (r turn) {
	t.Helper()
	var before uint64
	if c.carried != nil {
		before = c.carried()
	}
	given := c.at.given()
	began, end := time.Now(), l.begin(t.site, c)
	r.preempted = t.probing(c.vip, func(p *probe) (err error) {
		if r.trips, err = p.roundTrips(roundTrips); err != nil {
			return fmt.Errorf("%s beside %s: %w", c.name, l.name, err)
		}
		if r.opened, err = p.connects(connects); err != nil {
			return fmt.Errorf("%s beside %s: %w", c.name, l.name, err)
		}
		return nil
	})
	n := end()
	r.given = c.at.given() - given
	r.done = float64(n) / time.Since(began).Seconds()
	if l.name != undisturbed && n == 0 {
		t.Fatalf("%s: nothing was done beside it", l.name)
	}
	// Of a connection SYN, ACK and RST, and a packet of each round trip at least; a SYN from a port that is
	// used again is Go's.
	if sent := uint64(roundTrips + 3*connects); c.carried != nil && c.carried()-before+r.given < sent {
		t.Fatalf("%s beside %s has carried %d packets of %d", c.name, l.name, c.carried()-before, sent)
	}
	// How many is not asked: ten seconds after an RST a connection is gone, if the machine is busy.
	if c.has != nil && c.has() == 0 {
		t.Fatalf("%s beside %s: its service has no connection, of %d that were just made", c.name, l.name, connects+1)
	}
	return r
}

// takeovers are the worst round trips, in microseconds, while a daemon with XDP is replaced by
// another, from before the next one begins until after it is ready.
type takeovers struct {
	plane string
	worst []float64
}

// takeovers has each daemon with XDP be replaced a number of times, in turns.
func (t *table) takeovers(n int) (list []*takeovers) {
	t.Helper()
	var who []*contender
	for _, c := range t.list {
		if c.xdp && !slices.ContainsFunc(who, func(o *contender) bool { return o.at == c.at }) {
			who, list = append(who, c), append(list, &takeovers{plane: c.at.name})
		}
	}
	for range n {
		for i, c := range who {
			list[i].worst = append(list[i].worst, float64(t.takeover(c))/float64(time.Microsecond))
		}
	}
	return list
}

// takeover is the worst round trip of one.
func (t *table) takeover(c *contender) (worst time.Duration) {
	t.Helper()
	var trips uint64
	begin, end := make(chan bool), make(chan error, 1)
	go func() {
		<-begin
		err := c.at.start("--takeover")
		time.Sleep(margin)
		end <- err
	}()
	before := c.carried()
	t.probing(c.vip, func(p *probe) (err error) {
		failed := p.converse(func(d time.Duration) bool {
			if trips++; trips == 1 {
				close(begin)
			}
			worst = max(worst, d)
			select {
			case err = <-end:
				return false
			default:
				return true
			}
		})
		return errors.Join(failed, err)
	})
	if now := c.carried(); now-before < trips {
		t.Fatalf("%s has carried %d packets of %d at a takeover", c.name, now-before, trips)
	}
	return worst
}

// margin is how long a takeover is watched after it.
const margin = 50 * time.Millisecond
