package frames

import (
	"net/netip"
	"testing"

	"github.com/ulvs/ulvs/packet"
)

// Packets are right when they are first written, and again, after a director had them,
// for another client and another service.
func TestBatch(t *testing.T) {
	services := []netip.AddrPort{netip.MustParseAddrPort("192.168.10.101:80"), netip.MustParseAddrPort("192.168.255.7:443")}
	f, err := New(services[0], SYN)
	if err != nil {
		t.Fatal(err)
	}
	for round, service := range services {
		f.To(service)
		for i := range f.List {
			client := uint32(0x0a00_fff0 + 1000*round + i)
			port := uint16(65500 + i)
			f.Client(i, client, port)
			frame := f.List[i].Data
			var p packet.Packet
			p.Parse(frame)
			want := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(client >> 16), byte(client >> 8), byte(client)}), port)
			if p.Kind != packet.TCP || p.TCPFlags != packet.SYN || p.Source() != want.Addr() || p.Flow.ClientPort() != port || p.Dest() != service.Addr() || p.Flow.VirtualPort() != service.Port() || p.TTL != 64 {
				t.Fatalf("round %d, packet %d: %+v, not from %v to %v", round, i, p, want, service)
			}
			if packet.Checksum(frame[14:34]) != 0 {
				t.Fatalf("round %d, packet %d: the header's checksum is wrong", round, i)
			}
			packet.DecrementTTL(frame, &p)
		}
	}
	if _, err := New(netip.MustParseAddrPort("[fd00::1]:80"), ACK); err == nil {
		t.Error("IPv6 was taken")
	}
}
