package sched

import (
	"math"
	"testing"
)

// All pairs of numbers that twos can draw, against what ip_vs_twos.c says of
// them: a draw walks the list until it has used up its number, and the second
// wins if it is less loaded for its weight.
func TestTwosExactly(t *testing.T) {
	type server struct{ weight, active, inact int32 }
	for _, servers := range [][]server{
		{{1, 0, 0}},
		{{1, 0, 0}, {1, 0, 0}},
		{{2, 5, 1}, {3, 1, 0}, {0, 0, 0}, {5, 2, 700}},
		{{1, 3, 0}, {10, 29, 255}, {4, 12, 1}},
	} {
		var dests []*Dest
		total := int64(0)
		for _, v := range servers {
			d := &Dest{}
			d.Enlist(v.weight, 0, 0)
			d.count(uint64(v.active)*ActiveConn + uint64(v.inact))
			dests = append(dests, d)
			total += int64(v.weight)
		}
		draw := func(n int64) int {
			for i, v := range servers {
				if n -= int64(v.weight); v.weight > 0 && n <= 0 {
					return i
				}
			}
			t.Fatal("nothing drawn")
			return 0
		}
		load := func(i int) float64 {
			return (256*float64(servers[i].active) + float64(servers[i].inact)) / float64(servers[i].weight)
		}
		for n := range total + 1 {
			for m := range total + 1 {
				want := draw(n)
				if second := draw(m); load(second) < load(want) {
					want = second
				}
				numbers := []int64{n, m}
				s := &twos{list{dests}, func(limit int64) int64 {
					if limit != total+1 {
						t.Fatalf("drew below %d, the weights are %d", limit, total)
					}
					v := numbers[0]
					numbers = numbers[1:]
					return v
				}}
				if d := s.Schedule(&Request{}); d != dests[want] {
					t.Fatalf("%v, drawn %d and %d: not server %d", servers, n, m, want)
				}
			}
		}
	}
}

// With the random source that it has: shares by weight where loads are equal,
// and the square of its share where one server is loaded and loses to any
// other.
func TestTwosShares(t *testing.T) {
	const rounds = 100_000
	for _, tt := range []struct {
		weights []int32
		loaded  int // or -1
		want    []float64
	}{
		// The first in the list has one chance more.
		{[]int32{10, 20, 69}, -1, []float64{11. / 100, 20. / 100, 69. / 100}},
		{[]int32{49, 50}, 0, []float64{.25, .75}},
		{[]int32{0, 9}, -1, []float64{0, 1}},
	} {
		var dests []*Dest
		for _, w := range tt.weights {
			d := &Dest{}
			d.Enlist(w, 0, 0)
			dests = append(dests, d)
		}
		if tt.loaded >= 0 {
			dests[tt.loaded].Bind(false, true)
		}
		s, err := New("twos", dests, 0)
		if err != nil {
			t.Fatal(err)
		}
		got := map[*Dest]int{}
		for range rounds {
			got[s.Schedule(&Request{})]++
		}
		for i, p := range tt.want {
			// Six standard deviations: once in a thousand million runs.
			allowed := 6 * math.Sqrt(rounds*p*(1-p))
			if math.Abs(float64(got[dests[i]])-p*rounds) > allowed {
				t.Errorf("weights %v: server %d chosen %d times of %d, expected %.0f ± %.0f",
					tt.weights, i, got[dests[i]], rounds, p*rounds, allowed)
			}
		}
	}
}

func TestTwosNone(t *testing.T) {
	d := &Dest{}
	d.Enlist(0, 0, 0)
	for _, dests := range [][]*Dest{nil, {d}} {
		if s := newTwos(dests, 0); s.Schedule(&Request{}) != nil {
			t.Error("chose one of nothing")
		}
	}
}
