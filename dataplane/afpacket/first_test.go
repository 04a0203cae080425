package afpacket

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ulvs/ulvs/dataplane"
)

// each gives the first frames to the virtual address a way each: the hops, and then the
// host and back.
type each struct {
	hops []*dataplane.NextHop
	seen atomic.Int32
}

func (h *each) Handle(_ time.Duration, batch []dataplane.Frame) {
	for i := range batch {
		f := &batch[i]
		if dst, ok := destination(f.Data); !ok || dst != virtual4 {
			continue
		}
		switch n := int(h.seen.Add(1)) - 1; {
		case n < len(h.hops):
			f.Verdict, f.Hop = dataplane.Transmit, h.hops[n]
		case n == len(h.hops):
			f.Verdict = dataplane.Host
		default:
			f.Verdict = dataplane.Transmit
		}
	}
}

// Whatever way the first frame takes, its socket and its ring are there: those of the
// interfaces and of lo from the start, those of others since a next hop leads there.
func TestFirstFrameOpensNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.in(director, func() {
		l.ip("link add eth1 type veth peer name eth1s index 200")
		l.ip("addr add 10.7.0.2/24 dev eth1")
		l.ip("link set eth1 up")
		l.move("eth1s", server)
	})
	l.in(server, func() {
		l.ip("addr add 10.7.0.3/24 dev eth1s")
		l.ip("link set eth1s up")
	})
	h := new(each)
	var p *Plane
	l.in(director, func() {
		var err error
		p, err = New(Options{Interfaces: []string{"eth0"}})
		l.must(err)
	})
	if n := len(*p.senders.Load()); n != 2 {
		t.Errorf("%d interfaces can be sent by at first, not eth0 and lo", n)
	}
	for _, a := range []string{"10.8.0.3", "10.7.0.3"} {
		h.hops = append(h.hops, p.Resolver().NextHop(netip.MustParseAddr(a)))
	}
	before := p.senders.Load()
	run(t, p, h)
	for _, hop := range h.hops {
		eventually(t, "the server is found", func() bool { return hop.Neighbor().State == dataplane.HopReachable })
	}
	inject := l.injector(client, "eth0")
	const frames = 4
	for n := range uint64(frames) {
		inject(udp(macOf(director), nil), dataplane.Offload{})
		eventually(t, "a frame is sent", func() bool { return p.Counters()["tx_frames"] == n+1 })
	}
	if after := p.senders.Load(); after != before {
		t.Errorf("sockets were opened for frames: %d, then %d", len(*before), len(*after))
	}
}
