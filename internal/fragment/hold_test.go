package fragment_test

import (
	"net/netip"
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
	h := fragment.NewHold[int](10, 100)
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
	h := fragment.NewHold[int](1000, 100)
	lost := 0
	for i := range 100 {
		lost += h.Add(part(1), i, 0)
	}
	if got := len(h.Take(part(1), 50)); got != 45 || lost != 55 || h.Len() != 0 {
		t.Fatalf("%d kept, %d lost", got, lost)
	}
}
