package dataplane_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"runtime"
	"sync"
	"testing"

	"github.com/ulvs/ulvs/dataplane"
)

var (
	server    = netip.MustParseAddr("192.168.10.200")
	resolving = dataplane.Neighbor{State: dataplane.HopResolving, Ifindex: 2, MTU: 1500}
	reachable = dataplane.Neighbor{State: dataplane.HopReachable, Ifindex: 2, MTU: 1500, Dst: dataplane.MAC{2, 0, 0, 0, 0, 1}, Src: dataplane.MAC{2, 0, 0, 0, 0, 2}}
	local     = dataplane.Neighbor{State: dataplane.HopLocal, Ifindex: 1}
	none      = dataplane.Neighbor{State: dataplane.HopUnreachable}
)

func numbered(n int) *dataplane.Frame {
	return &dataplane.Frame{Data: binary.BigEndian.AppendUint32(nil, uint32(n)), In: 3, Verdict: dataplane.Transmit}
}

func number(f *dataplane.Frame) int { return int(binary.BigEndian.Uint32(f.Data)) }

// sink is where parked frames are sent to. The lock is for the tests that
// send from two goroutines.
type sink struct {
	mu   sync.Mutex
	sent []int
}

func (s *sink) send(f *dataplane.Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, number(f))
}

func (s *sink) expect(t *testing.T, what string, from, to int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sent) != to-from {
		t.Fatalf("%s: %d frames were sent, want %d: %v", what, len(s.sent), to-from, s.sent)
	}
	for i, n := range s.sent {
		if n != from+i {
			t.Fatalf("%s: number %d is frame %d, want %d: %v", what, i, n, from+i, s.sent)
		}
	}
}

func TestNewNextHop(t *testing.T) {
	h := dataplane.NewNextHop(server, nil)
	if n := h.Neighbor(); h.Addr() != server || n == nil || *n != none || h.Lost() != 0 {
		t.Errorf("%v, %+v, %d lost", h.Addr(), h.Neighbor(), h.Lost())
	}
}

// What Park and Set do in each state, without a resolver that helps.
func TestParkByState(t *testing.T) {
	for _, c := range []struct {
		name  string
		state dataplane.Neighbor
		kept  bool
		lost  uint64
		wants int
	}{
		{"unreachable", none, true, 1, 1},
		{"resolving", resolving, true, 0, 1},
		{"reachable", reachable, false, 0, 0},
		{"local", local, false, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s sink
			wants := 0
			h := dataplane.NewNextHop(server, func(*dataplane.NextHop) { wants++ })
			h.Set(c.state)
			if *h.Neighbor() != c.state {
				t.Errorf("state is %+v", h.Neighbor())
			}
			if kept := h.Park(numbered(0), s.send); kept != c.kept || h.Lost() != c.lost || wants != c.wants {
				t.Errorf("kept %v, %d lost, %d wants", kept, h.Lost(), wants)
			}
			s.expect(t, "at once", 0, 0)
			// Only what was parked while resolving may come now.
			h.Set(reachable)
			if c.name == "resolving" {
				s.expect(t, "resolved", 0, 1)
			} else {
				s.expect(t, "resolved", 0, 0)
			}
		})
	}
}

// Parked frames are sent once each, in their order, by Set itself; another
// change of the link addresses does not send them again.
func TestSetSendsInOrder(t *testing.T) {
	var s sink
	h := dataplane.NewNextHop(server, nil)
	h.Set(resolving)
	for i := range 10 {
		if !h.Park(numbered(i), s.send) {
			t.Fatal("not parked")
		}
	}
	again := resolving
	again.MTU = 9000
	h.Set(again) // still resolving: they go on waiting
	s.expect(t, "still resolving", 0, 0)
	if *h.Neighbor() != again {
		t.Errorf("state is %+v", h.Neighbor())
	}
	h.Set(reachable)
	s.expect(t, "reachable", 0, 10)
	moved := reachable
	moved.Dst[5] = 9
	h.Set(moved)
	h.Set(none)
	h.Set(resolving)
	h.Set(reachable)
	s.expect(t, "later", 0, 10)
	if h.Lost() != 0 {
		t.Errorf("%d lost", h.Lost())
	}
}

// A frame that was parked is sent to the hop as it was resolved, though the hop
// itself still has its old state, so that no later frame overtakes it.
func TestParkedFrameSeesResolvedHop(t *testing.T) {
	h := dataplane.NewNextHop(server, nil)
	h.Set(resolving)
	f := numbered(1)
	f.Hop = h
	f.Offload = dataplane.Offload{Flags: dataplane.NeedsChecksum, CsumStart: 34, CsumOffset: 16}
	calls := 0
	h.Park(f, func(got *dataplane.Frame) {
		calls++
		if got.Hop == nil || got.Hop.Addr() != server || *got.Hop.Neighbor() != reachable {
			t.Errorf("hop is %+v", got.Hop)
		}
		if got.Offload != f.Offload || got.In != 3 || got.Verdict != dataplane.Transmit || number(got) != 1 {
			t.Errorf("frame is %+v", got)
		}
		if *h.Neighbor() != resolving {
			t.Error("a frame that comes now would overtake")
		}
	})
	h.Set(reachable)
	if calls != 1 || *h.Neighbor() != reachable || f.Hop != h {
		t.Errorf("%d calls, %+v", calls, h.Neighbor())
	}
}

// The caller's memory is its own again when Park returns.
func TestParkCopies(t *testing.T) {
	h := dataplane.NewNextHop(server, nil)
	h.Set(resolving)
	f := &dataplane.Frame{Data: make([]byte, 4, 64)}
	var got [][]byte
	for i := range 3 {
		f.Data = f.Data[:4]
		copy(f.Data, []byte{'p', 'k', 't', byte('0' + i)})
		f.In = i
		h.Park(f, func(p *dataplane.Frame) {
			if p.In != i {
				t.Errorf("frame %d came in on %d", i, p.In)
			}
			copy(p.Data, "PKT") // the sender may write link addresses
			got = append(got, p.Data)
		})
		clear(f.Data[:64:64])
	}
	f.Data, f.In = append(f.Data[:4], "more"...), 77
	h.Set(reachable)
	if want := [][]byte{[]byte("PKT0"), []byte("PKT1"), []byte("PKT2")}; !bytes.Equal(bytes.Join(got, nil), bytes.Join(want, nil)) {
		t.Errorf("sent %q, want %q", got, want)
	}
	if string(f.Data) != "\x00\x00\x00\x00more" {
		t.Errorf("the caller's memory became %q", f.Data)
	}
}

// Beyond the limit the oldest are given up, and counted.
func TestParkLimit(t *testing.T) {
	for _, extra := range []int{0, 1, 7, 3 * dataplane.ParkLimit} {
		var s sink
		h := dataplane.NewNextHop(server, nil)
		h.Set(resolving)
		for i := range dataplane.ParkLimit + extra {
			if !h.Park(numbered(i), s.send) {
				t.Fatal("not parked")
			}
		}
		if h.Lost() != uint64(extra) {
			t.Errorf("%d too many: %d lost", extra, h.Lost())
		}
		h.Set(reachable)
		s.expect(t, "the newest", extra, extra+dataplane.ParkLimit)
	}
}

// What waits when resolving fails, or when the address becomes the host's own,
// is given up and counted.
func TestSetGivesUp(t *testing.T) {
	for _, end := range []dataplane.Neighbor{none, local} {
		var s sink
		h := dataplane.NewNextHop(server, nil)
		h.Set(resolving)
		for i := range 5 {
			h.Park(numbered(i), s.send)
		}
		h.Set(end)
		if h.Lost() != 5 {
			t.Errorf("state %d: %d lost", end.State, h.Lost())
		}
		h.Set(resolving)
		h.Park(numbered(5), s.send)
		h.Set(reachable)
		s.expect(t, "after it came back", 5, 6)
		if h.Lost() != 5 {
			t.Errorf("state %d, then: %d lost", end.State, h.Lost())
		}
	}
}

// A frame for an unreachable hop asks the resolver first, which may change the
// state while it is asked: so want is called without locks held.
func TestParkAsksWhenUnreachable(t *testing.T) {
	for _, c := range []struct {
		name       string
		becomes    dataplane.Neighbor
		kept       bool
		lost       uint64
		waits      int
		wantsTwice bool
	}{
		{"stays unreachable", none, true, 1, 0, false},
		{"starts resolving", resolving, true, 0, 1, true},
		{"knows it already", reachable, false, 0, 0, false},
		{"is the host's own now", local, false, 0, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s sink
			wants := 0
			h := dataplane.NewNextHop(server, func(h *dataplane.NextHop) {
				if h.Addr() != server {
					t.Errorf("asked for %v", h.Addr())
				}
				if wants++; wants == 1 {
					h.Set(c.becomes)
				}
			})
			if kept := h.Park(numbered(0), s.send); kept != c.kept || h.Lost() != c.lost {
				t.Errorf("kept %v, %d lost", kept, h.Lost())
			}
			// The second is the one of every parked frame.
			if (wants == 2) != c.wantsTwice || wants > 2 {
				t.Errorf("asked %d times", wants)
			}
			h.Set(reachable)
			s.expect(t, "resolved", 0, c.waits)
		})
	}
}

// A resolver that finds the address as soon as the frame waits for it.
func TestParkResolvedInWant(t *testing.T) {
	var s sink
	h := dataplane.NewNextHop(server, func(h *dataplane.NextHop) { h.Set(reachable) })
	h.Set(resolving)
	if !h.Park(numbered(0), s.send) {
		t.Error("not parked")
	}
	s.expect(t, "sent by want", 0, 1)
	if h.Park(numbered(1), s.send) {
		t.Error("parked though reachable")
	}
	s.expect(t, "no second time", 0, 1)
}

// One goroutine sends frames as a plane does, while another resolves: frames
// leave in the order in which they came, each once.
func TestOrderUnderConcurrency(t *testing.T) {
	const rounds, frames = 200, 60 // fewer than ParkLimit: none may be lost
	for round := range rounds {
		var s sink
		h := dataplane.NewNextHop(server, func(*dataplane.NextHop) {})
		h.Set(resolving)
		var wg sync.WaitGroup
		started := make(chan struct{})
		wg.Go(func() {
			<-started
			for range round % 20 {
				runtime.Gosched()
			}
			h.Set(reachable)
		})
		parked := 0
		for i := range frames {
			if i == round%frames {
				close(started)
			}
			f := numbered(i)
			if h.Neighbor().State == dataplane.HopResolving && h.Park(f, s.send) {
				parked++
				continue
			}
			s.send(f)
		}
		wg.Wait()
		s.expect(t, "round", 0, frames)
		if h.Lost() != 0 {
			t.Fatalf("%d lost", h.Lost())
		}
	}
}

// Several planes' goroutines and a resolver that changes its mind: every frame
// is sent once, or refused, or counted as lost; each goroutine's frames keep
// their order.
func TestNothingTwiceNothingForgotten(t *testing.T) {
	const senders, frames = 4, 2000
	h := dataplane.NewNextHop(server, func(*dataplane.NextHop) {})
	var (
		s       sink
		refused [senders]int
		wg      sync.WaitGroup
		done    = make(chan struct{})
		changes sync.WaitGroup
	)
	changes.Go(func() {
		states := []dataplane.Neighbor{resolving, reachable, resolving, none, resolving, local}
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
				h.Set(states[i%len(states)])
				runtime.Gosched()
			}
		}
	})
	for id := range senders {
		wg.Go(func() {
			for i := range frames {
				if !h.Park(numbered(id*frames+i), s.send) {
					refused[id]++
				}
			}
		})
	}
	wg.Wait()
	close(done)
	changes.Wait()
	h.Set(reachable) // what still waits leaves now
	total := uint64(len(s.sent)) + h.Lost()
	for _, n := range refused {
		total += uint64(n)
	}
	if total != senders*frames {
		t.Errorf("%d sent, %d lost, %v refused: %d of %d frames", len(s.sent), h.Lost(), refused, total, senders*frames)
	}
	var last [senders]int
	for i := range last {
		last[i] = -1
	}
	for _, n := range s.sent {
		if id := n / frames; n <= last[id] {
			t.Fatalf("frame %d of sender %d after %d", n%frames, id, last[id]%frames)
		} else {
			last[id] = n
		}
	}
}
