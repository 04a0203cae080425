package director_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/director"
)

// The host's own: what is not the director's is passed; what the plane keeps
// from the host is answered in its place.
func TestHost(t *testing.T) {
	for stray, plane := range map[string]struct{ withholds, injects bool }{
		"pass": {false, false}, "rst": {true, false}, "host": {true, true},
	} {
		b := newBed(t, director.Options{})
		b.plane.SetWithholds(plane.withholds)
		b.plane.SetInjects(plane.injects)
		b.resolver.SetLocal(netip.MustParseAddr(vip), true)
		b.service(persistent(tcp(80), "rr", time.Minute), 1)
		expect(t, fmt.Sprintf("%+v", plane), b.sends(
			pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "A"},
			pkt{src: "10.1.1.1:1", dst: vip + ":81", flags: "S"},
			pkt{proto: "udp", src: "10.1.1.1:1", dst: vip + ":80"},
			pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "S"},
		), stray+" pass pass r0")
		expect(t, "ARP", b.deliver(arp(t, vip)), "pass")
		expect(t, "echo", b.deliver(echo(t, vip)), "pass")
	}
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	expect(t, "ARP for a virtual address that the host does not have", b.deliver(arp(t, vip)), "arp")
	expect(t, "ARP for another", b.deliver(arp(t, "192.168.10.77")), "pass")
	expect(t, "echo", b.deliver(echo(t, vip)), "echo-reply")
	expect(t, "echo to another", b.deliver(echo(t, "192.168.10.77")), "pass")
}

func arp(t testing.TB, target string) []byte {
	return serialize(t,
		&layers.Ethernet{SrcMAC: clientMAC[:], DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest,
			SourceHwAddress: clientMAC[:], SourceProtAddress: []byte{192, 168, 10, 1},
			DstHwAddress: make([]byte, 6), DstProtAddress: netip.MustParseAddr(target).AsSlice()})
}

func echo(t testing.TB, to string) []byte {
	return serialize(t,
		&layers.Ethernet{SrcMAC: clientMAC[:], DstMAC: directorMAC[:], EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: []byte{10, 1, 1, 1}, DstIP: netip.MustParseAddr(to).AsSlice()},
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: 1, Seq: 1},
		gopacket.Payload("ping"))
}

// icmpError is a client's error about a server's answer, which came from the
// virtual address.
func icmpError(t testing.TB, quoted pkt, damage bool) []byte {
	q := quoted.frame(t)[14:]
	f := serialize(t,
		&layers.Ethernet{SrcMAC: clientMAC[:], DstMAC: directorMAC[:], EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: []byte{10, 1, 1, 1}, DstIP: netip.MustParseAddr(vip).AsSlice()},
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, 4)},
		gopacket.Payload(q[:28]))
	if damage {
		f[len(f)-1]++
	}
	return f
}

// An ICMP error goes to the server of the connection that it quotes.
func TestICMPError(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 2)
	expect(t, "a connection", b.send(pkt{src: "10.1.1.1:1000", dst: vip + ":80", flags: "S"}), "r1")
	answer := pkt{src: vip + ":80", dst: "10.1.1.1:1000", flags: "A"}
	expect(t, "an error about it", b.deliver(icmpError(t, answer, false)), "r1")
	expect(t, "a damaged one", b.deliver(icmpError(t, answer, true)), "drop")
	answer.dst = "10.1.1.1:1001"
	expect(t, "one about nothing of ours", b.deliver(icmpError(t, answer, false)), "pass")
	if n := b.counter("icmp_errors"); n != 1 {
		t.Errorf("%d ICMP errors about connections were counted", n)
	}
}

// Later fragments follow their first.
func TestFragments(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: udp(53), Scheduler: "rr"}, 2)
	first := func(id uint16, port int) pkt {
		return pkt{proto: "udp", src: fmt.Sprintf("10.1.1.1:%d", port), dst: vip + ":53", size: 1000, fragID: id, moreFragments: true}
	}
	later := func(id uint16) pkt {
		return pkt{proto: "udp", src: "10.1.1.1:0", dst: vip + ":53", size: 100, fragID: id, fragOffset: 126}
	}
	expect(t, "in order", b.sends(first(1, 1), first(2, 2), later(1), later(2), later(1)), "r1 r0 r1 r0 r1")
	expect(t, "before their first", b.sends(later(3), later(3), first(3, 3)), "drop drop r1")
	sent := b.plane.Sent()
	if len(sent) != 2 || b.fate(sent[0]) != "r1" || b.fate(sent[1]) != "r1" {
		t.Errorf("%d were sent after it", len(sent))
	}
	b.move(30 * time.Second)
	expect(t, "too late", b.send(later(1)), "drop")
	expect(t, "too late for the first", b.sends(later(4)), "drop")
	b.move(31 * time.Second)
	expect(t, "a new one", b.sends(later(5), first(4, 4)), "drop r0")
	if n := len(b.plane.Sent()); n != 0 {
		t.Errorf("%d were sent after 30 s", n)
	}
}

// Later fragments of a datagram that is the host's, which the plane withholds as
// they have no ports, get there all the same; also those that come too early.
func TestHostFragments(t *testing.T) {
	b := newBed(t, director.Options{})
	b.service(ulvs.Service{ServiceKey: udp(53), Scheduler: "rr"}, 1)
	b.plane.SetWithholds(true)
	b.plane.SetInjects(true)
	b.resolver.SetLocal(netip.MustParseAddr(vip), true)
	first := pkt{proto: "udp", src: "10.1.1.1:1", dst: vip + ":54", size: 1000, fragID: 1, moreFragments: true}
	later := pkt{proto: "udp", src: "10.1.1.1:0", dst: vip + ":54", size: 100, fragID: 1, fragOffset: 126}
	expect(t, "in order", b.sends(first, later, later), "pass host host")
	first.fragID, later.fragID = 2, 2
	b.plane.Sent()
	expect(t, "the first last", b.sends(later, first), "pass pass")
	if sent := b.plane.Sent(); len(sent) != 1 || sent[0].Verdict != dataplane.Host {
		t.Errorf("sent: %+v", sent)
	}
}
