package packet_test

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs/packet"
)

// solicitation is a neighbour solicitation, with its link destination as
// RFC 2464 has it.
type solicitation struct {
	src, dst, target string
	hops             uint8
	options          layers.ICMPv6Options
	code             uint8
}

func (s solicitation) frame(t testing.TB, tags ...layers.EthernetType) []byte {
	t.Helper()
	dst := net.ParseIP(s.dst).To16()
	parts := link(layers.EthernetTypeIPv6, tags...)
	eth := parts[0].(*layers.Ethernet)
	eth.DstMAC = net.HardwareAddr{0x33, 0x33, dst[12], dst[13], dst[14], dst[15]}
	ip := &layers.IPv6{Version: 6, HopLimit: s.hops, NextHeader: layers.IPProtocolICMPv6, SrcIP: net.ParseIP(s.src), DstIP: dst}
	h := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(135, s.code)}
	if err := h.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	ns := &layers.ICMPv6NeighborSolicitation{TargetAddress: net.ParseIP(s.target), Options: s.options}
	return build(t, append(parts, ip, h, ns)...)
}

var (
	sourceMAC = layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: clientMAC[:]}}
	question  = solicitation{"fe80::1", "ff02::1:ff00:101", "2001:db8:10::101", 255, sourceMAC, 0}
	probe     = solicitation{"::", "ff02::1:ff00:101", "2001:db8:10::101", 255, nil, 0}
)

func TestAppendNeighborAdvert(t *testing.T) {
	mac := [6]byte{2, 1, 2, 3, 4, 5}
	target := netip.MustParseAddr("2001:db8:10::101")
	unicast := question
	unicast.dst = "2001:db8:10::101"
	bare := question
	bare.options = nil
	for _, c := range []struct {
		name  string
		ask   solicitation
		to    [6]byte
		dst   string
		flags uint8
	}{
		{"question", question, clientMAC, "fe80::1", 0x60},
		{"unicast question", unicast, clientMAC, "fe80::1", 0x60},
		{"question without MAC", bare, clientMAC, "fe80::1", 0x60},
		{"probe", probe, [6]byte{0x33, 0x33, 0, 0, 0, 1}, "ff02::1", 0x20},
	} {
		for vlans := range 3 {
			f := c.ask.frame(t, tags(vlans)...)
			var p packet.Packet
			p.Parse(f)
			if got, ok := p.NDTarget(f); !ok || got != target {
				t.Fatalf("%s asks for %v, %v", c.name, got, ok)
			}
			a := checkAnswer(t, f, packet.AppendNeighborAdvert(nil, f, &p, target, mac))
			if !bytes.Equal(a.frame[:6], c.to[:]) || !bytes.Equal(a.frame[6:12], mac[:]) {
				t.Errorf("%s: link header %x", c.name, a.frame[:12])
			}
			if a.p.Source() != target || a.p.Dest() != netip.MustParseAddr(c.dst) || a.p.TTL != 255 {
				t.Errorf("%s: %v > %v, hop limit %d", c.name, a.p.Source(), a.p.Dest(), a.p.TTL)
			}
			h := a.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
			if h.Flags != c.flags || addr(h.TargetAddress) != target || len(h.Options) != 1 ||
				h.Options[0].Type != layers.ICMPv6OptTargetAddress || !bytes.Equal(h.Options[0].Data, mac[:]) {
				t.Errorf("%s: %+v", c.name, h)
			}
			if len(packet.AppendNeighborAdvert(nil, f, &p, netip.MustParseAddr("10.1.1.1"), mac)) != 0 {
				t.Error("an IPv4 address advertised")
			}
		}
	}
}

func TestNDTargetRefuses(t *testing.T) {
	with := func(s solicitation, change func(*solicitation)) []byte {
		change(&s)
		return s.frame(t)
	}
	whole := question.frame(t)
	icmpOf := func(body ...byte) []byte {
		ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: net.ParseIP("fe80::1"), DstIP: virtual6}
		h := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(135, 0)}
		if err := h.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		return build(t, append(link(layers.EthernetTypeIPv6), ip, h, gopacket.Payload(body))...)
	}
	body := whole[14+40+4:]
	for name, f := range map[string][]byte{
		"forwarded":                  with(question, func(s *solicitation) { s.hops = 254 }),
		"code 1":                     with(question, func(s *solicitation) { s.code = 1 }),
		"target multicast":           with(question, func(s *solicitation) { s.target = "ff02::1" }),
		"probe to unicast":           with(probe, func(s *solicitation) { s.dst = "2001:db8:10::101" }),
		"probe with MAC":             with(probe, func(s *solicitation) { s.options = sourceMAC }),
		"bad checksum":               edit(whole, 60, 1),
		"short":                      icmpOf(body[:19]...),
		"option of no length":        icmpOf(edit(body, 21, 0)...),
		"option longer than the ask": icmpOf(edit(body, 21, 2)...),
		"half an option":             icmpOf(body[:27]...),
		"a byte of an option":        icmpOf(body[:21]...),
		"an advertisement":           edit(whole, 54, 136),
		"echo":                       plain(t, "v6", "echo"),
		"IPv4":                       plain(t, "v4", "echo"),
		"fragment":                   compose(t, networkOf(t, "v6 first fragment"), icmp("", 0, 135, 0, body...)),
	} {
		var p packet.Packet
		p.Parse(f)
		if a, ok := p.NDTarget(f); ok || a.IsValid() {
			t.Errorf("%s asks for %v", name, a)
		}
		if got := packet.AppendNeighborAdvert([]byte{1}, f, &p, netip.MustParseAddr("::5"), directorMAC); len(got) != 1 {
			t.Errorf("%s is answered with %x", name, got)
		}
	}
	var p packet.Packet
	f := icmpOf(body...)
	p.Parse(f)
	if _, ok := p.NDTarget(f); !ok {
		t.Error("the whole of it is refused too")
	}
	f = with(question, func(s *solicitation) { s.src = "ff02::2" })
	p.Parse(f)
	if len(packet.AppendNeighborAdvert(nil, f, &p, netip.MustParseAddr("::5"), directorMAC)) != 0 {
		t.Error("an answer to a group")
	}
	f = edit(question.frame(t), 6, 0x33, 0x33)
	p.Parse(f)
	if len(packet.AppendNeighborAdvert(nil, f, &p, netip.MustParseAddr("::5"), directorMAC)) != 0 {
		t.Error("an answer to a group MAC")
	}
}
