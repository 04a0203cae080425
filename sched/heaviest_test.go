package sched

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// passes is rr and wrr as the kernel goes about them: destination by destination
// (ip_vs_rr.c, ip_vs_rr_schedule; ip_vs_wrr.c, ip_vs_wrr_schedule).
type passes struct {
	dests                 []*Dest
	last                  int // -1: the list's head
	current, max, divisor int32
}

func (p *passes) rr() *Dest {
	for range p.dests {
		p.last = (p.last + 1) % len(p.dests)
		if p.dests[p.last].Usable() {
			return p.dests[p.last]
		}
	}
	return nil
}

func (p *passes) wrr() *Dest {
	if p.max == 0 {
		return nil
	}
	start, stop := p.last, -1
	lastPass, restarted := false, false
	for {
		for p.last++; p.last < len(p.dests); p.last++ {
			if d := p.dests[p.last]; !d.Overloaded() && d.Weight() >= p.current {
				return d
			}
			if p.last == stop {
				return nil
			}
		}
		p.last = -1
		p.current -= p.divisor
		if p.current <= 0 {
			p.current = p.max
			if lastPass || start < 0 {
				return nil
			}
			restarted = true
		}
		lastPass = p.current <= p.divisor
		if restarted && lastPass {
			stop = start
		}
	}
}

// The tree of weights finds what a walk through the list finds, whichever
// destinations are quiescent, heavy or overloaded.
func TestHeaviest(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		dests := make([]*Dest, r.IntN(40))
		limit := 1 + r.Int32N(50)
		for i := range dests {
			dests[i] = new(Dest)
			switch r.IntN(3) {
			case 0:
				dests[i].Set(r.Int32N(limit), 0, 0)
			case 1:
				dests[i].Set(1, 0, 0)
			}
		}
		var tree heaviest
		tree.measure(dests)
		for range 100 {
			i, w := r.IntN(len(dests)+1), 1+r.Int32N(limit)
			want := slices.IndexFunc(dests[i:], func(d *Dest) bool { return d.Weight() >= w })
			if got := tree.next(i, w); want >= 0 && got != i+want || want < 0 && got < len(dests) {
				t.Fatalf("from %d on, the first of %d at least is at %d, not %d", i, w, got, i+want)
			}
		}
		even, weighted := newRR(dests, 0), newWRR(dests, 0).(*wrr)
		slowEven := passes{dests: dests, last: -1}
		slow := passes{dests: dests, last: -1, current: weighted.current, max: weighted.max, divisor: weighted.divisor}
		for range 200 {
			if len(dests) > 0 && r.IntN(4) == 0 {
				d := dests[r.IntN(len(dests))]
				d.overload(!d.Overloaded())
			}
			got, want := weighted.Schedule(nil), slow.wrr()
			at := -1
			if weighted.last != nil {
				at = weighted.last.pos
			}
			if got != want || at != slow.last || weighted.current != slow.current {
				t.Fatalf("wrr is at %d with %d, not at %d with %d", at, weighted.current, slow.last, slow.current)
			}
			if even.Schedule(nil) != slowEven.rr() {
				t.Fatalf("rr is not at %d", slowEven.last)
			}
		}
	}
}
