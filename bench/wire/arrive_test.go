package wire

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// patience is how long a test waits for what is due: so long that it is not the machine's
// fault if it does not come.
const patience = time.Minute

// ring is less than how many frames veth holds for a receiver that does not get the CPU.
const ring = 200

// dropped is how many frames the pair has dropped because a receiver did not get the CPU
// while the generator had it, as happens on a machine that is busy with something else.
func (b *bed) dropped() (n uint64) {
	b.Helper()
	for _, e := range []End{b.generator, b.director} {
		l, err := e.Space.Netlink().LinkByName(e.Name)
		b.must(err)
		n += l.Attrs().Statistics.RxDropped
	}
	return n
}

// await waits until a sink has seen all frames but those that the pair has dropped, and
// returns how many those are.
func (b *bed) await(s *Sink, sent uint64) (dropped uint64) {
	b.Helper()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		dropped := b.dropped()
		if seen := s.Total(); seen+dropped == sent {
			return dropped
		} else if seen+dropped > sent || time.Since(begin) > patience {
			b.Fatalf("of %d frames the sink has seen %d, and the pair has dropped %d", sent, seen, dropped)
		}
	}
}

// All that is sent arrives, one way and there and back, whatever the batch is.
func TestAllArrives(t *testing.T) {
	for _, batch := range []uint32{0, 1, 7, 64, 128} {
		for _, there := range []bool{true, false} {
			t.Run(fmt.Sprintf("batch %d, one way %v", batch, there), func(t *testing.T) {
				b := newBed(t)
				at := b.director
				if !there {
					at = b.generator
					b.attach(bare)
				}
				s := b.sink(at, SinkOptions{})
				traffic := traffic4
				traffic.Batch, traffic.Dst[5] = batch, 17
				g := b.generate(traffic)
				sent, dropped := uint64(0), uint64(0)
				for _, n := range []uint64{1, ring, 30000} {
					_, err := g.Run(n)
					b.must(err)
					sent += n
					if dropped = b.await(s, sent); n <= ring && dropped > 0 {
						t.Errorf("of %d frames %d were dropped", n, dropped)
					}
				}
				t.Logf("%d frames, of which veth dropped %d", sent, dropped)
				if s.Count(17)+dropped != sent || g.Sent() != sent {
					t.Errorf("%d of %d, %d were sent", s.Count(17), sent, g.Sent())
				}
			})
		}
	}
}

// A generator that is stopped sends no more, now and later; what it has sent arrives.
func TestStop(t *testing.T) {
	b := newBed(t)
	s := b.sink(b.director, SinkOptions{})
	g := b.generate(traffic4)
	time.AfterFunc(50*time.Millisecond, g.Stop)
	if _, err := g.Run(1 << 40); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	b.await(s, g.Sent())
	if _, err := g.Run(1); !errors.Is(err, ErrStopped) {
		t.Error(err)
	}
}
