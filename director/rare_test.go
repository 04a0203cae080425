package director_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/packet"
)

// portless is a packet of ESP or AH to the virtual address.
func portless(t testing.TB, proto layers.IPProtocol, from string) []byte {
	return serialize(t,
		&layers.Ethernet{SrcMAC: clientMAC[:], DstMAC: directorMAC[:], EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: netip.MustParseAddr(from).AsSlice(),
			DstIP: netip.MustParseAddr(vip).AsSlice()},
		gopacket.Payload(make([]byte, 24)))
}

// ESP and AH follow their client's ISAKMP connection, and are claimed with its service; the
// rest is the host's.
func TestISAKMP(t *testing.T) {
	const esp, ah = layers.IPProtocolESP, layers.IPProtocolAH
	b := withholding(t)
	web := b.service(ulvs.Service{ServiceKey: udp(53), Scheduler: "rr"}, 1)
	expect(t, "without a service for ISAKMP", b.deliver(portless(t, esp, "10.1.1.1")), "pass")
	b.must(b.DeleteService(web))
	k := b.service(ulvs.Service{ServiceKey: udp(500), Scheduler: "rr"}, 2)
	if !b.claims(50, 0) || !b.claims(51, 0) {
		t.Error("ESP and AH are not claimed")
	}
	expect(t, "without a connection", b.deliver(portless(t, esp, "10.1.1.1")), "host")
	isakmp := pkt{proto: "udp", src: "10.1.1.1:500", dst: vip + ":500"}
	expect(t, "the connection, and another port's", b.sends(isakmp, pkt{proto: "udp", src: "10.1.1.2:501", dst: vip + ":500"}),
		"r1 r0")
	expect(t, "ESP", b.deliver(portless(t, esp, "10.1.1.1")), "r1")
	expect(t, "AH", b.deliver(portless(t, ah, "10.1.1.1")), "r1")
	expect(t, "another client's", b.deliver(portless(t, esp, "10.1.1.2")), "host")
	b.must(b.DeleteDestination(k, netip.MustParseAddrPort(serverAddr(1)+":500")))
	expect(t, "its server is removed", b.deliver(portless(t, esp, "10.1.1.1")), "drop")
	b.must(b.SetSysctl("expire_nodest_conn", 1))
	expect(t, "with expire_nodest_conn", b.deliver(portless(t, esp, "10.1.1.1")), "host")
	expect(t, "and then", b.send(isakmp), "r0")
}

// optioned is a SYN with IPv4 options.
func optioned(t testing.TB, port int, options ...byte) []byte {
	f := pkt{src: fmt.Sprintf("10.1.1.1:%d", port), dst: vip + ":80", flags: "S"}.frame(t)
	const l3, header = 14, 20
	g := append(append(append([]byte{}, f[:l3+header]...), options...), f[l3+header:]...)
	g[l3] = 0x40 | byte((header+len(options))/4)
	binary.BigEndian.PutUint16(g[l3+2:], uint16(len(g)-l3))
	g[l3+10], g[l3+11] = 0, 0
	binary.BigEndian.PutUint16(g[l3+10:], packet.Checksum(g[l3:l3+header+len(options)]))
	return g
}

// What the host refuses for its options is refused in its place, and counted by cause; what
// is not claimed is left to it.
func TestRefusedOptions(t *testing.T) {
	broken, route := []byte{7, 2, 0, 0}, []byte{131, 7, 4, 10, 9, 9, 9, 0}
	b := withholding(t)
	expect(t, "without a service", b.deliver(optioned(t, 1, broken...)), "pass")
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	expect(t, "broken", b.deliver(optioned(t, 1, broken...)), "icmp 12/0")
	tiny := optioned(t, 2, broken...)[:14+24+8] // a first fragment, of eight bytes
	binary.BigEndian.PutUint16(tiny[14+2:], 24+8)
	binary.BigEndian.PutUint16(tiny[14+6:], 0x2000)
	tiny[14+10], tiny[14+11] = 0, 0
	binary.BigEndian.PutUint16(tiny[14+10:], packet.Checksum(tiny[14:14+24]))
	expect(t, "broken, and tiny", b.deliver(tiny), "icmp 12/0")
	expect(t, "source-routed", b.deliver(optioned(t, 1, route...)), "drop")
	expect(t, "fine", b.deliver(optioned(t, 1, 1, 1, 1, 1)), "r0")
	if n, m := b.counter("drop_ip_options"), b.counter("drop_source_route"); n != 2 || m != 1 {
		t.Errorf("%d and %d are counted", n, m)
	}
}

// pieces are the fragments of a TCP packet, the first with eight bytes, which hold no flags.
func pieces(t testing.TB, id uint16, flags string) (first, later []byte) {
	whole := pkt{src: "10.1.1.1:1000", dst: vip + ":80", flags: flags, size: 100, fragID: id}.frame(t)
	const l3, header = 14, 20
	cut := func(from, to int, field uint16) []byte {
		f := append(append([]byte{}, whole[:l3+header]...), whole[l3+header+from:l3+header+to]...)
		binary.BigEndian.PutUint16(f[l3+2:], uint16(len(f)-l3))
		binary.BigEndian.PutUint16(f[l3+6:], field)
		f[l3+10], f[l3+11] = 0, 0
		binary.BigEndian.PutUint16(f[l3+10:], packet.Checksum(f[l3:l3+header]))
		return f
	}
	return cut(0, 8, 0x2000), cut(8, len(whole)-l3-header, 1)
}

// A first fragment that does not hold the flags waits for the one that does, whichever comes
// first; those that never become whole are bounded.
func TestTinyFirstFragment(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	for id, reverse := range []bool{false, true} {
		first, later := pieces(t, uint16(id+1), "S")
		if reverse {
			first, later = later, first
		}
		expect(t, "one", b.deliver(first), "drop")
		if n := len(b.plane.Sent()); n != 0 {
			t.Errorf("%d are sent before it is whole", n)
		}
		expect(t, "the other", b.deliver(later), "drop")
		sent := b.plane.Sent()
		if len(sent) != 2 || b.fate(sent[0]) != "r0" || b.fate(sent[1]) != "r0" {
			t.Errorf("%d are sent then", len(sent))
		}
	}
	if c := b.conns(); len(c) != 1 {
		t.Errorf("connections: %v", c)
	}
	for id := range uint16(5000) {
		first, _ := pieces(t, 100+id, "S")
		b.deliver(first)
	}
	if n := b.counter("drop_fragment"); n < 3900 {
		t.Errorf("%d of 5,000 were given up", n)
	}
}
