package afpacket

import (
	"testing"
	"time"

	"github.com/ulvs/ulvs/dataplane"
)

// forwarder sends all to one hop.
type forwarder struct{ hop *dataplane.NextHop }

func (h forwarder) Handle(_ time.Duration, batch []dataplane.Frame) {
	for i := range batch {
		batch[i].Verdict, batch[i].Hop = dataplane.Transmit, h.hop
	}
}

// bench is a plane in the director, run by hand, and what sends it frames.
func bench(t testing.TB, l *lab) (r *receiver, inject func([]byte, dataplane.Offload)) {
	var p *Plane
	l.in(director, func() {
		var err error
		p, err = New(Options{Interfaces: []string{"eth0"}})
		l.must(err)
	})
	t.Cleanup(func() { _ = p.Close() })
	return p.receivers.list[0], l.injector(client, "eth0")
}

// A batch allocates nothing, from the ring to the wire.
func TestBatchDoesNotAllocate(t *testing.T) {
	l := newLab(t)
	r, inject := bench(t, l)
	h := dataplane.Handler(forwarder{l.hop(server)})
	small := udp(macOf(director), make([]byte, 100))
	tagged := udp(macOf(director), make([]byte, 1400), 5)
	large, gso := unsegmented(make([]byte, 9000))
	frames := 0
	n := testing.AllocsPerRun(200, func() {
		for range 5 {
			inject(small, dataplane.Offload{})
			inject(tagged, dataplane.Offload{})
		}
		inject(large, gso)
		frames += 11
		for r.step(h) > 0 {
		}
	})
	if n != 0 {
		t.Errorf("a batch allocates %v times", n)
	}
	if c := r.p.Counters(); c["tx_frames"] < uint64(frames) || c["tx_malformed"] != 0 {
		t.Errorf("of %d frames: %v", frames, c)
	}
}

func BenchmarkForward(b *testing.B) {
	l := newLab(b)
	r, inject := bench(b, l)
	h := dataplane.Handler(forwarder{l.hop(server)})
	small := udp(macOf(director), make([]byte, 22))
	for b.Loop() {
		b.StopTimer()
		for range batchSize {
			inject(small, dataplane.Offload{})
		}
		b.StartTimer()
		for r.step(h) > 0 {
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batchSize), "ns/frame")
}
