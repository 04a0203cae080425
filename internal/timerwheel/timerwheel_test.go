package timerwheel

import (
	"math/rand/v2"
	"slices"
	"testing"
)

type record struct {
	_     uint64 // an owner's fields lie before and behind
	timer Link
	_     [3]uint32
}

func timerOf(r *record) *Link { return &r.timer }

// slow is the oracle: a list of due times, searched at each tick.
type slow struct {
	due map[uint32]uint32
	now uint32
}

func (s *slow) set(i, due uint32) {
	if int32(due-s.now) <= 0 {
		due = s.now + 1
	}
	s.due[i] = due
}

func (s *slow) advance(to uint32) (fired []uint32) {
	for i, due := range s.due {
		if int32(due-to) <= 0 {
			fired = append(fired, i)
			delete(s.due, i)
		}
	}
	s.now = to
	slices.Sort(fired)
	return fired
}

func TestAgainstOracle(t *testing.T) {
	for _, start := range []uint32{0, 1, 63, 64, 1 << 20, 1<<31 - 5, 0xffff_ff00} {
		rng := rand.New(rand.NewPCG(uint64(start), 7))
		recs := make([]record, 300)
		var fired []uint32
		w := New(recs, timerOf, start, func(i uint32) { fired = append(fired, i) })
		o := &slow{due: map[uint32]uint32{}, now: start}
		for range 20000 {
			i := uint32(rng.IntN(len(recs)))
			switch rng.IntN(4) {
			case 0, 1:
				span := uint32(1) << rng.IntN(31)
				due := w.Now() + rng.Uint32N(span)
				w.Set(i, due)
				o.set(i, due)
			case 2:
				w.Unset(i)
				delete(o.due, i)
			case 3:
				to := w.Now() + rng.Uint32N(uint32(1)<<rng.IntN(22))
				fired = fired[:0]
				for w.Advance(to, 1+rng.IntN(50)) {
				}
				slices.Sort(fired)
				if want := o.advance(to); !slices.Equal(fired, want) {
					t.Fatalf("from %d to %d: fired %v, want %v", start, to, fired, want)
				}
			}
			if w.Armed() != len(o.due) {
				t.Fatalf("armed %d, want %d", w.Armed(), len(o.due))
			}
		}
		for i := range recs {
			due, ok := w.Due(uint32(i))
			want, wantOK := o.due[uint32(i)]
			if ok != wantOK || ok && due != want && int32(due-want) >= 0 {
				t.Fatalf("due of %d: %d %v, want %d %v", i, due, ok, want, wantOK)
			}
		}
	}
}

// A timer fires at its own tick, not at a later one that Advance went to.
func TestOrder(t *testing.T) {
	recs := make([]record, 5)
	var at []uint32
	var w *Wheel
	w = New(recs, timerOf, 100, func(i uint32) { at = append(at, w.Now()) })
	want := []uint32{101, 164, 5000, 300000, 20000000}
	for i, due := range want {
		w.Set(uint32(i), due)
	}
	if w.Advance(1<<25, 1<<20) {
		t.Fatal("not done")
	}
	if !slices.Equal(at, want) {
		t.Fatalf("fired at %v, want %v", at, want)
	}
}

// An entry that sets its own timer anew in expire goes on.
func TestRearm(t *testing.T) {
	recs := make([]record, 1)
	n := 0
	var w *Wheel
	w = New(recs, timerOf, 0, func(i uint32) {
		n++
		w.Set(i, w.Now()+64)
	})
	w.Set(0, 64)
	w.Advance(64*1000, 1<<20)
	if n != 1000 {
		t.Fatalf("fired %d times, want 1000", n)
	}
}

func TestBudget(t *testing.T) {
	recs := make([]record, 100)
	n := 0
	w := New(recs, timerOf, 0, func(uint32) { n++ })
	for i := range recs {
		w.Set(uint32(i), 10)
	}
	for call := 1; call <= 10; call++ {
		if more := w.Advance(10, 10); more != (call < 10) && call < 10 {
			t.Fatalf("call %d: more is %v", call, more)
		}
		if n != call*10 {
			t.Fatalf("after %d calls %d fired", call, n)
		}
	}
	if w.Advance(10, 10) {
		t.Fatal("nothing is left, but more is true")
	}
}

func TestAllocates(t *testing.T) {
	recs := make([]record, 1000)
	w := New(recs, timerOf, 0, func(uint32) {})
	if n := testing.AllocsPerRun(100, func() {
		for i := range recs {
			w.Set(uint32(i), w.Now()+uint32(i))
		}
		w.Advance(w.Now()+500, 1<<20)
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkSetAdvance(b *testing.B) {
	recs := make([]record, 1<<16)
	w := New(recs, timerOf, 0, func(uint32) {})
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		w.Set(uint32(n)&(1<<16-1), w.Now()+15000)
		if n&63 == 0 {
			w.Advance(w.Now()+1, 1<<20)
		}
	}
}
