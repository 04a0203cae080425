package hostmark

import (
	"math/rand/v2"
	"testing"
)

// The sets of spans are held to lists of all their numbers, 8 bits wide.
func TestSpans(t *testing.T) {
	g := rand.New(rand.NewPCG(3, 4))
	draw := func() (list []span, in [256]bool) {
		for range g.IntN(4) {
			a, b := g.IntN(256), g.IntN(256)
			if a > b {
				a, b = b, a
			}
			list = append(list, span{number{0, uint64(a)}, number{0, uint64(b)}})
			for i := a; i <= b; i++ {
				in[i] = true
			}
		}
		return tidy(list), in
	}
	for range 2000 {
		a, inA := draw()
		b, inB := draw()
		for _, list := range []struct {
			name  string
			spans []span
			want  func(int) bool
		}{
			{"tidy", a, func(i int) bool { return inA[i] }},
			{"complement", complement(a, 8), func(i int) bool { return !inA[i] }},
			{"intersect", intersect(a, b), func(i int) bool { return inA[i] && inB[i] }},
		} {
			var blocked [256]int
			for _, s := range list.spans {
				for _, b := range s.blocks(8) {
					for i := range 256 {
						if uint64(i)&b.mask.lo == b.value.lo {
							blocked[i]++
						}
					}
				}
			}
			for i := range 256 {
				n := 0
				for _, s := range list.spans {
					if s.first.lo <= uint64(i) && uint64(i) <= s.last.lo {
						n++
					}
				}
				if want := list.want(i); (n == 1) != want || n > 1 || blocked[i] != n {
					t.Fatalf("%s: %d is in %d spans and %d blocks of %v, want %v; a %v b %v", list.name, i, n, blocked[i], list.spans, want, a, b)
				}
			}
		}
	}
	// Beyond 64 bits.
	s := span{number{0, 1}, ones(128)}
	if got := s.blocks(128); len(got) != 128 {
		t.Errorf("%d blocks, want 128", len(got))
	}
	if got := complement([]span{s}, 128); len(got) != 1 || got[0] != (span{}) {
		t.Errorf("complement %v", got)
	}
}
