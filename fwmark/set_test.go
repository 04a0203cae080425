package fwmark

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/ulvs/ulvs/packet"
)

func TestPossible(t *testing.T) {
	for _, tc := range []struct {
		rules         string
		possible, not []uint32
	}{
		{"", []uint32{0}, []uint32{1}},
		{"-p tcp -j MARK --set-mark 10", []uint32{0, 10}, []uint32{1, 2, 8, 11}},
		{"-j MARK --set-mark 10", []uint32{10}, []uint32{0, 1}},
		{"-m comment --comment x -j MARK --set-mark 10", []uint32{10}, []uint32{0}},
		{"-p tcp -j MARK --or-mark 1|-p tcp -j MARK --or-mark 4", []uint32{0, 1, 4, 5}, []uint32{2, 3, 6}},
		{"-p tcp -j MARK --set-mark 7|-j MARK --and-mark 3", []uint32{0, 3}, []uint32{7, 4, 1}},
		{"-p tcp -j MARK --xor-mark 7|-p tcp -j MARK --xor-mark 1", []uint32{0, 7, 6, 1}, []uint32{2}},
		{"-p tcp -j MARK --set-xmark 0xf0/0x0f", []uint32{0, 0xf0}, []uint32{0x0f}},
		{"-j ACCEPT|-j MARK --set-mark 7|-p tcp -j MARK --xor-mark 1", []uint32{0, 7, 6, 1}, []uint32{2, 5}},
	} {
		tb := testTable(false)
		for _, r := range strings.Split(tc.rules, "|") {
			if _, err := tb.Command(split("-t mangle -A PREROUTING " + r)); err != nil && r != "" {
				t.Fatal(err)
			}
		}
		s := Compile(tb.Rules())
		for _, m := range tc.possible {
			if !s.Possible(m, false) {
				t.Errorf("%s: %d must be possible", tc.rules, m)
			}
		}
		for _, m := range tc.not {
			if s.Possible(m, false) {
				t.Errorf("%s: %d must not be possible", tc.rules, m)
			}
		}
		if !s.Possible(0, true) || s.Possible(1, true) {
			t.Errorf("%s: only mark 0 is possible in the other family", tc.rules)
		}
	}
}

func TestDestinations(t *testing.T) {
	tb, tb6 := testTable(false), testTable(true)
	for _, r := range []string{
		"-d 192.0.2.1 -p tcp --dport 80 -j MARK --set-mark 10",
		"-d 192.0.2.1 -p tcp --dport 443 -j MARK --set-mark 10",
		"! -d 192.0.2.2 -j MARK --set-mark 10",
		"-d 192.0.2.0/24 -j MARK --set-mark 10",
		"-d 192.0.2.3 -j MARK --set-mark 11",
		"-d 192.0.2.5,192.0.2.4 -j MARK --or-mark 2",
		"-d 192.0.2.6 -j MARK --and-mark 0xff",
		"-s 192.0.2.7 -j MARK --set-mark 10",
	} {
		if _, err := tb.Command(split("-t mangle -A PREROUTING " + r)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tb6.Restore("*mangle\n:A -\n:B -\n:C -\n" +
		"-A PREROUTING -d 2001:db8::2 -p tcp --dport 80 -j A\n-A INPUT -d 2001:db8::3 -g A\n-A A -p tcp -j B\n" +
		"-A PREROUTING -d 2001:db8::4 -j C\n-A B -j MARK --set-mark 10\n-A C -j MARK --set-mark 11\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := tb6.Command(split("-t mangle -A PREROUTING -d 2001:db8::1 -j MARK --set-mark 10")); err != nil {
		t.Fatal(err)
	}
	s := Compile(append(tb.Rules(), tb6.Rules()...))
	for _, tc := range []struct {
		marks []uint32
		want  string
	}{
		{[]uint32{10}, "[192.0.2.1 192.0.2.4 192.0.2.5 2001:db8::1 2001:db8::2 2001:db8::3]"},
		{[]uint32{11, 10}, "[192.0.2.1 192.0.2.3 192.0.2.4 192.0.2.5 2001:db8::1 2001:db8::2 2001:db8::3 2001:db8::4]"},
		{[]uint32{8}, "[]"},
		{nil, "[]"},
	} {
		if got := fmt.Sprint(s.Destinations(tc.marks)); got != tc.want {
			t.Errorf("destinations of %v: got %s, want %s", tc.marks, got, tc.want)
		}
	}
	if (*Set)(nil).Destinations([]uint32{10}) != nil {
		t.Error("a nil Set has destinations")
	}
}

// The rules of the reference scenario (reference/kernel/seed-fwm.txt): ports
// 80 and 443 of one address share mark 10, nothing else gets it.
func TestSeedScenario(t *testing.T) {
	tb := testTable(false)
	for _, c := range []string{
		"-t mangle -A PREROUTING -p tcp --dport 80 -d 192.168.10.101 -j MARK --set-mark 10",
		"-t mangle -A PREROUTING -p tcp --dport 443 -d 192.168.10.101 -j MARK --set-mark 10",
	} {
		if out, err := tb.Command(strings.Fields(c)); out != "" || err != nil {
			t.Fatal(out, err)
		}
	}
	s := Compile(tb.Rules())
	mark := func(proto uint8, src, dst string) uint32 {
		p := &packet.Packet{Proto: proto, Flow: packet.NewFlow(proto, netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst))}
		return s.Mark(&Input{Packet: p, In: "eth0"})
	}
	for _, tc := range []struct {
		proto    uint8
		src, dst string
		want     uint32
	}{
		{tcp, "192.168.10.1:40000", "192.168.10.101:80", 10},
		{tcp, "10.1.1.1:50000", "192.168.10.101:443", 10},
		{tcp, "10.1.1.1:50000", "192.168.10.101:22", 0},
		{udp, "10.1.1.1:50000", "192.168.10.101:443", 0},
		{tcp, "10.1.1.1:80", "192.168.10.102:80", 0},
	} {
		if got := mark(tc.proto, tc.src, tc.dst); got != tc.want {
			t.Errorf("%d %s > %s: mark %d, want %d", tc.proto, tc.src, tc.dst, got, tc.want)
		}
	}
	if got := s.Mark(&Input{Packet: &packet.Packet{}, In: "eth0"}); got != 0 {
		t.Errorf("a frame that is not IP has mark %d", got)
	}
	if got := (*Set)(nil).Mark(&Input{Packet: &packet.Packet{}}); got != 0 {
		t.Errorf("a nil Set gives mark %d", got)
	}
	if all := Compile([]Rule{{Value: 1, Mask: 1}, {IPv6: true, Value: 1, Mask: 1}}); all.Mark(&Input{Packet: &packet.Packet{}}) != 0 {
		t.Error("a frame that is not IP was marked")
	}
}
