package persist

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// What Evict ends: of the templates that control nothing, and whose client has answered or
// has not, the one that has controlled nothing for the longest time. Two lists of all of them
// are the oracle.
func TestBound(t *testing.T) {
	const max = 20
	type tmpl struct {
		key      Key
		id       ID
		controls int
		answered bool
	}
	idle := map[bool][]*tmpl{} // oldest first
	live := map[uint64]*tmpl{}
	var ended []ID
	tab := newTable(t, max, func(id ID) { ended = append(ended, id) })
	rng := rand.New(rand.NewPCG(9, 9))
	rest := func(x *tmpl) { idle[x.answered] = append(idle[x.answered], x) }
	wake := func(x *tmpl) {
		idle[x.answered] = slices.DeleteFunc(idle[x.answered], func(y *tmpl) bool { return x == y })
	}
	release := func(x *tmpl) {
		answered := rng.IntN(4) == 0
		tab.Release(x.id, answered)
		x.answered = x.answered || answered
		if x.controls--; x.controls == 0 {
			rest(x)
		}
	}
	refused := 0
	for step := range 30_000 {
		n := rng.Uint64N(60)
		k := Key{n, 1 << 40}
		x := live[n]
		id, ok := tab.Lookup(&k, tab.Hash(&k))
		if ok != (x != nil) || ok && id != x.id {
			t.Fatalf("step %d: look-up: %v, want %+v", step, ok, x)
		}
		switch {
		case x == nil:
			id, err := tab.Insert(&k, tab.Hash(&k), 1, time.Hour, 0)
			if (len(live) == max) != errors.Is(err, ErrFull) {
				t.Fatalf("step %d: %v, with %d of %d", step, err, len(live), max)
			}
			if err != nil {
				ended = ended[:0]
				class := rng.IntN(3) == 0
				if got, want := tab.Evict(class), len(idle[class]) > 0; got != want {
					t.Fatalf("step %d: Evict(%v) is %v, of %d", step, class, got, len(idle[class]))
				} else if !want {
					refused++
					continue
				}
				out := idle[class][0]
				idle[class] = idle[class][1:]
				delete(live, out.key[0])
				if len(ended) != 1 || ended[0] != out.id {
					t.Fatalf("step %d: %v went, want %d", step, ended, out.id)
				}
				continue
			}
			x = &tmpl{key: k, id: id}
			live[n] = x
			rest(x)
		case rng.IntN(5) < 3:
			if x.controls == 0 {
				wake(x)
			}
			x.controls++
			tab.Control(x.id, 0)
			if rng.IntN(8) == 0 {
				tab.Assure(x.id)
				x.answered = true
			}
		case x.controls > 0:
			release(x)
		}
		if rng.IntN(500) == 0 { // let all connections end, or it stays full
			for _, x := range live {
				for x.controls > 0 {
					release(x)
				}
			}
		}
	}
	answered, unanswered := tab.Evicted()
	if refused == 0 || answered == 0 || unanswered == 0 {
		t.Fatalf("refused %d, evicted %d and %d: the test does not test that", refused, answered, unanswered)
	}
}
