package packet_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs/packet"
)

// TestParseAgreesWithGopacket parses every transport in every network with 0,
// 1 and 2 tags, with one Packet for all of them, so that what one frame leaves
// behind would show in the next.
func TestParseAgreesWithGopacket(t *testing.T) {
	var p packet.Packet
	seen := map[packet.Kind]int{}
	quotes := 0
	for _, s := range shapes(t) {
		want := read(t, s.frame)
		p.Parse(s.frame)
		if got := valid(p); got != want {
			t.Fatalf("%s: %x\ngot  %+v\nwant %+v", s.name, s.frame, got, want)
		}
		padded := append(bytes.Clone(s.frame), 0xff, 0xff, 0xff)
		p.Parse(padded)
		if got := valid(p); got != want {
			t.Fatalf("%s padded:\ngot  %+v\nwant %+v", s.name, got, want)
		}
		seen[p.Kind]++
		if p.Quoted.OK {
			quotes++
		}
	}
	for k := packet.TCP; k <= packet.OtherIP; k++ {
		if seen[k] == 0 {
			t.Errorf("no frame of kind %v", k)
		}
	}
	if quotes == 0 {
		t.Error("no quote was read")
	}
}

// plain is a frame of a network and a transport by their names.
func plain(t testing.TB, net, upper string) []byte {
	t.Helper()
	for _, n := range networks() {
		for _, tr := range transports() {
			if n.name == net && tr.name == upper {
				return compose(t, n, tr)
			}
		}
	}
	t.Fatalf("no frame %s, %s", net, upper)
	return nil
}

// fixIP makes an IPv4 header's checksum right again after an edit.
func fixIP(frame []byte) []byte {
	ip := frame[14:]
	size := int(ip[0]&15) * 4
	if size < 20 || size > len(ip) {
		return frame
	}
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], packet.Checksum(ip[:size]))
	return frame
}

// shorten cuts an untagged IP frame and makes its length say so.
func shorten(frame []byte, behindIP int) []byte {
	f := bytes.Clone(frame)
	if f[12] == 0x08 {
		f = f[:14+20+behindIP]
		binary.BigEndian.PutUint16(f[16:], uint16(20+behindIP))
		return fixIP(f)
	}
	f = f[:14+40+behindIP]
	binary.BigEndian.PutUint16(f[18:], uint16(behindIP))
	return f
}

func edit(frame []byte, at int, b ...byte) []byte {
	f := bytes.Clone(frame)
	copy(f[at:], b)
	return f
}

func TestParseDamaged(t *testing.T) {
	tcp, tcp6 := plain(t, "v4", "TCP SYN"), plain(t, "v6", "TCP SYN")
	udp, udp6 := plain(t, "v4", "UDP"), plain(t, "v6", "UDP")
	sctp, sctp6 := plain(t, "v4", "SCTP INIT"), plain(t, "v6", "SCTP INIT")
	echo, echo6 := plain(t, "v4", "echo"), plain(t, "v6", "echo")
	arp := arpRequest(t, "10.1.1.1", "192.168.10.101")
	long := exts(bytes.Repeat([]byte{60}, packet.MaxExtensions+1), repeated(padding, packet.MaxExtensions+1)...)
	tooMany := build(t, append(link(layers.EthernetTypeIPv6), append(long(6), gopacket.Payload(make([]byte, 20)))...)...)
	allowed := exts(bytes.Repeat([]byte{60}, packet.MaxExtensions), repeated(padding, packet.MaxExtensions)...)
	many := build(t, append(link(layers.EthernetTypeIPv6), append(allowed(6), gopacket.Payload(make([]byte, 20)))...)...)

	for _, c := range []struct {
		name  string
		frame []byte
		want  packet.Damage
	}{
		{"nothing", nil, packet.ShortFrame},
		{"13 bytes", tcp[:13], packet.ShortFrame},
		{"half a tag", edit(tcp, 12, 0x81, 0x00)[:17], packet.ShortFrame},
		{"half a second tag", edit(tcp, 12, 0x88, 0xa8, 0, 1, 0x81, 0)[:21], packet.ShortFrame},
		{"IPv4 without header", tcp[:14], packet.ShortIP},
		{"IPv4 header of 19 bytes", tcp[:14+19], packet.ShortIP},
		{"IPv4 version 6", fixIP(edit(tcp, 14, 0x65)), packet.BadVersion},
		{"IPv4 header length 4 words", fixIP(edit(tcp, 14, 0x44)), packet.BadHeaderLength},
		{"IPv4 header longer than the frame", edit(tcp, 14, 0x4f)[:14+40], packet.ShortIP},
		{"IPv4 checksum", edit(tcp, 24, tcp[24]+1), packet.BadIPChecksum},
		{"IPv4 checksum before length", edit(tcp, 16, 0xff, 0xff), packet.BadIPChecksum},
		{"IPv4 longer than the frame", tcp[:14+20+20+4], packet.TruncatedIP},
		{"IPv4 shorter than its header", fixIP(edit(tcp, 16, 0, 19)), packet.BadLength},
		{"IPv4 shorter than its options", fixIP(edit(plain(t, "v4 options", "TCP SYN"), 16, 0, 24)), packet.BadLength},
		{"IPv6 without header", tcp6[:14], packet.ShortIP},
		{"IPv6 header of 39 bytes", tcp6[:14+39], packet.ShortIP},
		{"IPv6 version 4", edit(tcp6, 14, 0x45), packet.BadVersion},
		{"IPv6 longer than the frame", tcp6[:len(tcp6)-1], packet.TruncatedIP},
		{"extension of 7 bytes", shorten(edit(tcp6, 20, 0), 7), packet.TruncatedExtension},
		{"extension longer than the datagram", shorten(edit(tcp6, 20, 60, 64, 0x11, 0x11), 20), packet.TruncatedExtension},
		{"too many extensions", tooMany, packet.TooManyExtensions},
		{"as many extensions as may be", many, packet.Undamaged},
		{"TCP of 19 bytes", shorten(tcp, 19), packet.TruncatedTCP},
		{"TCP of 20 bytes", shorten(tcp, 20), packet.Undamaged},
		{"TCP of 0 bytes", shorten(tcp, 0), packet.TruncatedTCP},
		{"TCP of 19 bytes, IPv6", shorten(tcp6, 19), packet.TruncatedTCP},
		{"TCP in a short first fragment", shorten(plain(t, "v4 first fragment", "TCP SYN"), 16), packet.TruncatedTCP},
		{"TCP in a short later fragment", shorten(plain(t, "v4 last fragment", "TCP SYN"), 0), packet.Undamaged},
		{"TCP of an impossible header length", edit(tcp, 14+20+12, 0x10), packet.Undamaged},
		{"UDP of 7 bytes", shorten(udp, 7), packet.TruncatedUDP},
		{"UDP of 7 bytes, IPv6", shorten(udp6, 7), packet.TruncatedUDP},
		{"UDP of a wrong length", edit(udp, 14+20+4, 0, 1), packet.Undamaged},
		{"SCTP of 11 bytes", shorten(sctp, 11), packet.TruncatedSCTP},
		{"SCTP of 15 bytes", shorten(sctp, 15), packet.Undamaged},
		{"SCTP of 11 bytes, IPv6", shorten(sctp6, 11), packet.TruncatedSCTP},
		{"ICMP of 7 bytes", shorten(echo, 7), packet.TruncatedICMP},
		{"ICMP of 7 bytes, IPv6", shorten(echo6, 7), packet.TruncatedICMP},
		{"ARP of 27 bytes", arp[:14+27], packet.TruncatedARP},
	} {
		p := packet.Packet{TCPFlags: 0xff}
		p.Parse(c.frame)
		if p.Damage != c.want || (p.Kind == packet.Damaged) != (c.want != packet.Undamaged) {
			t.Errorf("%s: %v, %v, want %v", c.name, p.Kind, p.Damage, c.want)
		}
		if p.Kind == packet.Damaged && p.TCPFlags != 0 {
			t.Errorf("%s: flags of an earlier frame", c.name)
		}
	}

	// IPVS forwards these if they belong to a connection.
	for _, c := range []struct {
		frame []byte
		want  string
	}{
		{shorten(tcp, 4), "TCP 10.1.1.1:40000 > 192.168.10.101:80"},
		{shorten(udp6, 4), "UDP [2001:db8:1::1]:40000 > [2001:db8:10::101]:53"},
		{shorten(sctp, 8), "SCTP 10.1.1.1:40000 > 192.168.10.101:80"},
		{shorten(tcp, 3), "TCP 10.1.1.1:0 > 192.168.10.101:0"},
	} {
		var p packet.Packet
		p.Parse(c.frame)
		if p.Kind != packet.Damaged || p.Flow.String() != c.want {
			t.Errorf("%v %v, want %s", p.Kind, p.Flow, c.want)
		}
	}
}

func repeated(b []byte, n int) [][]byte {
	var all [][]byte
	for range n {
		all = append(all, b)
	}
	return all
}

func TestParseOther(t *testing.T) {
	tcp := plain(t, "v4", "TCP SYN")
	tag := func(frame []byte, types ...uint16) []byte {
		f := bytes.Clone(frame[:12])
		for _, v := range types {
			f = binary.BigEndian.AppendUint16(f, v)
			f = append(f, 0, 7)
		}
		return append(f, frame[12:]...)
	}
	arp := arpRequest(t, "10.1.1.1", "192.168.10.101")
	for _, c := range []struct {
		name      string
		frame     []byte
		kind      packet.Kind
		vlans     uint8
		ethertype uint16
	}{
		{"LLDP", edit(tcp, 12, 0x88, 0xcc), packet.Other, 0, 0x88cc},
		{"802.3 length", edit(tcp, 12, 0, 100), packet.Other, 0, 100},
		{"only an Ethernet header", edit(tcp, 12, 0x88, 0xcc)[:14], packet.Other, 0, 0x88cc},
		{"three tags", tag(tcp, 0x8100, 0x8100, 0x8100), packet.Other, 2, 0x8100},
		{"0x9100", tag(tcp, 0x9100, 0x8100), packet.TCP, 2, 0x0800},
		{"LLDP in a VLAN", tag(edit(tcp, 12, 0x88, 0xcc), 0x8100), packet.Other, 1, 0x88cc},
		{"ARP in a VLAN", tag(arp, 0x8100), packet.ARP, 1, 0x0806},
		{"ARP for IEEE 802", edit(arp, 14, 0, 6), packet.Other, 0, 0x0806},
		{"ARP for 8 byte addresses", edit(arp, 18, 8), packet.Other, 0, 0x0806},
	} {
		var p packet.Packet
		p.Parse(c.frame)
		if p.Kind != c.kind || p.VLANs != c.vlans || p.EtherType != c.ethertype {
			t.Errorf("%s: %v, %d tags, %#x", c.name, p.Kind, p.VLANs, p.EtherType)
		}
	}
}

func TestParseARP(t *testing.T) {
	f := arpRequest(t, "10.1.1.1", "192.168.10.101")
	var p packet.Packet
	p.Parse(append(f, make([]byte, 18)...))
	if p.Kind != packet.ARP || p.ARPOp != 1 || p.ARPSenderMAC != clientMAC ||
		p.ARPSender != netip.MustParseAddr("10.1.1.1") || p.ARPTarget != netip.MustParseAddr("192.168.10.101") {
		t.Errorf("%+v", p)
	}
	if p.L3 != 14 || p.End != 14+28 {
		t.Errorf("offsets %d, %d", p.L3, p.End)
	}
	p.Parse(plain(t, "v4", "UDP"))
	if p.ARPOp != 0 {
		t.Error("ARPOp of an earlier frame")
	}
}

func TestPacketAddresses(t *testing.T) {
	for _, c := range []struct{ net, source, dest string }{
		{"v4", "10.1.1.1", "192.168.10.101"},
		{"v4 last fragment", "10.1.1.1", "192.168.10.101"},
		{"v6", "2001:db8:1::1", "2001:db8:10::101"},
		{"v6 last fragment", "2001:db8:1::1", "2001:db8:10::101"},
	} {
		for _, upper := range []string{"TCP SYN", "echo", "GRE"} {
			var p packet.Packet
			p.Parse(plain(t, c.net, upper))
			if p.Source().String() != c.source || p.Dest().String() != c.dest {
				t.Errorf("%s %s: %v > %v", c.net, upper, p.Source(), p.Dest())
			}
		}
	}
}

// TestIsICMPError asks for every type: IPVS looks at three of IPv4's, and all
// of IPv6's below 128.
func TestIsICMPError(t *testing.T) {
	for kind := range 256 {
		var p packet.Packet
		p.Parse(edit(plain(t, "v4", "echo"), 34, byte(kind)))
		if want := kind == 3 || kind == 4 || kind == 11; p.IsICMPError() != want {
			t.Errorf("ICMP type %d: %v", kind, !want)
		}
		p.Parse(edit(plain(t, "v6", "echo"), 54, byte(kind)))
		if want := kind < 128; p.IsICMPError() != want {
			t.Errorf("ICMPv6 type %d: %v", kind, !want)
		}
		p.Parse(edit(plain(t, "v4 last fragment", "echo"), 34, byte(kind)))
		if p.IsICMPError() {
			t.Error("a later fragment is no error")
		}
	}
}

// TestQuotedGarbage: an error that quotes nonsense is an error without quote.
func TestQuotedGarbage(t *testing.T) {
	quote := func(b ...byte) []byte {
		return compose(t, networks()[0], icmp("", 3, 1, 3, b...))
	}
	header := plain(t, "v4", "TCP SYN")[14:]
	for name, f := range map[string][]byte{
		"nothing":         quote(),
		"19 bytes":        quote(header[:19]...),
		"version 6":       quote(edit(header, 0, 0x65)...),
		"4 words":         quote(edit(header, 0, 0x44)...),
		"cut in options":  quote(edit(header, 0, 0x4f)[:30]...),
		"cut in ports":    quote(header[:23]...),
		"IPv6 from IPv4":  quote(plain(t, "v6", "TCP SYN")[14:]...),
		"not an error":    plain(t, "v4", "echo"),
		"error of type 5": edit(quote(header...), 34, 5),
	} {
		p := packet.Packet{Quoted: packet.Quoted{OK: true}}
		p.Parse(f)
		if p.Kind != packet.ICMP || p.Quoted.OK {
			t.Errorf("%s: %v, quote %+v", name, p.Kind, p.Quoted)
		}
	}
	var p packet.Packet
	p.Parse(quote(header[:24]...))
	if want := "TCP 192.168.10.101:80 > 10.1.1.1:40000"; !p.Quoted.OK || p.Quoted.Flow.String() != want {
		t.Errorf("%v %v, want %s", p.Quoted.OK, p.Quoted.Flow, want)
	}
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for d := range packet.TruncatedARP + 1 {
		s := d.String()
		if s == "" || s == "unknown damage" || seen[s] {
			t.Errorf("damage %d is %q", d, s)
		}
		seen[s] = true
	}
	for k := range packet.OtherIP + 1 {
		s := k.String()
		if s == "" || s == "unknown" || seen[s] {
			t.Errorf("kind %d is %q", k, s)
		}
		seen[s] = true
	}
	if packet.Damage(200).String() != "unknown damage" || packet.Kind(200).String() != "unknown" {
		t.Error("names of unknown values")
	}
}

func arpRequest(t testing.TB, sender, target string) []byte {
	s, d := netip.MustParseAddr(sender).As4(), netip.MustParseAddr(target).As4()
	return build(t,
		&layers.Ethernet{SrcMAC: clientMAC[:], DstMAC: bytes.Repeat([]byte{0xff}, 6), EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: 1, SourceHwAddress: clientMAC[:], SourceProtAddress: s[:], DstHwAddress: make([]byte, 6), DstProtAddress: d[:],
		})
}
