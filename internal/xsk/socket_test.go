package xsk

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

var small = Options{Receive: 64, Fill: 64, Transmit: 32, Complete: 32}

// A queue can be opened again as soon as it was closed, with frames in all of
// the old socket's rings and another socket on the memory or none, and no chunk
// is lost.
func TestReopen(t *testing.T) {
	b := newBed(t, 1500)
	b.redirect("in0", link.XDPDriverMode)
	from, to := b.sendSocket("in1"), b.packetSocket("out1")
	u := b.umem(MemoryOptions{Frames: 300})
	var out *Socket
	waited := 0
	for round := range 12 {
		switch round {
		case 4:
			out = b.open(u, "out0", 0, small)
		case 8:
			b.must(out.Close())
			out = b.open(u, "out0", 0, small)
		}
		immediately := small
		immediately.BindWait = -1
		q := Queue{b.index("in0"), 0}
		in, err := u.Open(q, immediately)
		if errors.Is(err, unix.EBUSY) {
			waited++
			in, err = u.Open(q, small)
		}
		b.must(err)
		b.must(b.maps["in0"].Put(uint32(0), uint32(in.FD())))
		b.send(from, frame(round, 60), frame(round, 61), frame(round, 62))
		packets := b.receive(in, 2)
		audit(t, u, packets...)
		if out != nil {
			out.Transmit(packets[:1])
			b.expect(to, frame(round, 60))
		}
		in.Transmit(packets[1:])
		u.Release(packets)
		b.must(in.Close())
		b.must(in.Close())
		audit(t, u)
		if n := in.Transmit([]Packet{{Data: frame(0, 60)}}); n != 0 || in.Receive(packets) != 0 || !in.Flush() {
			t.Error("a closed socket still does something")
		}
		accounted(t, in, 2)
		if err := in.Check(); !errors.Is(err, unix.ENXIO) || !strings.HasPrefix(err.Error(), "the socket on queue 0 of in0 is closed: ") {
			t.Errorf("a closed socket says %v", err)
		}
	}
	t.Logf("the queue was still taken %d times of 11", waited)
	b.must(u.Close())
	if u.mem == nil {
		t.Error("the memory is gone with a socket on it")
	}
	if _, err := u.Open(Queue{b.index("in0"), 0}, small); !errors.Is(err, errMemoryClosed) {
		t.Errorf("opening on closed memory says %v", err)
	}
	b.must(out.Close())
	if u.mem != nil {
		t.Error("the memory is still there")
	}
}

// What a driver with zero copy may not be done with is free when the queue is
// bound again, and not before. There is no such driver here: the socket only
// says that it has one.
func TestStranded(t *testing.T) {
	b := newBed(t, 1500)
	u := b.umem(MemoryOptions{Frames: 100})
	s := b.open(u, "out0", 0, small)
	b.ip("link set out0 down")
	s.Transmit([]Packet{{Data: frame(1, 60)}})
	s.zeroCopy = true
	b.must(s.Close())
	if n := u.Free(); n != 100-64-1 {
		t.Errorf("%d chunks are free", n)
	}
	audit(t, u)
	b.must(b.open(u, "out0", 1, Options{Receive: 32, Fill: 32, Transmit: 32, Complete: 32}).Close())
	if n := u.Free(); n != 100-64-1 {
		t.Errorf("%d chunks are free after another queue was bound", n)
	}
	b.must(b.open(u, "out0", 0, small).Close())
	if n := u.Free(); n != 100 {
		t.Errorf("%d chunks are free after the queue was bound again", n)
	}
	accounted(t, s, 1)
	audit(t, u)
}

func TestErrors(t *testing.T) {
	b := newBed(t, 1500)
	u, other := b.umem(MemoryOptions{Frames: 256}), b.umem(MemoryOptions{Frames: 256})
	taken := b.open(other, "in0", 0, small)
	for _, x := range []struct {
		q    Queue
		o    Options
		is   error
		says string
	}{
		{Queue{taken.Queue().Ifindex, 0}, Options{Receive: 32, Fill: 32, BindWait: 20 * time.Millisecond}, unix.EBUSY, "queue 0 of in0: bind: device or resource busy (another AF_XDP socket has the queue"},
		{Queue{taken.Queue().Ifindex, 7}, small, unix.EINVAL, "queue 7 of in0: bind: invalid argument (the interface may not have that queue: see ethtool -l)"},
		{Queue{4711, 0}, small, unix.ENODEV, "queue 0 of interface 4711: bind: no such device (there is no such interface"},
		{Queue{1, 0}, Options{Fill: 33}, nil, "queue 0 of lo: a fill ring of 33 slots: give a power of two from 32 to 65536"},
		{Queue{1, 0}, Options{Transmit: 1 << 17}, nil, "a transmit ring of 131072 slots"},
		{Queue{1, 0}, Options{BusyPoll: time.Hour}, nil, "busy polling for 1h0m0s: give whole microseconds up to a second"},
		{Queue{1, 0}, Options{BusyPollBudget: -1}, nil, "busy polling -1 frames: give 1 to 65535"},
		{Queue{1, 0}, Options{Fill: 256}, nil, "hold 256 frames and the memory 256"},
		{taken.Queue(), small, nil, "this memory has a socket there already: close it first"},
	} {
		u := u
		if x.q == taken.Queue() && x.is == nil {
			u = other
		}
		s, err := u.Open(x.q, x.o)
		if err == nil {
			t.Errorf("%v opens with %+v", x.q, x.o)
			b.must(s.Close())
			continue
		}
		if x.is != nil && !errors.Is(err, x.is) || !strings.Contains(err.Error(), x.says) {
			t.Errorf("got %q\nwant %q", err, x.says)
		}
	}
	audit(t, u)
	for want, o := range map[string]MemoryOptions{
		"memory for 0 frames: ask for 1 to 4194304": {Frames: 0}, "memory for 4194305 frames": {Frames: 1<<22 + 1},
		"frames of 3000 bytes: give 2048 or 4096": {Frames: 1, FrameSize: 3000},
	} {
		if _, err := NewUmem(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// A veth pair has no zero copy.
func TestModeFallsBack(t *testing.T) {
	b := newBed(t, 1500)
	b.redirect("in0", link.XDPDriverMode)
	from := b.sendSocket("in1")
	u := b.umem(MemoryOptions{Frames: 256})
	for _, name := range []string{"in0", "out0"} {
		o := small
		o.ZeroCopy, o.BusyPoll, o.BusyPollBudget = true, 20*time.Microsecond, 8
		s := b.open(u, name, 0, o)
		if zero, why := s.Mode(); zero || !errors.Is(why, unix.EOPNOTSUPP) {
			t.Errorf("%s: zero copy %v (%v)", name, zero, why)
		}
		if name == "in0" {
			b.send(from, frame(1, 60))
			u.Release(b.receive(s, 1))
		}
	}
	audit(t, u)
}

// An interface that goes down, loses its carrier, and is removed.
func TestInterfaceLost(t *testing.T) {
	b := newBed(t, 1500)
	u := b.umem(MemoryOptions{Frames: 512})
	out := b.open(u, "out0", 0, small)
	given := 0
	transmit := func(n int) {
		given += n
		packets := make([]Packet, n)
		for i := range packets {
			packets[i].Data = frame(i, 60)
		}
		out.Transmit(packets)
	}
	count := func(name string, want uint64) {
		t.Helper()
		if c := out.Counters(); c[name] != want {
			t.Errorf("%s is not %d: %v", name, want, c)
		}
		audit(t, u)
	}
	b.must(out.Check())

	b.ip("link set out1 down")
	transmit(50)
	count("tx_dropped", 50)

	b.ip("link set out0 down")
	if err := out.Check(); !errors.Is(err, unix.ENETDOWN) || !strings.Contains(err.Error(), ": the interface is down: ") {
		t.Errorf("an interface that is down says %v", err)
	}
	transmit(37)
	count("tx_down", 5)

	b.ip("link set out1 up")
	b.ip("link set out0 up")
	b.must(out.Check())
	eventually(t, "all is sent", func() bool { return sent(out) })
	count("tx_frames", 32)

	b.ip("link del out0")
	if err := out.Check(); !errors.Is(err, unix.ENXIO) || !strings.Contains(err.Error(), "the interface was removed: open a socket again when it is back: ") {
		t.Errorf("an interface that is gone says %v", err)
	}
	transmit(40)
	count("tx_down", 5+8)
	// The registration of a socket whose interface is gone is not to be had.
	in := b.open(u, "in0", 0, small)
	b.open(u, "in0", 1, small)
	b.must(out.Close())
	audit(t, u)
	if c := out.Counters(); c["tx_down"] != 5+40 {
		t.Error(c)
	}
	accounted(t, out, given)
	b.must(in.Check())
}

// A ring that nobody empties holds up neither Transmit nor Wait for long.
func TestTransmitRingFull(t *testing.T) {
	b := newBed(t, 1500)
	b.ip("link add few0 numtxqueues 1 numrxqueues 2 type veth peer name few1 numtxqueues 2 numrxqueues 1 index 300")
	b.ip("link set few0 up")
	b.ip("link set few1 up")
	u := b.umem(MemoryOptions{Frames: 256})
	s := b.open(u, "few0", 1, small) // there is no queue 1 to send by
	for i, c := range []struct{ given, taken int }{{20, 20}, {20, 12}, {5, 0}} {
		packets := make([]Packet, c.given)
		for j := range packets {
			packets[j].Data = frame(j, 60)
		}
		if n := s.Transmit(packets); n != c.taken {
			t.Errorf("batch %d: %d frames were taken, not %d", i, n, c.taken)
		}
	}
	if s.Flush() {
		t.Error("the ring is empty")
	}
	p, err := NewPoller(s)
	b.must(err)
	if more, err := p.Wait(-1); !more || err != nil {
		t.Error(more, err)
	}
	b.must(p.Close())
	b.must(s.Close())
	if c := s.Counters(); c["tx_ring_full"] != 13 || c["tx_down"] != 32 {
		t.Error(c)
	}
	accounted(t, s, 45)
	audit(t, u)
}

func TestPoller(t *testing.T) {
	b := newBed(t, 1500)
	b.redirect("in0", link.XDPGenericMode)
	from := b.sendSocket("in1")
	u := b.umem(MemoryOptions{Frames: 100})
	in, out := b.open(u, "in0", 0, small), b.open(u, "out0", 0, Options{Receive: 32, Fill: 32, Transmit: 32, Complete: 32})
	p, err := NewPoller(in, out)
	b.must(err)
	if more, err := p.Wait(0); !more || err != nil {
		t.Error(more, err)
	}
	time.AfterFunc(10*time.Millisecond, func() { _, _ = unix.Write(from, frame(1, 60)) })
	packets := make([]Packet, 200)
	if more, err := p.Wait(-1); !more || err != nil || in.Receive(packets) != 1 {
		t.Error(more, err)
	}
	// While the caller has all memory, nothing could end a wait.
	n := 1
	for range 100 {
		b.send(from, frame(2, 60))
		n += in.Receive(packets[n:])
	}
	if n != 68 {
		t.Errorf("%d chunks were to be had", n)
	}
	if more, err := p.Wait(-1); !more || err != nil {
		t.Error(more, err)
	}
	u.Release(packets)
	if more, err := p.Wait(0); !more || err != nil {
		t.Error(more, err)
	}
	audit(t, u)
	time.AfterFunc(10*time.Millisecond, p.End)
	for more := true; more; {
		more, err = p.Wait(-1)
		b.must(err)
	}
	b.must(p.Close())
	b.must(p.Close())
	p.End()
}
