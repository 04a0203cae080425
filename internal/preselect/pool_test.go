package preselect

import (
	"math/rand/v2"
	"testing"
)

// owned is the obvious way to know whose the pool's memory is: by the unit, 0 is nobody's.
type owned [Pool / Unit]int32

// blockOf is how many units a block has for a sequence.
func blockOf(size int) int {
	n := 1
	for n*Unit < size {
		n *= 2
	}
	return n
}

// Services get memory, and give it back, at random: none has any of another's, and whenever
// nothing is found for one, there is no such block among those that nobody has. In the end it is
// whole again.
func TestSpace(t *testing.T) {
	p, rng := newSpace(), rand.New(rand.NewPCG(1, 2))
	units := new(owned)
	type block struct {
		at   uint32
		size int
	}
	has := map[int32]block{}
	var numbers []int32
	taken, full := 0, 0
	give := func(i int) {
		n := numbers[i]
		b := has[n]
		for u := range blockOf(b.size) {
			units[int(b.at)/Unit+u] = 0
		}
		p.give(b.at, b.size)
		delete(has, n)
		numbers[i] = numbers[len(numbers)-1]
		numbers = numbers[:len(numbers)-1]
		taken -= blockOf(b.size)
	}
	sizes := []int{1, 32, 64, 65, 200, 1024, 2048, 4000, RingSize, BucketsSize(SipBuckets), Largest}
	for step := range int32(45_000) {
		// It fills, and empties again, a few times.
		if filling := step/9000%2 == 0; len(numbers) > 0 && rng.IntN(4) == 0 == filling {
			give(rng.IntN(len(numbers)))
			continue
		}
		b := block{size: sizes[rng.IntN(len(sizes))]}
		if rng.IntN(2) == 0 {
			b.size = sizes[len(sizes)-1-rng.IntN(3)]
		}
		n := blockOf(b.size)
		var ok bool
		if b.at, ok = p.take(b.size); !ok {
			full++
			for at := 0; at < len(units); at += n {
				if !used(units[at : at+n]) {
					t.Fatalf("step %d: nothing was found of %d bytes, and %d is nobody's", step, b.size, at*Unit)
				}
			}
			continue
		}
		if int(b.at)%(n*Unit) != 0 || int(b.at)+n*Unit > Pool {
			t.Fatalf("step %d: %d bytes at %d", step, b.size, b.at)
		}
		for u := range n {
			if whose := &units[int(b.at)/Unit+u]; *whose != 0 {
				t.Fatalf("step %d: %d bytes at %d are those of %d", step, b.size, b.at, *whose)
			} else {
				*whose = step + 1
			}
		}
		has[step] = b
		numbers = append(numbers, step)
		taken += n
		if want := Pool - taken*Unit; p.left != want {
			t.Fatalf("step %d: %d bytes are left, want %d", step, p.left, want)
		}
	}
	if full < 100 {
		t.Errorf("it was full %d times", full)
	}
	for len(numbers) > 0 {
		give(len(numbers) - 1)
	}
	for range Pool / Largest {
		if _, ok := p.take(Largest); !ok {
			t.Fatal("it is not whole again")
		}
	}
}

func used(units []int32) bool {
	for _, whose := range units {
		if whose != 0 {
			return true
		}
	}
	return false
}

// There is room for what the documents promise.
func TestPoolRoom(t *testing.T) {
	for _, c := range []struct {
		what       string
		size, room int
	}{
		{"rr of six real servers", CycleSize(7), Services},
		{"rr of sixty", CycleSize(61), Services},
		{"sh", BucketsSize(256), Services / 2},
		{"mh", BucketsSize(SipBuckets), 2048},
		{"wlc of 128", ServersSize(MostCompared), 1 << 14},
		{"rings", RingSize, 4096},
	} {
		m, n := newMemory(t), 0
		for ; n < Services; n++ {
			if _, ok := m.Reserve(uint32(n), c.size); !ok {
				break
			}
		}
		if n != c.room {
			t.Errorf("of %s there is room for %d, want %d", c.what, n, c.room)
		}
	}
}

// What another process has left is closed, wherever it says that its picks are, and all of the pool
// is free then.
func TestCloseAll(t *testing.T) {
	m := newMemory(t)
	for n := range uint32(100) {
		s := reserve(t, m, n, CycleSize(2))
		s.OpenCycle(ByPicks, Form{}, Pick{}, []Pick{{Dest: n, Current: 3}, {Dest: 1000}}, 0)
		for range n % 2 {
			s.Take()
		}
	}
	s := reserve(t, m, 200, BucketsSize(256))
	s.Open(ByHash, Form{}, Pick{})
	m.records[99].at = 1<<32 - 1
	next := &Memory{records: m.records, pool: m.pool, space: newSpace()}
	closed := map[int]Pick{}
	next.CloseAll(func(n int, last Pick) { closed[n] = last })
	delete(closed, 99)
	if len(closed) != 99 || closed[7] != (Pick{Dest: 7, Current: 3}) || closed[8] != (Pick{}) {
		t.Errorf("%d were open: %v and %v", len(closed), closed[7], closed[8])
	}
	for n := range m.records {
		if m.records[n].by != 0 {
			t.Fatalf("%d is still open", n)
		}
	}
	if next.Left() != Pool {
		t.Errorf("%d bytes are left", next.Left())
	}
}

// What a program has read as the position, or as the version, of an opening is not that of another one,
// whatever was taken in either: by that it sees that the sequence may be another service's.
func TestNothingComesBack(t *testing.T) {
	m, rng := newMemory(t), rand.New(rand.NewPCG(5, 6))
	positions, versions := map[uint64]int{}, map[uint32]int{}
	for opening := range 2000 {
		see := func(s *Service) {
			if was, seen := positions[s.position]; seen && was != opening {
				t.Fatalf("position %#x is that of opening %d and of %d", s.position, was, opening)
			}
			positions[s.position] = opening
			if was, seen := versions[s.version]; seen && was != opening {
				t.Fatalf("version %d is that of opening %d and of %d", s.version, was, opening)
			}
			versions[s.version] = opening
		}
		pick := Pick{Dest: 1}
		var s *Service
		if rng.IntN(2) == 0 {
			s = reserve(t, m, 1, RingSize)
			s.Open(ByPicks, Form{}, pick)
			n := Picks - 1 - rng.IntN(2)
			for at := range n {
				s.Add(at, pick)
			}
			s.Publish(n)
		} else {
			s = reserve(t, m, 1, CycleSize(3))
			s.OpenCycle(ByPicks, Form{}, pick, []Pick{pick, pick, pick}, rng.IntN(3))
		}
		see(s)
		for range rng.IntN(20) {
			s.Take()
			see(s)
		}
		s.Close()
	}
}
