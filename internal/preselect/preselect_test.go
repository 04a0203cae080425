package preselect

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

func newMemory(t *testing.T) *Memory {
	t.Helper()
	m, err := Over(make([]byte, RecordsSize()), make([]byte, SequencesSize()))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// reserve has the service of a number be there again.
func reserve(t *testing.T, m *Memory, number uint32, size int) *Service {
	t.Helper()
	s, ok := m.Reserve(number, size)
	if !ok {
		t.Fatalf("there is no room for %d bytes", size)
	}
	return s
}

func newService(t *testing.T) *Service {
	t.Helper()
	s := reserve(t, newMemory(t), 1, RingSize)
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
			given = taken
			take()
			if rng.IntN(2) == 0 { // the owner's own choice
				last = Pick{uint32(rng.IntN(9)), 5}
			}
			s = reserve(t, s.memory, 1, RingSize)
			s.Open(ByPicks, Form{}, last)
		}
	}
	if taken < 1000 {
		t.Errorf("only %d were taken", taken)
	}
}

// Picks of a cycle come round for ever, whether a ring or another cycle was there before.
func TestCycle(t *testing.T) {
	s := newService(t)
	rng := rand.New(rand.NewPCG(7, 8))
	last := Pick{7, -3}
	for round := range 300 {
		if by, at := s.Close(); by != ByPicks || at != last {
			t.Fatalf("round %d: closed with %d, %v, want %v", round, by, at, last)
		}
		if rng.IntN(3) == 0 {
			s = reserve(t, s.memory, 1, RingSize)
			s.Open(ByPicks, Form{}, last)
			n := rng.IntN(20)
			for i := range n {
				s.Add(i, Pick{uint32(round), int32(i)})
			}
			s.Publish(n)
			for range rng.IntN(n + 1) {
				last, _ = s.Take()
			}
			continue
		}
		list := make([]Pick, 1+rng.IntN([]int{5, Picks - 1}[rng.IntN(2)]))
		for i := range list {
			list[i] = Pick{uint32(round), int32(i)}
		}
		wrap := rng.IntN(len(list))
		s = reserve(t, s.memory, 1, CycleSize(len(list)))
		s.OpenCycle(ByPicks, Form{}, last, list, wrap)
		for i, at := range make([]int, rng.IntN(3000)) {
			if at = i; at >= len(list) {
				at = wrap + (i-wrap)%(len(list)-wrap)
			}
			var ok bool
			if last, ok = s.Take(); !ok || last != list[at] {
				t.Fatalf("round %d: pick %d is %v (%v), want %v: %d, of which %d lead there", round, i, last, ok, list[at], len(list), wrap)
			}
		}
	}
}

// Several take from a cycle, which is closed and opened anew meanwhile: each pick is given once a
// turn.
func TestCycleTakers(t *testing.T) {
	const servers = 7
	m := newMemory(t)
	s := reserve(t, m, 1, CycleSize(servers))
	taker := Service{record: s.record, memory: m}
	var list []Pick
	for i := range servers {
		list = append(list, Pick{Dest: uint32(i)})
	}
	s.OpenCycle(ByPicks, Form{}, Pick{}, list, 0)
	const takers, each = 3, 20_000
	var wg sync.WaitGroup
	var taken [servers]atomic.Int64
	var left atomic.Int64
	left.Store(takers)
	for range takers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer left.Add(-1)
			for n := 0; n < each; {
				if c, ok := taker.Take(); ok {
					taken[c.Dest].Add(1)
					n++
				}
				if n%16 == 0 {
					runtime.Gosched()
				}
			}
		}()
	}
	for left.Load() > 0 {
		_, last := s.Close()
		next := append(slices.Clone(list[(last.Dest+1)%servers:]), list[:(last.Dest+1)%servers]...)
		s = reserve(t, m, 1, CycleSize(servers))
		s.OpenCycle(ByPicks, Form{}, last, next, 0)
		runtime.Gosched()
	}
	wg.Wait()
	least, most := taken[0].Load(), taken[0].Load()
	for i := range taken {
		least, most = min(least, taken[i].Load()), max(most, taken[i].Load())
	}
	// The very first turn begins behind server 0, which nobody had taken.
	if most-least > 2 {
		t.Errorf("of %d servers, one was taken %d times and one %d times", servers, least, most)
	}
}

// Buckets hold what they were given, and whoever reads them sees by the version that they may be
// others'.
func TestBuckets(t *testing.T) {
	m := newMemory(t)
	s := reserve(t, m, 1, BucketsSize(SipBuckets))
	s.SetBuckets(func(i int) uint32 { return uint32(1<<20 + i) })
	s.Open(ByHash|BySip, Form{}, Pick{7, 7})
	was := s.version
	for i, dest := range m.buckets(s.record)[:SipBuckets] {
		if dest != uint32(1<<20+i) {
			t.Fatalf("bucket %d has %d", i, dest)
		}
	}
	if _, ok := s.Take(); ok {
		t.Error("a bucket was taken for a pick")
	}
	if by, _ := s.Close(); by != ByHash|BySip || s.version == was {
		t.Errorf("closed with %d, version %d and %d", by, was, s.version)
	}
	s = reserve(t, m, 1, RingSize)
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
		*s.memory.pick(s.record, 1<<30+2+i) = Pick{i, 0}.pack()
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
	m := newMemory(t)
	s := reserve(t, m, 1, RingSize)
	taker := Service{record: s.record, memory: m}
	s.Open(ByPicks, Form{}, Pick{})
	var stop atomic.Bool
	var wg sync.WaitGroup
	taken := make([][]uint32, 3)
	for i := range taken {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for !stop.Load() {
				if c, ok := taker.Take(); ok {
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
			s = reserve(t, m, 1, RingSize)
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
