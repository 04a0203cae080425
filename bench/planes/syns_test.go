package planes

import (
	"cmp"
	"flag"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/bench/wire"
	"github.com/ulvs/ulvs/internal/shtab"
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
				t.SYN, t.Rate, t.Call = true, rate, 1<<22
			})
			began := time.Now()
			_, err := g.Run(rate * seconds)
			s.must(err)
			took, limit := time.Since(began).Seconds(), 1.02*float64(seconds)
			time.Sleep(100 * time.Millisecond)
			all, err := s.director.Counters()
			s.must(err)
			lost := all["af_xdp_rx_dropped"] + all["af_xdp_rx_ring_full"] + all["af_xdp_tx_dropped"]
			t.Logf("%d SYNs in %.1f s, limit %.1f, of which %d arrived: the program opened %d, Go %d; half-open ones that made room %d; "+
				"without room %d; lost %d, limit 0", g.Sent(), took, limit, sink.Total(), all["opened_by_plane"], all["opened_in_go"],
				all["half_open_evicted"], all["drop_connections_full"]+all["drop_templates_full"], lost)
			if all["opened_by_plane"] < g.Sent()/2 {
				t.Errorf("the program opened %d of %d", all["opened_by_plane"], g.Sent())
			}
			if *judged && took > limit {
				t.Errorf("%d SYNs took %.1f s", g.Sent(), took)
			}
			if *judged && lost > 0 {
				t.Errorf("%d were lost", lost)
			}
		})
	}
}

// TestTwoProcessors has SYNs come in on two processors, of one service and its real servers, and
// says how many connections those open in a second of their time, compared with one. Beside it stands
// what there can be: a service for each processor, so that they share no word that changes, and a program
// that sends all back.
func TestTwoProcessors(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("there is one processor")
	}
	turns, n := 5, uint64(120_000)
	if !*judged {
		turns, n = 1, 8_000
	}
	var shared, apart, bare []float64
	for range turns {
		one := perSYN(t, n, false, 0)
		ratio := func(two time.Duration) float64 { return 2 * float64(one) / float64(two) }
		shared = append(shared, ratio(perSYN(t, n, false, 0, 1)))
		apart = append(apart, ratio(perSYN(t, n, true, 0, 1)))
		bare = append(bare, 2*float64(perBare(t, 4*n, 0))/float64(perBare(t, 4*n, 0, 1)))
	}
	const limit = 1.8
	got, bound := median(shared), median(apart)
	t.Logf("two processors open %.2f times as much as one, limit %.1f; with a service each, which share nothing, %.2f; "+
		"sending all back, %.2f", got, limit, bound, median(bare))
	if *judged && got < min(limit, 0.95*bound) {
		t.Errorf("two processors open %.2f times as much as one: %v, bound %v", got, shared, apart)
	}
}

func median[T cmp.Ordered](list []T) T {
	slices.Sort(list)
	return list[len(list)/2]
}

// perSYN returns the processor time of a connection that the program opens, by the median of some
// thousands each, where so many come in on
// each of some processors at once: for one service, or apart, for one each.
func perSYN(t *testing.T, n uint64, apart bool, cpus ...int) time.Duration {
	s := newStationOn(newBedOf(t, 2), planeXDP, defaultConnections, 0)
	s.sink(wire.SinkOptions{})
	other := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: vip.Addr().Next(), Port: vip.Port()}
	s.must(s.director.AddService(ulvs.Service{ServiceKey: other, Scheduler: "rr"}))
	for _, a := range servers {
		s.must(s.director.AddDestination(other, ulvs.Destination{Addr: a, Port: vip.Port(), Weight: 1}))
	}
	// So few at a time that the rings hold them: what is measured is the program, and not the daemon, for
	// which two busy processors of two leave none.
	const slice = shtab.RingCells / 2
	each := s.onEach(cpus, func(i int, t *wire.Traffic) {
		ever(t)
		t.SYN = true
		if apart && i > 0 {
			t.Service = netip.AddrPortFrom(other.Addr, other.Port)
		}
	})
	var took []time.Duration
	sent, opened, atOnce := uint64(0), uint64(0), uint64(len(cpus))*slice
	for sent < uint64(len(cpus))*n {
		took = append(took, each(slice)/time.Duration(atOnce))
		sent += atOnce
		// Some are Go's, which keep the daemon awake.
		for was := uint64(1); was != opened; time.Sleep(2 * time.Millisecond) {
			was, opened = opened, s.counter("opened_by_plane")
		}
	}
	if opened < sent*9/10 {
		t.Errorf("on processors %v the program opened %d of %d", cpus, opened, sent)
	}
	return median(took)
}

// perBare returns the same of a packet that a program sends back.
func perBare(t *testing.T, n uint64, cpus ...int) time.Duration {
	s := newBedOf(t, 2)
	s.sendBack()
	s.sink(wire.SinkOptions{})
	each := s.onEach(cpus, func(_ int, t *wire.Traffic) {
		ever(t)
		t.Dst = [6]byte(serverOf(0))
	})
	return each(n) / time.Duration(uint64(len(cpus))*n)
}

// onEach returns what sends so many packets on each of some processors at once, and says how much of
// their time that took.
func (s *bed) onEach(cpus []int, change func(i int, t *wire.Traffic)) (each func(n uint64) (all time.Duration)) {
	list := make([]*wire.Generator, len(cpus))
	for i, cpu := range cpus {
		list[i] = s.generate(func(t *wire.Traffic) {
			change(i, t)
			t.CPU, t.Call = cpu, 1<<20
			t.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(20 + i), 0, 0, 0}), 1024)
		})
	}
	return func(n uint64) (all time.Duration) {
		var wg sync.WaitGroup
		var ready atomic.Int32
		took := make([]time.Duration, len(list))
		for i, g := range list {
			wg.Go(func() {
				for ready.Add(1); int(ready.Load()) < len(list); {
					runtime.Gosched()
				}
				var err error
				if took[i], err = g.Run(n); err != nil {
					s.Error(err)
				}
			})
		}
		wg.Wait()
		for _, d := range took {
			all += d
		}
		return all
	}
}
