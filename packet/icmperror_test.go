package packet_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs/packet"
)

// errorMakers are the ways to make an error, with type, code and info that
// they must have by family.
var errorMakers = []struct {
	name   string
	make   func(dst, frame []byte, p *packet.Packet, src netip.Addr) []byte
	v4, v6 string
}{
	{"port", func(dst, frame []byte, p *packet.Packet, src netip.Addr) []byte {
		return packet.AppendUnreachable(dst, frame, p, src, packet.PortUnreachable)
	}, "3/3 0", "1/4 0"},
	{"host", func(dst, frame []byte, p *packet.Packet, src netip.Addr) []byte {
		return packet.AppendUnreachable(dst, frame, p, src, packet.HostUnreachable)
	}, "3/1 0", "1/3 0"},
	{"protocol", func(dst, frame []byte, p *packet.Packet, src netip.Addr) []byte {
		return packet.AppendUnreachable(dst, frame, p, src, packet.ProtocolUnreachable)
	}, "3/2 0", "4/1 6"},
	{"time", packet.AppendTimeExceeded, "11/0 0", "3/0 0"},
	{"MTU", func(dst, frame []byte, p *packet.Packet, src netip.Addr) []byte {
		return packet.AppendFragNeeded(dst, frame, p, src, 1400)
	}, "3/4 1400", "2/0 1400"},
	{"great MTU", func(dst, frame []byte, p *packet.Packet, src netip.Addr) []byte {
		return packet.AppendFragNeeded(dst, frame, p, src, 70000)
	}, "3/4 65535", "2/0 70000"},
	{"negative MTU", func(dst, frame []byte, p *packet.Packet, src netip.Addr) []byte {
		return packet.AppendFragNeeded(dst, frame, p, src, -1)
	}, "3/4 0", "2/0 0"},
}

// TestAppendErrors makes every error about every frame that may have one, and
// reads it back: also as the quote that another director would find in it.
func TestAppendErrors(t *testing.T) {
	made := 0
	for _, s := range shapes(t) {
		var p packet.Packet
		p.Parse(s.frame)
		own, room := netip.MustParseAddr("10.9.9.9"), 576
		tos := fmt.Sprintf("ttl=64 tos=%#x id=%#x df=false", 0x2a&0x1e|0xc0, 0x1234)
		if p.Is6 {
			own, room = netip.MustParseAddr("2001:db8::9"), 1280
			tos = "hops=64 class=0x0 label=0x0"
		}
		for _, m := range errorMakers {
			want := m.v4
			if p.Is6 {
				want = m.v6
				if m.name == "protocol" && p.L4-p.L3 != 40 {
					want = "" // an extension header has the number
				}
			}
			for _, src := range []netip.Addr{own, {}} {
				got := m.make(nil, s.frame, &p, src)
				if want == "" || !p.AnswerableByError(s.frame) {
					if len(got) != 0 {
						t.Fatalf("%s %s is answered with %x", s.name, m.name, got)
					}
					continue
				}
				made++
				a := checkAnswer(t, s.frame, got)
				a.swapped(t, s.frame)
				from := src
				if !from.IsValid() {
					from = p.Dest()
				}
				if header := from.String() + " " + tos; a.ipHeader() != header {
					t.Fatalf("%s %s: %s, want %s", s.name, m.name, a.ipHeader(), header)
				}
				info := binary.BigEndian.Uint32(got[a.p.L4+4:])
				if text := fmt.Sprintf("%d/%d %d", a.p.ICMPType, a.p.ICMPCode, info); text != want {
					t.Fatalf("%s: %s, want %s", s.name, text, want)
				}
				quote := got[a.p.L4+8:]
				if original := s.frame[p.L3:p.End]; !bytes.Equal(quote, original[:min(len(original), room-(a.p.L4+8-a.p.L3))]) {
					t.Fatalf("%s %s quotes %x", s.name, m.name, quote)
				}
				if a.p.IsICMPError() && p.Kind != packet.OtherIP && p.FragOffset == 0 {
					if !a.p.Quoted.OK || a.p.Quoted.Flow != p.Flow.Reverse() {
						t.Fatalf("%s %s: quoted %v, want %v", s.name, m.name, a.p.Quoted.Flow, p.Flow.Reverse())
					}
				}
			}
		}
	}
	if made < 1000 {
		t.Errorf("only %d errors were made", made)
	}
}

// TestErrorSize: a long packet is quoted up to 576 and 1280 bytes, all
// headers of the error included.
func TestErrorSize(t *testing.T) {
	for _, c := range []struct {
		net        string
		data, want int
	}{
		{"v4", 548 - 28, 576}, {"v4", 548 - 27, 576}, {"v4", 548 - 29, 575}, {"v4", 1400, 576},
		{"v6", 1232 - 48, 1280}, {"v6", 1232 - 47, 1280}, {"v6", 1232 - 49, 1279}, {"v6", 1400, 1280},
	} {
		upper := transport{"", fixed(layers.IPProtocolUDP), func(testing.TB, bool) []gopacket.SerializableLayer {
			return []gopacket.SerializableLayer{&layers.UDP{SrcPort: 1, DstPort: 2}, gopacket.Payload(make([]byte, c.data))}
		}}
		f := compose(t, networkOf(t, c.net), upper, tags(2)...)
		var p packet.Packet
		p.Parse(f)
		a := checkAnswer(t, f, packet.AppendUnreachable(nil, f, &p, netip.Addr{}, packet.PortUnreachable))
		if got := a.p.End - a.p.L3; got != c.want {
			t.Errorf("%s: %d bytes of data give an error of %d, want %d", c.net, c.data, got, c.want)
		}
	}
}

func TestErrorSource(t *testing.T) {
	f, f6 := plain(t, "v4", "UDP"), plain(t, "v6", "UDP")
	var p packet.Packet
	p.Parse(f)
	if len(packet.AppendTimeExceeded(nil, f, &p, netip.MustParseAddr("::1"))) != 0 {
		t.Error("an IPv6 source for IPv4")
	}
	a := checkAnswer(t, f, packet.AppendTimeExceeded(nil, f, &p, netip.MustParseAddr("::ffff:10.9.9.9")))
	if a.p.Source() != netip.MustParseAddr("10.9.9.9") {
		t.Errorf("source %v", a.p.Source())
	}
	p.Parse(f6)
	if len(packet.AppendTimeExceeded(nil, f6, &p, netip.MustParseAddr("10.9.9.9"))) != 0 {
		t.Error("an IPv4 source for IPv6")
	}
}

func TestAnswerableByError(t *testing.T) {
	udp, udp6 := plain(t, "v4", "UDP"), plain(t, "v6", "UDP")
	const src4, dst4, src6, dst6 = 26, 30, 22, 38
	zero := make([]byte, 16)
	for _, c := range []struct {
		name  string
		frame []byte
		want  bool
	}{
		{"UDP", udp, true},
		{"UDP, IPv6", udp6, true},
		{"GRE", plain(t, "v4", "GRE"), true},
		{"first fragment", plain(t, "v4 first fragment", "UDP"), true},
		{"later fragment", plain(t, "v4 last fragment", "UDP"), false},
		{"later fragment, IPv6", plain(t, "v6 last fragment", "UDP"), true},
		{"later fragment of ICMPv6", plain(t, "v6 last fragment", "echo"), false},
		{"echo", plain(t, "v4", "echo"), true},
		{"echo, IPv6", plain(t, "v6", "echo"), true},
		{"link broadcast", edit(udp, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), false},
		{"link multicast", edit(udp6, 0, 0x33, 0x33), false},
		{"from a link group", edit(udp, 6, 1), false},
		{"from 0.0.0.0", fixIP(edit(udp, src4, 0, 0, 0, 0)), false},
		{"from 0.1.2.3", fixIP(edit(udp, src4, 0, 1, 2, 3)), true},
		{"from 240.1.2.3", fixIP(edit(udp, src4, 240, 1, 2, 3)), true},
		{"from 127.0.0.1", fixIP(edit(udp, src4, 127, 0, 0, 1)), false},
		{"from 224.0.0.1", fixIP(edit(udp, src4, 224, 0, 0, 1)), false},
		{"from 255.255.255.255", fixIP(edit(udp, src4, 255, 255, 255, 255)), false},
		{"to 224.0.0.1", fixIP(edit(udp, dst4, 224, 0, 0, 1)), false},
		{"to 255.255.255.255", fixIP(edit(udp, dst4, 255, 255, 255, 255)), false},
		{"to 127.0.0.1", fixIP(edit(udp, dst4, 127, 0, 0, 1)), false},
		{"to 0.0.0.0", fixIP(edit(udp, dst4, 0, 0, 0, 0)), false},
		{"from ::", edit(udp6, src6, zero...), false},
		{"from ::1", edit(udp6, src6, append(zero[:15:15], 1)...), false},
		{"from ff02::1", edit(udp6, src6, 0xff, 2), false},
		{"to ff02::1", edit(udp6, dst6, 0xff, 2), false},
		{"damaged", edit(udp, 24, udp[24]^1), false},
		{"ARP", arpRequest(t, "10.1.1.1", "10.1.1.2"), false},
		{"another ethertype", edit(udp, 12, 0x88, 0xcc), false},
		{"nothing", nil, false},
	} {
		var p packet.Packet
		p.Parse(c.frame)
		if p.AnswerableByError(c.frame) != c.want {
			t.Errorf("%s: %v", c.name, !c.want)
		}
	}
	// Every ICMP type: those that the kernel has as no error.
	asking := map[int]bool{0: true, 8: true, 13: true, 14: true, 15: true, 16: true, 17: true, 18: true}
	for kind := range 256 {
		var p packet.Packet
		f := edit(plain(t, "v4", "echo"), 34, byte(kind))
		if p.Parse(f); p.AnswerableByError(f) != asking[kind] {
			t.Errorf("ICMP type %d: %v", kind, !asking[kind])
		}
		f = edit(plain(t, "v6", "echo"), 54, byte(kind))
		if p.Parse(f); p.AnswerableByError(f) != (kind >= 128) {
			t.Errorf("ICMPv6 type %d: %v", kind, kind < 128)
		}
	}
}
