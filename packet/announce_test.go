package packet

import (
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

var (
	announced4 = netip.MustParseAddr("192.0.2.1")
	announced6 = netip.MustParseAddr("2001:db8::12:3456")
	announcer  = [6]byte{2, 0, 0, 0, 0, 7}
)

// Announcements and questions are what others read them as, and what Claimed and NDTarget read.
func TestAnnouncement(t *testing.T) {
	var p Packet
	for _, a := range []netip.Addr{announced4, announced6} {
		frame := Announcement(a, announcer)
		if l := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default).ErrorLayer(); l != nil {
			t.Fatal(l.Error())
		}
		p.Parse(frame)
		got, mac, ok := p.Claimed(frame)
		if !ok || got != a || mac != announcer || [6]byte(frame[6:]) != announcer || !isGroup(frame[:6]) {
			t.Errorf("%v: %v at %x, %v: %x", a, got, mac, ok, frame)
		}
	}
	from := netip.MustParseAddr("2001:db8::1")
	frame, ok := Question(announced6, from, announcer)
	p.Parse(frame)
	if target, asks := p.NDTarget(frame); !ok || !asks || target != announced6 || p.Source() != from ||
		p.Dest() != netip.MustParseAddr("ff02::1:ff12:3456") || [6]byte(frame) != [6]byte{0x33, 0x33, 0xff, 0x12, 0x34, 0x56} {
		t.Errorf("%v, %v, %v to %v: %x", asks, target, p.Source(), p.Dest(), frame)
	}
	for _, from := range []netip.Addr{netip.MustParseAddr("192.0.2.9"), {}, from} {
		frame, ok := Question(announced4, from, announcer)
		p.Parse(frame)
		if !from.Is4() {
			from = netip.IPv4Unspecified()
		}
		if !ok || p.Kind != ARP || p.ARPOp != 1 || p.ARPTarget != announced4 || p.ARPSender != from {
			t.Errorf("from %v: %+v", from, p)
		}
		if _, _, claims := p.Claimed(frame); claims != !from.IsUnspecified() {
			t.Errorf("from %v: claims %v", from, claims)
		}
	}
	if _, ok := Question(announced6, netip.Addr{}, announcer); ok {
		t.Error("a solicitation without a source")
	}
}

// What a host does not say about itself, or nobody may say, is no claim.
func TestClaimed(t *testing.T) {
	good := Announcement(announced6, announcer)
	for name, damage := range map[string]func(f []byte){
		"checksum":      func(f []byte) { f[57]++ },
		"hop limit":     func(f []byte) { f[21] = 64 },
		"a question":    func(f []byte) { f[54] = neighborSolicit },
		"another code":  func(f []byte) { f[55] = 1 },
		"no option":     func(f []byte) { f[78] = 99 },
		"option of 0":   func(f []byte) { f[79] = 0 },
		"option of 2":   func(f []byte) { f[79] = 2 },
		"group address": func(f []byte) { f[80] |= 1 },
	} {
		f := append([]byte(nil), good...)
		damage(f)
		if name != "checksum" { // sums are right
			f[56], f[57] = 0, 0
			whole := &Packet{Is6: true}
			seal(f, f[54:], whole, ProtoICMPv6, 2)
		}
		var p Packet
		p.Parse(f)
		if a, mac, ok := p.Claimed(f); ok {
			t.Errorf("%s: %v at %x", name, a, mac)
		}
	}
	var p Packet
	f := Announcement(announced4, [6]byte{1, 0, 0, 0, 0, 7})
	p.Parse(f)
	if _, _, ok := p.Claimed(f); ok {
		t.Error("ARP from a group address")
	}
}
