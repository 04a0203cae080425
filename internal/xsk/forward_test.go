package xsk

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

var modes = []struct {
	name  string
	flags link.XDPAttachFlags
}{{"generic", link.XDPGenericMode}, {"native", link.XDPDriverMode}}

// Frames of all sizes, many more than the rings and the memory hold, go from
// the socket of one interface to that of another in the state and order in
// which they came, whatever memory they are in.
func TestForward(t *testing.T) {
	for _, mode := range modes {
		for _, size := range []int{2048, 4096} {
			t.Run(fmt.Sprintf("%s %d", mode.name, size), func(t *testing.T) {
				// Chunks less XDP_PACKET_HEADROOM; a veth's driver wants a
				// frame and its skb_shared_info in a page.
				largest := size - 256
				if mode.name == "native" {
					largest = min(largest, 3514)
				}
				b := newBed(t, largest-shortest)
				b.redirect("in0", mode.flags)
				from, to := b.packetSocket("in1"), b.packetSocket("out1")
				u := b.umem(MemoryOptions{Frames: 256, FrameSize: size})
				o := Options{Receive: 64, Fill: 64, Transmit: 32, Complete: 64}
				in, out := b.open(u, "in0", 0, o), b.open(u, "out0", 0, o)

				const frames, burst = 6000, 40
				rnd := rand.New(rand.NewPCG(1, 2))
				for i := 0; i < frames; i += burst {
					var given, want [][]byte
					for j := range burst {
						n := shortest + rnd.IntN(largest-shortest+1)
						switch i + j {
						case 0:
							n = shortest
						case 1:
							n = largest
						}
						given = append(given, frame(i+j, n))
					}
					b.send(from, given...)
					packets := b.receive(in, burst)
					for j := range packets {
						p := &packets[j]
						switch rnd.IntN(6) {
						case 0: // another header before it
							if n := len(p.Data); n+4 <= min(cap(p.Data), largest) {
								p.Data = p.Data[:n+4]
								copy(p.Data[4:], slices.Clone(p.Data[:n]))
							}
						case 1: // the end of it
							p.Data = p.Data[len(p.Data)-shortest:]
						case 2: // an answer in the chunk's rest
							p.Data = append(p.Data[len(p.Data):len(p.Data):cap(p.Data)], frame(j, min(100, max(shortest, cap(p.Data)-len(p.Data))))...)
						case 3: // an answer elsewhere
							p.Data = frame(i-j, 60)
						case 4: // one without a chunk
							data := slices.Clone(p.Data)
							u.Release(packets[j : j+1])
							p.Data = data
						}
						want = append(want, slices.Clone(p.Data))
					}
					if n := out.Transmit(packets); n != burst {
						t.Fatalf("%d of %d frames were taken: %v", n, burst, out.Counters())
					}
					if slices.ContainsFunc(packets, func(p Packet) bool { return p.Data != nil || p.chunk != 0 }) {
						t.Fatal("there are packets left after Transmit")
					}
					b.expect(to, want...)
				}
				eventually(t, "all is sent", func() bool { return sent(out) })
				audit(t, u)
				if c := in.Counters(); c["rx_frames"] != frames || c["rx_dropped"]+c["rx_ring_full"]+c["rx_no_fill"] != 0 {
					t.Error(c)
				}
				if c := out.Counters(); c["tx_frames"] != frames {
					t.Error(c)
				}
				accounted(t, out, frames)
				b.must(in.Close())
				b.must(out.Close())
				if u.Free() != u.Frames() {
					t.Errorf("%d chunks of %d are free after all", u.Free(), u.Frames())
				}
				audit(t, u)
			})
		}
	}
}

// A socket for each queue of an interface, and for one of another, share
// memory; each sends by its own queue and receives from it.
func TestQueues(t *testing.T) {
	b := newBed(t, 1500)
	b.ip("link del in0")
	b.pair("in", 300, 2)
	b.redirect("in0", link.XDPDriverMode)
	o := Options{Receive: 128, Fill: 128, Transmit: 128, Complete: 128}
	u, others := b.umem(MemoryOptions{Frames: 1024}), b.umem(MemoryOptions{Frames: 1024})
	out := b.open(u, "out0", 1, o)
	to, back := b.packetSocket("out1"), b.packetSocket("in1")
	for id := range 2 {
		from, in := b.open(others, "in1", id, o), b.open(u, "in0", id, o)
		if _, err := u.Open(in.Queue(), o); err == nil {
			t.Error("a queue has two sockets of one memory")
		}
		var packets []Packet
		var want [][]byte
		for i := range 100 {
			want = append(want, frame(i, 60+i))
			packets = append(packets, Packet{Data: want[i]})
		}
		from.Transmit(packets)
		out.Transmit(b.receive(in, 100))
		b.expect(to, want...)
		in.Transmit([]Packet{{Data: want[9]}})
		b.expect(back, want[9])
		for _, s := range []*Socket{from, in, out} {
			eventually(t, "all is sent", func() bool { return sent(s) })
		}
	}
	audit(t, u)
	audit(t, others)
}

// What is too long, too short, or more than the memory holds is counted, and
// what follows is served.
func TestLosses(t *testing.T) {
	b := newBed(t, 1778)
	b.redirect("in0", link.XDPGenericMode)
	from, to := b.packetSocket("in1"), b.packetSocket("out1")
	u := b.umem(MemoryOptions{Frames: 100})
	o := Options{Receive: 128, Fill: 64, Transmit: 32, Complete: 32}
	in := b.open(u, "in0", 0, o)
	out := b.open(u, "out0", 0, Options{Receive: 32, Fill: 32, Transmit: 32, Complete: 32})
	given := 0
	transmit := func(p ...Packet) int {
		given += len(p)
		return out.Transmit(p)
	}

	// All chunks with the caller: first the fill ring's 64, then the 4 that
	// were free.
	for range 80 {
		b.send(from, frame(1, 60))
	}
	held := b.receive(in, 64)
	for range 80 {
		b.send(from, frame(2, 60))
	}
	held = append(held, b.receive(in, 4)...)
	if n := in.Receive(make([]Packet, 1)); n != 0 || !in.short.Load() || u.Free() != 0 {
		t.Fatalf("%d chunks are free", u.Free())
	}
	if c := in.Counters(); c["rx_frames"] != 68 || c["rx_dropped"] != 160-68 || c["rx_no_fill"] != 160-68 {
		t.Error(c)
	}
	audit(t, u, held...)

	// There is none left to copy to, but one that comes with the frame will do.
	if n := transmit(Packet{Data: frame(3, 60)}); n != 0 {
		t.Errorf("%d frames were sent without a chunk", n)
	}
	held[0].Data = frame(4, 60)
	transmit(held[0])
	b.expect(to, frame(4, 60))
	// Which is free when it was sent.
	transmit(Packet{Data: frame(5, 60)})
	b.expect(to, frame(5, 60))

	held[1].Data, held[2].Data = held[1].Data[:shortest-1], make([]byte, 2049)
	if n := transmit(held[1:4]...); n != 1 {
		t.Errorf("%d frames were sent, of which one was right", n)
	}
	b.expect(to, frame(1, 60))
	if c := out.Counters(); c["tx_malformed"] != 2 || c["tx_no_chunk"] != 1 {
		t.Error(c)
	}
	u.Release(held[4:])
	eventually(t, "all is sent", func() bool { return sent(out) })
	in.Receive(nil)
	audit(t, u)

	// A receive ring without room for more than its 128.
	for range 10 {
		b.send(from, frame(6, 60))
	}
	u.Release(b.receive(in, 10))
	in.Receive(nil)
	audit(t, u)
	if c := in.Counters(); in.short.Load() || c["rx_dropped"] != 160-68 || c["rx_frames"] != 78 {
		t.Error(in.short.Load(), c)
	}
	accounted(t, out, given)
}

// Frames that the receive ring has no room for are counted, and cost no chunk.
func TestReceiveRingFull(t *testing.T) {
	b := newBed(t, 1500)
	b.redirect("in0", link.XDPGenericMode)
	from := b.packetSocket("in1")
	u := b.umem(MemoryOptions{Frames: 256})
	in := b.open(u, "in0", 0, Options{Receive: 32, Fill: 128, Transmit: 32, Complete: 32})
	for round := range 5 {
		for i := range 50 {
			b.send(from, frame(i, 60))
		}
		packets := b.receive(in, 32)
		if n := in.Receive(make([]Packet, 1)); n != 0 {
			t.Error("the ring holds more than it should")
		}
		audit(t, u, packets...)
		u.Release(packets)
		if c := in.Counters(); c["rx_ring_full"] != uint64(round+1)*18 {
			t.Error(c)
		}
	}
	audit(t, u)
}

// A batch allocates nothing, from ring to ring.
func TestNoAllocation(t *testing.T) {
	b := newBed(t, 1500)
	b.redirect("in0", link.XDPGenericMode)
	from := b.packetSocket("in1")
	u := b.umem(MemoryOptions{Frames: 512})
	o := Options{Receive: 64, Fill: 64, Transmit: 64, Complete: 64}
	in, out := b.open(u, "in0", 0, o), b.open(u, "out0", 0, o)
	p, err := NewPoller(in, out)
	b.must(err)
	defer p.Close()
	small, foreign, packets := frame(1, 60), frame(2, 200), make([]Packet, 64)
	sent := 0
	n := testing.AllocsPerRun(100, func() {
		for range 20 {
			_, _ = unix.Write(from, small)
		}
		for got := 0; got < 20; {
			if more, err := p.Wait(-1); !more || err != nil {
				t.Error(err)
			}
			n := in.Receive(packets)
			got += n
			u.Release(packets[:1])
			packets[1].Data = foreign
			packets[n].Data = foreign
			sent += n
			out.Transmit(packets[1 : n+1])
		}
	})
	if n != 0 {
		t.Errorf("a batch allocates %v times", n)
	}
	accounted(t, out, sent)
	audit(t, u)
}
