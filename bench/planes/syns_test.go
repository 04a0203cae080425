package planes

import (
	"flag"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ulvs/ulvs/bench/wire"
)

var judged = flag.Bool("load", false, "judge how many SYNs a second are opened: alone on a machine (make load)")

// defaultConnections is --connections of "ulvs run".
const defaultConnections = 1 << 20

// TestSYNRate has 250,000 clients a second ask for a connection, for a minute. Each is half-open, so
// that the daemon makes room all the time, and none may be lost: what finds no room is counted.
func TestSYNRate(t *testing.T) {
	rate, seconds := uint64(250_000), uint64(60)
	if !*judged {
		rate, seconds = 20_000, 1
	}
	for _, p := range []struct {
		name        string
		persistence time.Duration
	}{{"rr", 0}, {"rr -p 300", 5 * time.Minute}} {
		t.Run(p.name, func(t *testing.T) {
			s := newStation(t, planeXDP, defaultConnections, p.persistence)
			sink := s.sink(wire.SinkOptions{})
			g := s.generate(func(t *wire.Traffic) {
				ever(t)
				t.SYN, t.Rate, t.Call = true, rate, uint32(rate)
			})
			began := time.Now()
			_, err := g.Run(rate * seconds)
			s.must(err)
			took := time.Since(began).Seconds()
			time.Sleep(100 * time.Millisecond)
			all, err := s.director.Counters()
			s.must(err)
			lost := all["af_xdp_rx_dropped"] + all["af_xdp_rx_ring_full"] + all["af_xdp_tx_dropped"]
			t.Logf("%d SYNs in %.0f s, of which %d arrived: the program opened %d, Go %d; half-open ones that made room %d; "+
				"without room %d; lost %d, limit 0", g.Sent(), took, sink.Total(), all["opened_by_plane"], all["opened_in_go"],
				all["half_open_evicted"], all["drop_connections_full"]+all["drop_templates_full"], lost)
			if all["opened_by_plane"] < g.Sent()/2 {
				t.Errorf("the program opened %d of %d", all["opened_by_plane"], g.Sent())
			}
			if *judged && lost > 0 {
				t.Errorf("%d were lost", lost)
			}
		})
	}
}

// TestTwoProcessors has SYNs come in on two processors, of one service and its real servers, and
// says how many connections those open in a second of their time, compared with one.
func TestTwoProcessors(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("there is one processor")
	}
	turns, n := 5, uint64(100_000)
	if !*judged {
		turns, n = 1, 10_000
	}
	var figures []float64
	for range turns {
		one := perSYN(t, n, 0)
		figures = append(figures, 2*float64(one)/float64(perSYN(t, n, 0, 1)))
	}
	slices.Sort(figures)
	const limit = 1.8
	t.Logf("two processors open %.2f times as much as one, limit %.1f", figures[turns/2], limit)
	if *judged && figures[turns/2] < limit {
		t.Errorf("two processors open %.2f times as much as one", figures[turns/2])
	}
}

// perSYN returns the processor time of a connection that the program opens, where so many come in on
// each of some processors at once.
func perSYN(t *testing.T, n uint64, cpus ...int) time.Duration {
	s := newStationOn(newBedOf(t, 2), planeXDP, defaultConnections, 0)
	s.sink(wire.SinkOptions{})
	var wg sync.WaitGroup
	took := make([]time.Duration, len(cpus))
	for i, cpu := range cpus {
		g := s.generate(func(t *wire.Traffic) {
			ever(t)
			t.SYN, t.CPU, t.Call = true, cpu, uint32(n)
			t.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(20 + i), 0, 0, 0}), 1024)
		})
		wg.Go(func() {
			var err error
			if took[i], err = g.Run(n); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	opened := s.counter("opened_by_plane")
	if opened < uint64(len(cpus))*n/2 {
		t.Errorf("on processors %v the program opened %d of %d", cpus, opened, uint64(len(cpus))*n)
	}
	all := time.Duration(0)
	for _, d := range took {
		all += d
	}
	return all / time.Duration(opened)
}
