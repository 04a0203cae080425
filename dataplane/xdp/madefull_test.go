package xdp

import (
	"testing"
	"time"

	"github.com/ulvs/ulvs"
)

// TestMadeFull has more templates become ASSURED than their ring has cells while Go does nothing:
// some packets are Go's then, and nothing is lost, twice in a row.
func TestMadeFull(t *testing.T) {
	w := newShop(t, 5*time.Minute)
	cpus := allowed(t)
	c := &contest{pair: w, cpus: append(cpus, cpus[0])} // the other does nothing
	c.together(func() {
		for round := range 2 {
			const n = 6000
			var frames [n][2][]byte
			for i := range frames {
				client := [4]byte{12, byte(round), byte(i >> 8), byte(i)}
				frames[i] = [2][]byte{shopFrame(t, client, 2000+uint16(i&31), "S"), shopFrame(t, client, 2000+uint16(i&31), "A")}
				if !w.byProgram(frames[i][0]) {
					w.fate(w.fast, frames[i][0])
				}
				if i%512 == 0 {
					w.fast.Tick(w.still.now)
				}
			}
			w.fast.Tick(w.still.now)
			var left [][]byte
			first := n
			for i := range frames {
				if !w.byProgram(frames[i][1]) {
					left, first = append(left, frames[i][1]), min(first, i)
				}
			}
			if len(left) == 0 || len(left) > n*2/3 || first < n/6 {
				t.Errorf("round %d: %d packets of %d were Go's, from %d on", round, len(left), n, first)
			}
			fresh := shopFrame(t, [4]byte{13, byte(round), 1, 1}, 2000, "S")
			w.byProgram(fresh)
			for _, frame := range left {
				w.fate(w.fast, frame)
			}
			w.fate(w.fast, fresh)
			assured, all := 0, 0
			w.must(w.fast.Conns(func(s ulvs.ConnStatus) bool {
				if s.Template {
					all++
				}
				if s.State == "ASSURED" {
					assured++
				}
				return true
			}))
			if assured != n*(round+1) {
				t.Errorf("round %d: %d templates of %d are ASSURED, want %d", round, assured, all, n*(round+1))
			}
		}
	}, func() {})
}
