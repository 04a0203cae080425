package fwmark

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/ulvs/ulvs/packet"
)

// What is certain of a destination holds for every packet to it.
func TestOutcomes(t *testing.T) {
	g := rand.New(rand.NewPCG(5, 6))
	marked, certain, all := 0, 0, 0
	for round := range 2400 {
		ipv6 := round%2 == 1
		tb := testTable(ipv6)
		lines := randomChains(g, ipv6, 1+g.IntN(6))
		if err := tb.Restore("*mangle\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"); err != nil {
			t.Fatal(err)
		}
		s := Compile(tb.Rules())
		f := NewPartial(tb.Rules(), ipv6, nil)
		for range 300 {
			in := randomPacket(g)
			p := in.Packet
			if p.Is6 != ipv6 || portModule(p.Proto) == "" || p.FragOffset > 0 {
				continue
			}
			list := f.Outcomes(p.Dest(), p.Proto)
			o := outcomeAt(t, list, p.Flow.VirtualPort())
			all++
			if !o.Certain {
				continue
			}
			certain++
			if got := s.Mark(in); got != o.Mark {
				t.Fatalf("%v gets %#x, but %+v is certain of\n%s", p.Flow, got, o, strings.Join(lines, "\n"))
			}
			if o.Mark != 0 {
				marked++
			}
		}
	}
	if marked < 2000 || certain < all/4 {
		t.Errorf("of %d packets %d were certain, and %d of those marked: the test compares too little", all, certain, marked)
	}
}

// outcomeAt finds a port's outcome, among outcomes that follow one another and cover all ports.
func outcomeAt(t *testing.T, list []Outcome, port uint16) (found Outcome) {
	t.Helper()
	next := 0
	for i, o := range list {
		if int(o.First) != next || o.Last < o.First || i > 0 && o.same(&list[i-1]) {
			t.Fatalf("outcome %d of %+v", i, list)
		}
		if next = int(o.Last) + 1; o.First <= port && port <= o.Last {
			found = o
		}
	}
	if next != 65536 {
		t.Fatalf("the last of %+v is not 65535", list)
	}
	return found
}

// What people's rules come to.
func TestOutcomesOf(t *testing.T) {
	const vip = "-d 192.0.2.1 -p tcp "
	for _, tt := range []struct{ name, rules, want string }{
		{"none", "", "0-65535 0"},
		{"two ports", vip + "--dport 80 -j MARK --set-mark 10\n" + vip + "--dport 443 -j MARK --set-mark 10",
			"0-79 0, 80-80 10, 81-442 0, 443-443 10, 444-65535 0"},
		{"multiport", vip + "-m multiport --dports 80,443,8000:8009 -j MARK --set-mark 10",
			"0-79 0, 80-80 10, 81-442 0, 443-443 10, 444-7999 0, 8000-8009 10, 8010-65535 0"},
		{"every port", "-d 192.0.2.1 -j MARK --set-mark 10\n" + vip + "--dport 22 -j MARK --set-mark 0",
			"0-21 10, 22-22 0, 23-65535 10"},
		{"another address", "-d 192.0.2.2 -j MARK --set-mark 10", "0-65535 0"},
		{"no address", "-p tcp --dport 80 -j MARK --set-mark 10", "0-79 0, 80-80 10, 81-65535 0"},
		{"another protocol", "-d 192.0.2.1 -p udp -j MARK --set-mark 10", "0-65535 0"},
		{"a client", vip + "-s 10.0.0.0/8 --dport 80 -j MARK --set-mark 10", "0-79 0, 80-80 ?, 81-65535 0"},
		{"an interface", vip + "-i eth0 --dport 80 -j MARK --set-mark 10", "0-79 0, 80-80 ?, 81-65535 0"},
		{"any interface", vip + "-i + --dport 80 -j MARK --set-mark 10", "0-79 0, 80-80 10, 81-65535 0"},
		{"flags", vip + "--syn --dport 80 -j MARK --set-mark 10", "0-79 0, 80-80 ?, 81-65535 0"},
		{"a client who changes nothing", vip + "--dport 80 -j MARK --set-mark 10\n" + vip + "-s 10.0.0.0/8 -j MARK --or-mark 2",
			"0-79 ?, 80-80 10, 81-65535 ?"},
		{"accepted before", vip + "--dport 22 -j ACCEPT\n-d 192.0.2.1 -j MARK --set-mark 10", "0-21 10, 22-22 0, 23-65535 10"},
		{"mark after mark", vip + "--dport 80 -j MARK --set-mark 1\n-m mark --mark 1 -j MARK --set-mark 10",
			"0-79 0, 80-80 10, 81-65535 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tb := NewTable(false)
			for line := range strings.Lines(tt.rules) {
				if _, err := tb.Command(strings.Fields("-t mangle -A PREROUTING " + line)); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			list := NewPartial(tb.Rules(), false, nil).Outcomes(netip.MustParseAddr("192.0.2.1"), packet.ProtoTCP)
			outcomeAt(t, list, 0)
			for _, o := range list {
				mark := "?"
				if o.Certain {
					mark = fmt.Sprint(o.Mark)
				}
				got = append(got, fmt.Sprintf("%d-%d %s", o.First, o.Last, mark))
			}
			if got := strings.Join(got, ", "); got != tt.want {
				t.Errorf("%s, not %s", got, tt.want)
			}
		})
	}
}

// Destinations of which the same rules are left share what is found out, and where that would be
// too much work nothing is certain.
func TestOutcomesBound(t *testing.T) {
	tb := NewTable(false)
	var text strings.Builder
	for i := range 2100 {
		fmt.Fprintf(&text, "-A PREROUTING -p tcp --dport %d -j MARK --set-mark 1\n", 2*i+1)
	}
	if err := tb.Restore("*mangle\n" + text.String() + "COMMIT\n"); err != nil {
		t.Fatal(err)
	}
	f := NewPartial(tb.Rules(), false, nil)
	if got := fmt.Sprint(f.Outcomes(netip.MustParseAddr("192.0.2.1"), tcp)); got != "[{0 65535 0 false []}]" {
		t.Errorf("%.100s", got)
	}
	f = NewPartial(tb.Rules()[:1000], false, nil)
	for i := range 100 {
		if n := len(f.Outcomes(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), tcp)); n != 2001 || len(f.known) != 1 {
			t.Fatalf("%d outcomes, %d lists", n, len(f.known))
		}
	}
}
