package afpacket

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// numbered is a frame of TCP to the virtual address, with a number that says which.
func numbered(flags byte, number int) []byte {
	h := tcpHeader(flags, 0, 0)
	binary.BigEndian.PutUint32(h[4:], uint32(number))
	return ether(0x0800, ip4(6, 0, 0, h))
}

// sequence records the numbers of frames as the handler sees them.
type sequence struct {
	mu   sync.Mutex
	seen []int
	syns int // among them
}

func (h *sequence) Handle(_ time.Duration, batch []dataplane.Frame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range batch {
		if dst, ok := destination(f.Data); ok && dst == virtual4 && f.Data[23] == unix.IPPROTO_TCP {
			h.seen = append(h.seen, int(binary.BigEndian.Uint32(f.Data[38:])))
			if f.Data[47]&syn != 0 {
				h.syns++
			}
		}
	}
}

func (h *sequence) numbers() []int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.seen)
}

// oneCPU keeps the calling goroutine's frames in order: each CPU has a queue of its own.
func oneCPU(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	var was, one unix.CPUSet
	err := unix.SchedGetaffinity(0, &was)
	for i := 0; err == nil && one.Count() == 0; i++ {
		if was.IsSet(i) {
			one.Set(i)
		}
	}
	if err == nil {
		err = unix.SchedSetaffinity(0, &one)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.SchedSetaffinity(0, &was)
		runtime.UnlockOSThread()
	})
}

// feed sends a frame for each slot of a ring from the first one on, which has nobody who
// takes them, and waits for them.
func feed(t *testing.T, g *ring, n int, send func(i int)) {
	t.Helper()
	for i := range n {
		send(i)
		// The queue in between is a short one.
		if i%64 == 63 || i == n-1 {
			eventually(t, fmt.Sprintf("slot %d is filled", i), func() bool { return g.filled(i) })
		}
	}
}

func (g *ring) filled(i int) bool { return loadStatus(g.slot(i))&unix.TP_STATUS_USER != 0 }

// While the ring of SYNs is full, packets of connections are neither lost nor late, and
// SYNs have their share of the time.
func TestSYNsFillTheirOwnRing(t *testing.T) {
	oneCPU(t)
	const (
		beyond  = 500
		waiting = 2000    // others
		number  = 1 << 20 // from here on theirs
	)
	l := newLab(t)
	r, inject := bench(t, l)
	feed(t, &r.sock.syns, synSlots, func(i int) { inject(numbered(syn, i), dataplane.Offload{}) })
	for i := range beyond {
		inject(numbered(syn, synSlots+i), dataplane.Offload{})
		if i%64 == 63 || i == beyond-1 {
			eventually(t, "the ring is full", func() bool { return r.p.Counters()["rx_syn_lost"] == uint64(i+1) })
		}
	}
	feed(t, &r.sock.ring, waiting, func(i int) { inject(numbered(ack, number+i), dataplane.Offload{}) })
	h := new(sequence)
	run(t, r.p, h)
	eventually(t, "all in the rings are handled", func() bool { return len(h.numbers()) >= synSlots+waiting })
	if c := r.p.Counters(); c["rx_ring_lost"] != 0 || c["rx_syn_lost"] != beyond || c["rx_frames"] < synSlots+waiting {
		t.Errorf("%v", c)
	}
	// In the order of each ring, none lost and none twice.
	nextSYN, nextOther := 0, number
	for at, n := range h.numbers() {
		switch n {
		case nextSYN:
			nextSYN++
		case nextOther:
			nextOther++
		default:
			t.Fatalf("frame %d is number %d, and not %d or %d", at, n, nextSYN, nextOther)
		}
		// Few frames are in between that are neither.
		others, syns := nextOther-number, nextSYN
		if others > perSYN*(syns+1) || others > 0 && others < waiting && syns > others/perSYN+20 {
			t.Fatalf("%d SYNs and %d others: one SYN should come after %d others", syns, others, perSYN)
		}
	}
}

// Where few SYNs wait, frames are taken in the order in which they came, whichever their ring.
func TestRingsInOrder(t *testing.T) {
	oneCPU(t)
	l := newLab(t)
	r, inject := bench(t, l)
	rng := rand.New(rand.NewPCG(13, 4))
	h := new(sequence)
	sent, syns := 0, 0
	large, gso := unsegmented(make([]byte, 9000))
	const burst = syncedSYNs / 4
	send := func() {
		for until := syns + burst; syns < until; sent++ {
			var flags byte = ack
			if rng.IntN(2) == 0 {
				flags, syns = syn, syns+1
			}
			inject(numbered(flags, sent), dataplane.Offload{})
			if rng.IntN(50) == 0 {
				sent++
				binary.BigEndian.PutUint32(large[38:], uint32(sent))
				inject(large, gso)
			}
		}
	}
	for range syncedSYNs / burst { // before anybody takes them
		send()
		eventually(t, "all are in the rings", func() bool {
			return r.sock.filled(sent-syns-1) && r.sock.syns.filled(syns-1)
		})
	}
	run(t, r.p, h)
	for range 40 { // and while somebody does
		eventually(t, "all are handled", func() bool { return len(h.numbers()) == sent })
		send()
	}
	eventually(t, "all are handled", func() bool { return len(h.numbers()) == sent })
	for i, n := range h.numbers() {
		if n != i {
			t.Fatalf("frame %d came when %d was due", n, i)
		}
	}
	if c := r.p.Counters(); h.syns != syns || c["rx_ring_lost"]+c["rx_syn_lost"] != 0 {
		t.Errorf("%d SYNs of %d: %v", h.syns, syns, c)
	}
}

// inMemory is a ring without a socket, of which the test is the kernel.
func inMemory(slots int) ring { return ring{fd: -1, mem: make([]byte, slots*slotSize)} }

func written(g *ring, i int, second uint32) {
	slot := g.slot(i)
	native.PutUint32(slot[slotSec:], second)
	storeStatus(slot, unix.TP_STATUS_USER)
}

// A SYN that came before the host's clock was put back is not the youngest for ever.
func TestClockPutBack(t *testing.T) {
	s := &receiveSocket{ring: inMemory(rxSlots), syns: inMemory(synSlots)}
	written(&s.syns, 0, 7200)
	for i := range rxSlots {
		written(&s.ring, i, 3600)
	}
	for taken := 0; ; taken++ {
		s.begin()
		from, _, _ := s.next()
		if from == &s.syns {
			return
		}
		if taken > rxSlots {
			t.Fatalf("%d frames went before the SYN", taken)
		}
		from.taken++
		from.giveBack()
		written(&s.ring, rxSlots-1, 3600) // which is the slot that was given back
	}
}

// What the interface does is an error of both sockets. None stays, and wakes the receiver
// for ever.
func TestErrorsOfBothSockets(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r, inject := bench(t, l)
	l.in(director, func() { l.ip("link set eth0 down") })
	r.sock.interrupt() // so that it does not wait
	failed := false
	eventually(t, "both errors are taken", func() bool {
		if r.sock.wait() {
			failed = true
			_, _ = unix.GetsockoptInt(r.sock.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		}
		_ = r.sock.wait()
		return failed && (r.sock.poll[0].Revents|r.sock.poll[1].Revents)&unix.POLLERR == 0
	})
	l.in(director, func() { l.ip("link set eth0 up") })
	h := new(sequence)
	eventually(t, "frames of both rings", func() bool {
		inject(numbered(syn, 0), dataplane.Offload{})
		inject(numbered(ack, 1), dataplane.Offload{})
		for r.step(h) > 0 {
		}
		return slices.Contains(h.seen, 0) && slices.Contains(h.seen, 1)
	})
}
