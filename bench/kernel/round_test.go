package kernel

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/ulvs/ulvs/bench/wire"
)

// Packets come in pieces that the rings of all who forward in a time of their own
// hold: a system call each, in the wire's rounds too. Once in a while the kernel leaves
// a veth interface to ksoftirqd, and its ring of 256 frames overflows: the round is then
// begun again.
const (
	piece    = 1024
	surely   = 256
	pieces   = 16 // of each step, in a round
	rounds   = 8
	attempts = 40 // at a round
)

// measure prints a sample for each round of each contender of a load. They take turns,
// and nothing is taken away before the last round.
func measure(t *testing.T, l load) {
	var sites []*site
	for _, c := range contenders {
		if c.takes(l) {
			sites = append(sites, newSite(t, l, c))
		}
	}
	for round := range 1 + rounds { // the first is to warm up
		for _, s := range sites {
			took := s.round()
			if round > 0 {
				fmt.Println(sample{l.name, s.who.name, float64(took) / (pieces * piece)})
			}
		}
	}
}

// round is what a round takes in which no packet was lost, without what the guest does by
// itself in as much time.
func (s *site) round() time.Duration {
	s.Helper()
	for range attempts {
		runtime.GC()
		busy, err := settle()
		s.must(err)
		var lost error
		began := time.Now()
		took, err := during(func() { lost = s.sendAll() })
		s.must(err)
		if lost == nil {
			return took - time.Duration(busy*float64(time.Since(began)))
		}
		s.Logf("a round of %s does not count: %v", s.who.name, lost)
	}
	s.Fatalf("%s lost packets in each of %d rounds", s.who.name, attempts)
	return 0
}

// sendAll sends a round's packets. The error says that not all arrived.
func (s *site) sendAll() error {
	for range pieces {
		for _, g := range s.senders {
			if err := s.send(g, piece); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *site) generator(t wire.Traffic) *wire.Generator {
	s.Helper()
	t.Dst, t.Src = [6]byte(s.director.MAC), [6]byte(s.node.MAC)
	g, err := wire.NewGenerator(s.node, t)
	s.must(err)
	s.Cleanup(g.Close)
	return g
}

// send sends n packets in a call, and waits until the sink has seen them all. The
// error says that it has not.
func (s *site) send(g *wire.Generator, n uint64) error {
	s.Helper()
	total := s.sink.Total()
	_, err := g.Run(n)
	s.must(err)
	return s.sink.Await(total+n, 5*time.Second)
}

// open sends the packets that open a load's connections.
func (s *site) open() {
	s.Helper()
	for _, t := range s.opening() {
		g := s.generator(t)
		for left := uint64(t.Flows); left > 0; {
			n := min(left, surely)
			s.must(s.send(g, n))
			left -= n
		}
	}
}
