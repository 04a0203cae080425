package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/ulvs/ulvs/bench/frames"
)

// packets runs a benchmark whose operation is one packet, in batches of 64.
func packets(b *testing.B, one func()) {
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%batch == 0 {
			one()
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mpps")
}

// BenchmarkDecision is packet in, verdict out, of established connections drawn at
// random. Writing the packet is in it, and by itself in "writing".
func BenchmarkDecision(b *testing.B) {
	b.Run("writing", func(b *testing.B) {
		f, d := newFrames(b, setup{}.service(0), ack), &draw{flows: 1 << 16}
		packets(b, func() { d.fill(f) })
	})
	for _, flows := range []uint32{1, 1000, 1 << 16, 1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("established/%d", flows), func(b *testing.B) {
			r := setup{connections: int(flows) + 1000}.build(b)
			r.establish(flows)
			f, d := newFrames(b, setup{}.service(0), ack), &draw{flows: flows}
			packets(b, func() { r.handle(d.fill(f)) })
		})
	}
}

// establish has clients 10.0.0.0 upwards open connections to service 0.
func (r *rig) establish(flows uint32) {
	opening, answering := newFrames(r.tb, setup{}.service(0), syn), newFrames(r.tb, setup{}.service(0), ack)
	for n := uint32(0); n < flows; n += batch {
		for _, f := range []*frames.Batch{opening, answering} {
			for i := range f.List {
				f.Client(i, 10<<24|(n+uint32(i))%flows, 1024)
			}
			r.handle(f.List[:])
		}
	}
}

// fresh runs a benchmark of new connections, while old ones expire at the same rate:
// some sixty thousand are there.
func fresh(b *testing.B, s setup, conns uint32) {
	s.connections = 1 << 20
	r := s.build(b)
	f, c := newFrames(b, s.service(0), syn), &crowd{conns: conns}
	turn := func() {
		r.handle(c.fill(f))
		// Half-open connections last a minute.
		r.plane.Advance(batch * time.Minute / (1 << 16))
	}
	for range 3 << 16 / batch {
		turn()
	}
	packets(b, turn)
}

// BenchmarkNew is packet in, verdict out, of packets that open connections, with
// round robin; and the expiry of as many old ones.
func BenchmarkNew(b *testing.B) {
	for _, kind := range []struct {
		name string
		setup
	}{
		{"plain", setup{}},
		{"PCC", setup{persistence: 5 * time.Minute, anyPort: true}},
		{"PPC", setup{persistence: 5 * time.Minute}},
		{"mark", setup{marked: true}},
		{"mark-persistent", setup{persistence: 5 * time.Minute, marked: true}},
	} {
		if kind.persistence == 0 {
			b.Run(kind.name, func(b *testing.B) { fresh(b, kind.setup, 1) })
			continue
		}
		for _, conns := range []uint32{1, 16} {
			b.Run(fmt.Sprintf("%s/%d-a-client", kind.name, conns), func(b *testing.B) { fresh(b, kind.setup, conns) })
		}
	}
}

// BenchmarkServices is BenchmarkNew among many services, by address and by mark.
func BenchmarkServices(b *testing.B) {
	for _, marked := range []bool{false, true} {
		name := "address"
		if marked {
			name = "mark"
		}
		for _, n := range []int{1, 100, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				s := setup{connections: 1 << 20, services: n, servers: 1, marked: marked}
				r := s.build(b)
				f, c := newFrames(b, s.service(0), syn), &crowd{conns: 1}
				at := 0
				turn := func() {
					at = (at + 7919) % n
					f.To(s.service(at))
					r.handle(c.fill(f))
					r.plane.Advance(batch * time.Minute / (1 << 16))
				}
				for range 3 << 16 / batch {
					turn()
				}
				packets(b, turn)
			})
		}
	}
}
