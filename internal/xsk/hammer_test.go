package xsk

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Receivers on two interfaces, a third party that sends, one that opens and
// closes another socket, and one that looks at the counters, on memory that is
// too small for all of them.
func TestHammer(t *testing.T) {
	b := newBed(t, 1500)
	b.redirect("in0", link.XDPGenericMode)
	b.redirect("out0", link.XDPDriverMode)
	u := b.umem(MemoryOptions{Frames: 180})
	var sockets [2]*Socket
	var wires [2]int
	for i, name := range []string{"in", "out"} {
		wires[i] = b.sendSocket(name + "1")
		sockets[i] = b.open(u, name+"0", 0, small)
	}
	const frames = 20000
	var given [2]atomic.Int64
	var others, loops sync.WaitGroup
	var pollers [2]*Poller
	for i, s := range sockets {
		others.Go(func() {
			for n := range frames {
				_, _ = unix.Write(wires[i], frame(n, 60+n%1000))
			}
		})
		p, err := NewPoller(s)
		b.must(err)
		defer p.Close()
		pollers[i] = p
		loops.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 3))
			packets := make([]Packet, 48)
			var kept []Packet
			for {
				more, err := p.Wait(time.Second)
				if err != nil {
					t.Error(err)
				}
				for n := s.Receive(packets); n > 0; n = s.Receive(packets) {
					for rest := packets[:n]; len(rest) > 0; {
						part := rest[:1+rnd.IntN(len(rest))]
						rest = rest[len(part):]
						switch where := rnd.IntN(5); where {
						case 0, 1:
							given[where].Add(int64(len(part)))
							sockets[where].Transmit(part)
						case 2:
							u.Release(part)
						case 3:
							part[0].Data = frame(n, 100)
							given[i].Add(int64(len(part)))
							s.Transmit(part)
						case 4:
							kept = append(kept, part...)
						}
					}
					if len(kept) > 20 {
						u.Release(kept)
						kept = kept[:0]
					}
				}
				if !more {
					u.Release(kept)
					return
				}
			}
		})
	}
	others.Go(func() {
		for n := range frames {
			where := n % 2
			given[where].Add(1)
			sockets[where].Transmit([]Packet{{Data: frame(n, 700)}})
		}
	})
	for range 10 {
		third := b.open(u, "in0", 1, Options{Receive: 32, Fill: 32, Transmit: 32, Complete: 32})
		var ours atomic.Int64
		var sending sync.WaitGroup
		for range 2 {
			sending.Go(func() {
				for n := range 100 {
					ours.Add(1)
					third.Transmit([]Packet{{Data: frame(n, 300)}})
				}
			})
		}
		for range 10 {
			sockets[0].Counters()
			u.Free()
		}
		b.must(third.Close())
		sending.Wait()
		accounted(t, third, int(ours.Load()))
	}
	others.Wait()
	for _, p := range pollers {
		p.End()
	}
	loops.Wait()
	for i, s := range sockets {
		eventually(t, "all is sent", func() bool { return sent(s) })
		t.Logf("%v: %v", s.Queue(), s.Counters())
		accounted(t, s, int(given[i].Load()))
		if c := s.Counters(); c["rx_frames"] == 0 || c["tx_frames"] == 0 {
			t.Error("it did nothing")
		}
	}
	audit(t, u)
	for _, s := range sockets {
		b.must(s.Close())
	}
	audit(t, u)
	// Where the last one may have left frames on their way.
	b.must(b.open(u, "in0", 1, small).Close())
	if u.Free() != u.Frames() {
		t.Errorf("%d chunks of %d are free after all", u.Free(), u.Frames())
	}
}
