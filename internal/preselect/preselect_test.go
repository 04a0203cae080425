package preselect

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

func newService(t *testing.T) *Service {
	t.Helper()
	s := new(Service)
	s.Open(ByPicks, Form{Keep: [5]uint64{2}}, Pick{7, -3})
	return s
}

// Choices come out as they were put in, whoever takes them, and each once; what is
// closed was never put in, and the last one that was taken is known.
func TestTurns(t *testing.T) {
	s := newService(t)
	rng := rand.New(rand.NewPCG(1, 2))
	last := Pick{7, -3}
	given, taken := uint32(0), uint32(0)
	take := func() {
		c, ok := s.Take()
		if ok != (taken < given) {
			t.Fatalf("took %v, %v with %d of %d taken", c, ok, taken, given)
		}
		if ok {
			last = c
			if want := (Pick{taken, -int32(taken)}); c != want {
				t.Fatalf("took %v, want %v", c, want)
			}
			taken++
		}
	}
	for range 5000 {
		switch rng.IntN(4) {
		case 0:
			if room := s.Room(); room != Picks-1-int(given-taken) {
				t.Fatalf("room for %d with %d waiting", room, given-taken)
			}
			n := rng.IntN(s.Room() + 1)
			for i := range n {
				s.Add(i, Pick{given, -int32(given)})
				given++
			}
			s.Publish(n)
		case 1:
			for range rng.IntN(2 * Picks) {
				take()
			}
		case 2:
			take()
		case 3:
			if rng.IntN(10) > 0 {
				break
			}
			by, at := s.Close()
			if by != ByPicks || at != last {
				t.Fatalf("closed with %d, %v, want %v", by, at, last)
			}
			if by, at := s.Close(); by != 0 || at != last {
				t.Fatalf("closed again with %d, %v", by, at)
			}
			given = taken
			take()
			if rng.IntN(2) == 0 { // the owner's own choice
				last = Pick{uint32(rng.IntN(9)), 5}
			}
			s.Open(ByPicks, Form{}, last)
		}
	}
	if taken < 1000 {
		t.Errorf("only %d were taken", taken)
	}
}

// Buckets hold what they were given, and whoever reads them sees by the version that they may be
// others'.
func TestBuckets(t *testing.T) {
	s := newService(t)
	s.Close()
	for i := range Buckets {
		s.SetBucket(i, uint16(3*i+1))
	}
	s.Open(ByHash|BySip, Form{}, Pick{7, 7})
	was := s.version
	for i, dest := range s.buckets() {
		if dest != uint16(3*i+1) {
			t.Fatalf("bucket %d has %d", i, dest)
		}
	}
	if _, ok := s.Take(); ok {
		t.Error("a bucket was taken for a pick")
	}
	if by, _ := s.Close(); by != ByHash|BySip || s.version == was {
		t.Errorf("closed with %d, version %d and %d", by, was, s.version)
	}
	s.Open(ByPicks, Form{}, Pick{7, -3})
	if _, last := s.Close(); last != (Pick{7, -3}) {
		t.Errorf("the last is %v", last)
	}
}

// The numbers of the choices start again long before they are all used.
func TestFar(t *testing.T) {
	s := newService(t)
	s.position = (1<<30+5)<<32 | (1<<30 + 2)
	for i := range uint32(3) {
		s.picks[(1<<30+2+i)%Picks] = Pick{i, 0}.pack()
	}
	s.Add(0, Pick{3, 0})
	s.Publish(1)
	if s.position>>32 >= 1<<20 {
		t.Errorf("the numbers go on from %d", s.position>>32)
	}
	for i := range uint32(4) {
		if c, ok := s.Take(); !ok || c.Dest != i {
			t.Errorf("took %v, %v, want %d", c, ok, i)
		}
	}
	if _, ok := s.Take(); ok {
		t.Error("one too many")
	}
}

// Several take, as programs on several CPUs do, while the owner adds and now and then
// ends it: every choice is taken once, or given back.
func TestTakers(t *testing.T) {
	s := new(Service)
	s.Open(ByPicks, Form{}, Pick{})
	var stop atomic.Bool
	var wg sync.WaitGroup
	taken := make([][]uint32, 3)
	for i := range taken {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for !stop.Load() {
				if c, ok := s.Take(); ok {
					taken[i] = append(taken[i], c.Dest)
				}
			}
		}()
	}
	const all = 200_000
	next := uint32(1)
	rng := rand.New(rand.NewPCG(3, 4))
	for next < all {
		n := s.Room()
		for i := range n {
			s.Add(i, Pick{Dest: next + uint32(i)})
		}
		s.Publish(n)
		next += uint32(n)
		if rng.IntN(50) == 0 {
			_, last := s.Close()
			next = last.Dest + 1
			s.Open(ByPicks, Form{}, last)
		}
	}
	for s.Room() < Picks-1 {
	}
	stop.Store(true)
	wg.Wait()
	seen := make(map[uint32]bool)
	for _, list := range taken {
		for i, c := range list {
			if seen[c] || i > 0 && c <= list[i-1] {
				t.Fatalf("%d was taken twice, or after %d", c, list[i-1])
			}
			seen[c] = true
		}
	}
	for c := uint32(1); c < next; c++ {
		if !seen[c] {
			t.Fatalf("%d was lost", c)
		}
	}
}
