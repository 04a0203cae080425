package bench

import (
	"testing"
	"time"

	"github.com/ulvs/ulvs"
)

// BenchmarkExpiry is the end of connections whose time is over: of a million at once.
// Each batch of packets that comes then ends a bounded number; worst-ms is the longest
// that one had to wait for its verdicts.
func BenchmarkExpiry(b *testing.B) {
	const conns = 1_000_000
	var took, worst time.Duration
	ended := 0.0
	for b.Loop() {
		r := setup{connections: conns}.build(b)
		f, c := newFrames(b, setup{}.service(0), syn), &crowd{conns: 1}
		for range conns / batch {
			r.handle(c.fill(f))
		}
		ended += float64(live(r))
		r.plane.Advance(2 * time.Minute)
		stray := newFrames(b, setup{}.service(0), ack) // of a client that has no connection
		for live(r) > 0 {
			stray.Client(0, 11<<24, 1)
			start := time.Now()
			r.Handle(r.plane.Now(), stray.List[:1])
			wait := time.Since(start)
			took, worst = took+wait, max(worst, wait)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(took)/ended, "ns/connection")
	b.ReportMetric(worst.Seconds()*1e3, "worst-ms")
}

// live is how many connections there are.
func live(r *rig) uint64 {
	list, err := r.Services()
	r.must(err)
	n := uint64(0)
	for _, d := range list[0].Destinations {
		n += uint64(d.ActiveConns + d.InactConns)
	}
	return n
}

// BenchmarkListing is packets of established connections among a million, while
// all of them are listed over and over: lists/s, and the longest wait of a batch.
// Without listing in "alone".
func BenchmarkListing(b *testing.B) {
	const flows = 1_000_000
	r := setup{connections: flows + 1000}.build(b)
	r.establish(flows)
	for _, name := range []string{"alone", "beside"} {
		b.Run(name, func(b *testing.B) {
			stop, stopped := make(chan struct{}), make(chan float64)
			go func() {
				n := 0.0
				defer func() { stopped <- n }()
				for name == "beside" {
					err := r.Conns(func(ulvs.ConnStatus) bool {
						select {
						case <-stop:
							return false
						default:
							n++
							return true
						}
					})
					select {
					case <-stop:
						return
					default:
						r.must(err)
					}
				}
			}()
			f, d := newFrames(b, setup{}.service(0), ack), &draw{flows: flows}
			var worst time.Duration
			packets(b, func() {
				list := d.fill(f)
				start := time.Now()
				r.handle(list)
				worst = max(worst, time.Since(start))
			})
			close(stop)
			b.ReportMetric(<-stopped/b.Elapsed().Seconds()/1e6, "Mlisted/s")
			b.ReportMetric(worst.Seconds()*1e3, "worst-ms")
		})
	}
}
