package packet_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/packet"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// TestFlowLayout spells the bytes that XDP loads.
func TestFlowLayout(t *testing.T) {
	for _, c := range []struct {
		flow packet.Flow
		want [40]byte
	}{
		{
			packet.NewFlow(6, ap("10.1.2.3:258"), ap("192.168.10.101:772")),
			[40]byte{10, 1, 2, 3, 192, 168, 10, 101, 1, 2, 3, 4, 6, 4},
		},
		{
			packet.NewFlow(132, ap("[102:304:506:708:90a:b0c:d0e:f10]:258"), ap("[1112:1314:1516:1718:191a:1b1c:1d1e:1f20]:772")),
			[40]byte{
				1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 132, 6, 0, 0, 9, 10, 11, 12, 13, 14, 15, 16,
				0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20,
			},
		},
	} {
		var got [40]byte
		for i, w := range c.flow {
			binary.NativeEndian.PutUint64(got[i*8:], w)
		}
		if got != c.want {
			t.Errorf("%v:\ngot  %v\nwant %v", c.flow, got, c.want)
		}
		if word := c.flow.ClientWord(); word != binary.BigEndian.Uint32(c.want[:]) {
			t.Errorf("%v: the client's first word is %#x", c.flow, word)
		}
		if fold := c.flow.ClientFold(); fold != dataplane.Fold(c.flow.Client().Addr()) {
			t.Errorf("%v: the client's fold is %#x", c.flow, fold)
		}
	}
}

func TestFlow(t *testing.T) {
	for _, c := range []struct {
		proto           uint8
		client, virtual string
		want, back      string
	}{
		{6, "10.1.1.1:40000", "192.168.10.101:80", "TCP 10.1.1.1:40000 > 192.168.10.101:80", "TCP 192.168.10.101:80 > 10.1.1.1:40000"},
		{17, "[2001:db8::1]:1", "[2001:db8::2]:65535", "UDP [2001:db8::1]:1 > [2001:db8::2]:65535", "UDP [2001:db8::2]:65535 > [2001:db8::1]:1"},
		{132, "10.1.1.1:0", "10.1.1.2:0", "SCTP 10.1.1.1:0 > 10.1.1.2:0", "SCTP 10.1.1.2:0 > 10.1.1.1:0"},
		{6, "[::ffff:10.1.1.1]:5", "10.1.1.2:6", "TCP 10.1.1.1:5 > 10.1.1.2:6", "TCP 10.1.1.2:6 > 10.1.1.1:5"},
		{17, "[fe80::1%eth0]:5", "[fe80::2]:6", "UDP [fe80::1]:5 > [fe80::2]:6", "UDP [fe80::2]:6 > [fe80::1]:5"},
		{1, "10.1.1.1:0", "10.1.1.2:0", "ICMP 10.1.1.1 > 10.1.1.2", "ICMP 10.1.1.2 > 10.1.1.1"},
		{58, "[::1]:0", "[::2]:0", "ICMPv6 ::1 > ::2", "ICMPv6 ::2 > ::1"},
		{0, "10.1.1.0:0", "10.1.1.2:21", "IP 10.1.1.0:0 > 10.1.1.2:21", "IP 10.1.1.2:21 > 10.1.1.0:0"},
		{47, "10.1.1.1:0", "10.1.1.2:0", "IP-protocol-47 10.1.1.1 > 10.1.1.2", "IP-protocol-47 10.1.1.2 > 10.1.1.1"},
	} {
		f := packet.NewFlow(c.proto, ap(c.client), ap(c.virtual))
		if f.String() != c.want {
			t.Errorf("%s > %s: %q, want %q", c.client, c.virtual, f, c.want)
		}
		r := f.Reverse()
		if r.String() != c.back {
			t.Errorf("%v reversed: %q, want %q", f, r, c.back)
		}
		if r.Reverse() != f {
			t.Errorf("%v reversed twice is %v", f, r.Reverse())
		}
		if again := packet.NewFlow(f.Proto(), f.Client(), f.Virtual()); again != f {
			t.Errorf("%v made again is %v", f, again)
		}
		if f.Client().Port() != f.ClientPort() || f.Virtual().Port() != f.VirtualPort() ||
			f.ClientPort() != ap(c.client).Port() || f.VirtualPort() != ap(c.virtual).Port() {
			t.Errorf("%v: ports %d, %d", f, f.ClientPort(), f.VirtualPort())
		}
		if f.Is6() != f.Client().Addr().Is6() {
			t.Errorf("%v: Is6 %v", f, f.Is6())
		}
	}
}

func TestNoFlow(t *testing.T) {
	var none packet.Flow
	for _, f := range []packet.Flow{
		none,
		packet.NewFlow(6, ap("10.1.1.1:1"), ap("[::1]:1")),
		packet.NewFlow(6, netip.AddrPort{}, ap("[::1]:1")),
		packet.NewFlow(6, ap("[::1]:1"), netip.AddrPort{}),
		packet.NewFlow(6, ap("10.1.1.1:1"), netip.AddrPort{}),
		packet.NewFlow(6, netip.AddrPort{}, netip.AddrPort{}),
	} {
		if f != none || f.String() != "no flow" || f.Client().IsValid() || f.Virtual().IsValid() {
			t.Errorf("%v is a flow", f)
		}
	}
}
