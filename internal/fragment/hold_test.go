package fragment_test

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/ulvs/ulvs/internal/fragment"
	"github.com/ulvs/ulvs/packet"
)

func part(id uint32) *packet.Packet {
	return &packet.Packet{
		Kind: packet.UDP, Proto: packet.ProtoUDP, FragID: id, Fragment: true,
		Flow: packet.NewFlow(packet.ProtoUDP, netip.MustParseAddrPort("10.1.1.1:0"), netip.MustParseAddrPort("192.0.2.1:0")),
	}
}

func TestHold(t *testing.T) {
	h := fragment.NewHold[int](10, 1<<20, 100)
	for i := range 3 {
		if lost := h.Add(part(1), i, 0) + h.Add(part(2), 10+i, 0); lost != 0 {
			t.Fatalf("%d lost", lost)
		}
	}
	if got := h.Take(part(1), 50); !slices.Equal(got, []int{0, 1, 2}) {
		t.Fatalf("took %v", got)
	}
	if got := h.Take(part(1), 50); got != nil {
		t.Fatalf("took %v again", got)
	}
	if h.Len() != 3 {
		t.Fatalf("%d wait, want 3", h.Len())
	}
	// A datagram whose first does not come is given up after its time.
	if lost := h.Add(part(3), 30, 100); lost != 3 || h.Len() != 1 {
		t.Fatalf("%d lost, %d wait", lost, h.Len())
	}
	// Beyond the limit the oldest datagram gives way.
	for i := range 9 {
		if lost := h.Add(part(uint32(4+i)), 40+i, 101); lost != 0 {
			t.Fatalf("%d lost", lost)
		}
	}
	if lost := h.Add(part(99), 99, 102); lost != 1 || h.Take(part(3), 102) != nil || h.Len() != 10 {
		t.Fatalf("%d lost, %d wait", lost, h.Len())
	}
}

// Of one datagram no more is kept than a datagram can have.
func TestHoldOneDatagram(t *testing.T) {
	h := fragment.NewHold[int](1000, 1<<20, 100)
	lost := 0
	for i := range 100 {
		lost += h.Add(part(1), i, 0)
	}
	if got := len(h.Take(part(1), 50)); got != 45 || lost != 55 || h.Len() != 0 {
		t.Fatalf("%d kept, %d lost", got, lost)
	}
}

// sized is a fragment of so many bytes.
func sized(id uint32, size int) *packet.Packet {
	p := part(id)
	p.L3, p.End = 14, 14+size
	return p
}

// slowHold is a Hold that looks through everything: datagrams in the order in which they
// came, and sums made anew each time.
type slowHold struct {
	list               []slowDatagram
	limit, space, most int
	life               uint32
}

type slowDatagram struct {
	id     uint32
	since  uint32
	frames []int
	sizes  []int
}

func (h *slowHold) sums() (frames, bytes int) {
	for _, d := range h.list {
		frames += len(d.frames)
		for _, s := range d.sizes {
			bytes += s
		}
	}
	return frames, bytes
}

func (h *slowHold) add(id uint32, f, size int, now uint32) (lost int) {
	for len(h.list) > 0 {
		frames, bytes := h.sums()
		if frames < h.limit && bytes+size <= h.space && now-h.list[0].since < h.life {
			break
		}
		lost += len(h.list[0].frames)
		h.list = h.list[1:]
	}
	at := slices.IndexFunc(h.list, func(d slowDatagram) bool { return d.id == id })
	if at < 0 {
		at = len(h.list)
		h.list = append(h.list, slowDatagram{id: id, since: now})
	}
	d := &h.list[at]
	if len(d.frames) == h.most {
		return lost + 1
	}
	d.frames, d.sizes = append(d.frames, f), append(d.sizes, size)
	return lost
}

func (h *slowHold) take(id, now uint32) []int {
	at := slices.IndexFunc(h.list, func(d slowDatagram) bool { return d.id == id && now-d.since < h.life })
	if at < 0 {
		return nil
	}
	frames := h.list[at].frames
	h.list = slices.Delete(slices.Clone(h.list), at, at+1)
	return frames
}

func TestHoldAgainstOracle(t *testing.T) {
	for _, c := range []struct {
		name         string
		limit, space int
		ids          int
	}{
		{"fragments are what fills it", 60, 1 << 20, 40},
		{"bytes are what fills it", 1000, 20000, 40},
		{"one datagram is what fills it", 200, 1 << 20, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(c.space)))
			h, o := fragment.NewHold[int](c.limit, c.space, 100), &slowHold{limit: c.limit, space: c.space, most: 45, life: 100}
			now, lost, taken := uint32(1<<32-500), 0, 0 // the tick wraps on the way
			for step := range 20000 {
				if now += uint32(rng.IntN(2)); rng.IntN(300) == 0 {
					now += uint32(rng.IntN(200))
				}
				id := uint32(rng.IntN(c.ids))
				if rng.IntN(max(4, 200/c.ids)) == 0 {
					got, want := h.Take(part(id), now), o.take(id, now)
					if !slices.Equal(got, want) {
						t.Fatalf("step %d: took %v, want %v", step, got, want)
					}
					taken += len(got)
					continue
				}
				size := 1 + rng.IntN(1500)
				got, want := h.Add(sized(id, size), step, now), o.add(id, step, size, now)
				frames, bytes := o.sums()
				if got != want || h.Len() != frames {
					t.Fatalf("step %d: %d lost, want %d; %d wait, want %d", step, got, want, h.Len(), frames)
				}
				if frames > c.limit || bytes > c.space {
					t.Fatalf("step %d: %d fragments of %d bytes wait", step, frames, bytes)
				}
				lost += got
			}
			if lost < 1000 || taken < 1000 {
				t.Errorf("%d lost, %d taken: the test does not test", lost, taken)
			}
		})
	}
}

// Behind a datagram that never completes, others come and go, and leave nothing behind.
func TestHoldForgets(t *testing.T) {
	h := fragment.NewHold[int](1024, 1<<20, 7500)
	h.Add(part(0), 0, 1)
	memory := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := memory()
	for i := range 200_000 {
		p := part(uint32(1 + i%60000))
		if lost := h.Add(p, i, 1); lost != 0 {
			t.Fatalf("%d lost", lost)
		}
		if got := h.Take(p, 1); len(got) != 1 || got[0] != i {
			t.Fatalf("took %v", got)
		}
	}
	if after := memory(); h.Len() != 1 || after > before+1<<20 {
		t.Errorf("%d wait, and %d kB more memory than before", h.Len(), (after-before)>>10)
	}
	runtime.KeepAlive(h)
}
