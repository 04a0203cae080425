package dataplanetest

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/ulvs/ulvs/dataplane"
)

// decide is a handler that does what the first byte of a frame's payload
// says.
type decide struct {
	hop *dataplane.NextHop
	now time.Duration
}

func (d *decide) Handle(now time.Duration, batch []dataplane.Frame) {
	d.now = now
	for i := range batch {
		f := &batch[i]
		f.Verdict = dataplane.Verdict(f.Data[14])
		if f.Verdict == dataplane.Transmit && f.Data[15] != 0 {
			f.Hop = d.hop
		}
	}
}

func frame(verdict dataplane.Verdict, hop byte, n byte) dataplane.Frame {
	return dataplane.Frame{Data: append(make([]byte, 14), byte(verdict), hop, n), In: 3}
}

func TestDeliver(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.1")
	r := NewResolver()
	r.SetLink(7, "eth7", dataplane.MAC{2, 0, 0, 0, 0, 7}, netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7"))
	hop := r.NextHop(addr)
	p, h := New(), &decide{hop: hop}
	p.Attach(h)
	p.Advance(time.Minute)

	input := []dataplane.Frame{frame(dataplane.Pass, 0, 1), frame(dataplane.Drop, 0, 2), frame(dataplane.Transmit, 0, 3), frame(dataplane.Transmit, 1, 4)}
	got := p.Deliver(input...)
	if h.now != time.Hour+time.Minute || p.Now() != h.now {
		t.Errorf("now was %v", h.now)
	}
	for i, want := range []Result{{Verdict: dataplane.Pass}, {Verdict: dataplane.Drop}, {Verdict: dataplane.Transmit, Out: 3}, {Verdict: dataplane.Transmit, Parked: true, Hop: hop}} {
		g := got[i]
		if g.Verdict != want.Verdict || g.Out != want.Out || g.Parked != want.Parked || g.Hop != want.Hop || g.In != 3 || !bytes.Equal(g.Data, input[i].Data) {
			t.Errorf("frame %d: %+v", i, g)
		}
	}
	if hop.Lost() != 1 || r.Wants(addr) != 1 {
		t.Errorf("unreachable: %d lost, %d wants", hop.Lost(), r.Wants(addr))
	}

	r.Set(addr, dataplane.Neighbor{State: dataplane.HopResolving})
	p.Deliver(frame(dataplane.Transmit, 1, 5), frame(dataplane.Transmit, 1, 6))
	if len(p.Sent()) != 0 {
		t.Error("sent before it was resolved")
	}
	r.SetReachable(addr, 7, dataplane.MAC{2, 0, 0, 0, 0, 1})
	want := func(got []Result, numbers ...byte) {
		t.Helper()
		if len(got) != len(numbers) {
			t.Fatalf("%d frames, want %d", len(got), len(numbers))
		}
		for i, n := range numbers {
			if d := got[i].Data; d[16] != n || d[5] != 1 || d[11] != 7 || got[i].Out != 7 {
				t.Errorf("frame %d: %+v", i, got[i])
			}
		}
	}
	want(p.Sent(), 5, 6)
	want(p.Deliver(frame(dataplane.Transmit, 1, 7)), 7)
	if c := p.Counters(); c["rx_frames"] != 7 || c["tx_frames"] != 4 || c["parked"] != 3 || c["passed"] != 1 || c["dropped"] != 1 {
		t.Errorf("%v", c)
	}
	in := frame(dataplane.Transmit, 1, 8)
	if n := testing.AllocsPerRun(100, func() { p.Deliver(in, in, in) }); n != 0 {
		t.Errorf("Deliver allocates %v times", n)
	}
}

func TestResolver(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	r := NewResolver()
	r.SetLocal(b, true)
	h := r.NextHop(a)
	if r.NextHop(a) != h || r.Refs(a) != 2 || r.NextHop(b).Neighbor().State != dataplane.HopLocal || !r.Local(b) || r.Local(a) {
		t.Error("wrong from the beginning")
	}
	r.Release(h)
	r.Release(h)
	if r.Refs(a) != 0 || r.NextHop(a) == h {
		t.Error("a released hop came back")
	}
	defer func() {
		if recover() == nil {
			t.Error("one release too many was taken")
		}
	}()
	r.Release(h)
}

func TestClaimsAndRun(t *testing.T) {
	p := New()
	refuse := errors.New("no")
	p.FailClaims(refuse)
	if err := p.Claim(dataplane.Claims{}); err != refuse {
		t.Errorf("got %v", err)
	}
	p.FailClaims(nil)
	if err := p.Claim(dataplane.Claims{Marks4: []uint32{1}}); err != nil {
		t.Error(err)
	}
	if c, n := p.Claims(); n != 1 || len(c.Marks4) != 1 {
		t.Errorf("%d claims, last %+v", n, c)
	}
	p.SetWithholds(true)
	if !p.Withholds() {
		t.Error("does not withhold")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Run(ctx, &decide{}); err != nil {
		t.Error(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("delivered without a handler")
		}
	}()
	p.Deliver(frame(dataplane.Pass, 0, 0))
}
