package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/ulvs/ulvs/sched"
)

// BenchmarkServers is BenchmarkNew among many real servers, with every scheduler:
// all of weight 1; weights of 1 to 100; one of weight 1000 among others of 1; and
// nine of ten quiescent.
func BenchmarkServers(b *testing.B) {
	mixes := []struct {
		name   string
		only   int
		weight func(i int) int32
	}{
		{"equal", 0, func(int) int32 { return 1 }},
		{"mixed", 10_000, func(i int) int32 { return 1 + int32(i*37%100) }},
		{"one-heavy", 10_000, func(i int) int32 {
			if i == 5000 {
				return 1000
			}
			return 1
		}},
		{"quiescent", 10_000, func(i int) int32 {
			if i%10 != 0 {
				return 0
			}
			return 1
		}},
	}
	for _, name := range sched.Names() {
		for _, n := range []int{1, 100, 10_000} {
			if name == "mh" && n > 4000 {
				n = 4000 // its table has 4,093 places
			}
			for _, mix := range mixes {
				if mix.only != 0 && n < 4000 {
					continue
				}
				b.Run(fmt.Sprintf("%s/%d/%s", name, n, mix.name), func(b *testing.B) {
					weight := mix.weight
					if name == "ovf" { // whose weights are numbers of connections
						weight = func(i int) int32 { return mix.weight(i) << 20 }
					}
					s := setup{connections: 1 << 20, servers: n, scheduler: name, weight: weight}
					r := s.build(b)
					f, c := newFrames(b, s.service(0), syn), &crowd{conns: 1}
					turn := func() {
						// Without its flags, sh has no other server for who is led to a
						// quiescent one: then the verdict is Drop.
						r.Handle(r.plane.Now(), c.fill(f))
						r.plane.Advance(batch * time.Minute / (1 << 16))
					}
					for range 256 {
						turn()
					}
					packets(b, turn)
				})
			}
		}
	}
}
