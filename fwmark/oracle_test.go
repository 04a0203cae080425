package fwmark

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/ulvs/ulvs/packet"
)

// oracle interprets rules field by field, as the kernel's modules do.
func oracle(rules []Rule, p *packet.Packet, in string) (mark uint32) {
	for _, r := range rules {
		if r.IPv6 == p.Is6 && oracleMatches(r, p, in, mark) {
			mark = mark&^r.Mask ^ r.Value
		}
	}
	return mark
}

func oracleMatches(r Rule, p *packet.Packet, in string, mark uint32) bool {
	if r.Protocol != 0 && (r.Protocol == p.Proto) == r.NotProtocol {
		return false
	}
	inside := func(n Network, a netip.Addr) bool {
		if n.Any() {
			return true
		}
		got, want, mask := a.AsSlice(), n.Addr.AsSlice(), n.Mask.AsSlice()
		for i := range got {
			if got[i]&mask[i] != want[i] {
				return n.Not
			}
		}
		return !n.Not
	}
	if !inside(r.Source, p.Source()) || !inside(r.Dest, p.Dest()) {
		return false
	}
	if name := r.In.Name; name != "" {
		same := name == in
		if strings.HasSuffix(name, "+") {
			same = strings.HasPrefix(in, name[:len(name)-1])
		}
		if same == r.In.Not {
			return false
		}
	}
	sport, dport := p.Flow.ClientPort(), p.Flow.VirtualPort()
	for _, m := range r.Matches {
		switch m.Kind {
		case MatchPorts:
			if p.FragOffset > 0 {
				return false
			}
			for port, c := range map[*uint16]PortRange{&sport: m.Source, &dport: m.Dest} {
				if c.Given && (*port >= c.First && *port <= c.Last) == c.Not {
					return false
				}
			}
		case MatchMultiport:
			if p.FragOffset > 0 {
				return false
			}
			found := false
			for _, c := range m.Ports {
				s := sport >= c.First && sport <= c.Last
				d := dport >= c.First && dport <= c.Last
				found = found || s && m.Side != DestSide || d && m.Side != SourceSide
			}
			if found == m.Not {
				return false
			}
		case MatchMark:
			if (mark&m.Mask == m.Value) == m.Not {
				return false
			}
		}
	}
	return true
}

// Small pools, so that rules and packets meet.
var (
	pool4  = []string{"10.0.0.1", "10.0.0.2", "10.0.1.1", "10.1.0.1", "192.0.2.7"}
	pool6  = []string{"2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "2001:db8:1::1", "::1.2.3.4", "::ffff:10.0.0.1"}
	masks4 = []string{"", "/32", "/24", "/16", "/255.0.0.255", "/0.0.255.0", "/1", "/0"}
	masks6 = []string{"", "/128", "/64", "/48", "/33", "/ffff::ffff", "/::ffff:0:0", "/0"}
	ifaces = []string{"eth0", "eth1", "lo"}
)

// randomRule is a rule's words, which always are a rule.
func randomRule(g *rand.Rand, ipv6 bool) string {
	var b strings.Builder
	pick := func(list ...string) string { return list[g.IntN(len(list))] }
	not := func() string { return pick("", "", "", "! ") }
	addrs, masks := pool4, masks4
	if ipv6 {
		addrs, masks = pool6, masks6
	}
	port := func() int { return 78 + g.IntN(6) }
	ports := func() string {
		if g.IntN(2) == 0 {
			return fmt.Sprint(port())
		}
		first := port()
		return fmt.Sprintf("%d:%d", first, first+1+g.IntN(3))
	}
	for _, o := range []string{"-s", "-d", "-d"} {
		if g.IntN(2) == 0 && !(o == "-d" && strings.Contains(b.String(), "-d ")) {
			if m := pick(masks...); m == "/0" {
				fmt.Fprintf(&b, "%s %s%s ", o, pick(addrs...), m)
			} else {
				fmt.Fprintf(&b, "%s%s %s%s ", not(), o, pick(addrs...), m)
			}
		}
	}
	if g.IntN(5) == 0 {
		fmt.Fprintf(&b, "%s-i %s ", not(), pick("eth0", "eth+", "e+", "lo", "+"))
	}
	switch proto := pick("", "icmp", "47", "tcp", "tcp", "tcp", "udp", "sctp"); proto {
	case "":
	case "icmp", "47":
		b.WriteString(not() + "-p " + proto + " ")
	default:
		b.WriteString("-p " + proto + " ")
		if g.IntN(2) == 0 {
			fmt.Fprintf(&b, "%s--dport %s ", not(), ports())
		}
		if g.IntN(4) == 0 {
			fmt.Fprintf(&b, "%s--sport %s ", not(), ports())
		}
		if g.IntN(4) == 0 {
			fmt.Fprintf(&b, "-m multiport %s%s %s", not(), pick("--sports", "--dports", "--ports"), ports())
			for range g.IntN(3) {
				b.WriteString("," + ports())
			}
			b.WriteByte(' ')
		}
	}
	if g.IntN(6) == 0 {
		fmt.Fprintf(&b, "-m mark %s--mark %#x/%#x ", not(), g.IntN(4), g.IntN(4))
	}
	fmt.Fprintf(&b, "-j MARK %s %#x", pick("--set-mark", "--and-mark", "--or-mark", "--xor-mark", "--set-xmark"), g.IntN(8))
	return b.String()
}

// randomPacket is an IP packet as packet.Parse would describe it.
func randomPacket(g *rand.Rand) (*packet.Packet, string) {
	p := &packet.Packet{Is6: g.IntN(2) == 0}
	p.Proto = []uint8{tcp, tcp, udp, sctp, 1, 47}[g.IntN(6)]
	addr := func() netip.Addr {
		if p.Is6 {
			return netip.MustParseAddr(pool6[g.IntN(len(pool6)-1)])
		}
		return netip.MustParseAddr(pool4[g.IntN(len(pool4))])
	}
	src, dst := netip.AddrPortFrom(addr(), 0), netip.AddrPortFrom(addr(), 0)
	if g.IntN(8) == 0 {
		p.Fragment, p.FragOffset = true, uint16(g.IntN(2)*1480)
	}
	if portModule(p.Proto) != "" && p.FragOffset == 0 {
		src = netip.AddrPortFrom(src.Addr(), uint16(77+g.IntN(9)))
		dst = netip.AddrPortFrom(dst.Addr(), uint16(77+g.IntN(9)))
	}
	p.Flow = packet.NewFlow(p.Proto, src, dst)
	return p, ifaces[g.IntN(len(ifaces))]
}

// A Set gives every packet the mark that reading the rules gives, for few
// rules and for many, which are indexed.
func TestMarkOracle(t *testing.T) {
	g := rand.New(rand.NewPCG(1, 2))
	marked := 0
	for round := range 400 {
		size := 1 + g.IntN(12)
		if round%4 == 0 {
			size = 20 + g.IntN(100)
		}
		var rules []Rule
		for range size {
			tb := testTable(g.IntN(2) == 0)
			words := randomRule(g, tb.Is6())
			if _, err := tb.Command(split("-t mangle -A PREROUTING " + words)); err != nil {
				t.Fatal(err)
			}
			rules = append(rules, tb.Rules()...)
		}
		s := Compile(rules)
		for range 100 {
			p, in := randomPacket(g)
			got, want := s.Mark(p, in), oracle(rules, p, in)
			if got != want {
				t.Fatalf("mark %#x, want %#x for %v from %s, fragment offset %d, of\n%v", got, want, p.Flow, in, p.FragOffset, rules)
			}
			if want != 0 {
				marked++
			}
			if !s.Possible(got, p.Is6) {
				t.Fatalf("mark %#x came out, but is not possible of\n%v", got, rules)
			}
		}
	}
	if marked < 5000 {
		t.Errorf("only %d packets were marked: the test compares too little", marked)
	}
}

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
	if _, err := tb6.Command(split("-t mangle -A PREROUTING -d 2001:db8::1 -j MARK --set-mark 10")); err != nil {
		t.Fatal(err)
	}
	s := Compile(append(tb.Rules(), tb6.Rules()...))
	for _, tc := range []struct {
		marks []uint32
		want  string
	}{
		{[]uint32{10}, "[192.0.2.1 192.0.2.4 192.0.2.5 2001:db8::1]"},
		{[]uint32{11, 10}, "[192.0.2.1 192.0.2.3 192.0.2.4 192.0.2.5 2001:db8::1]"},
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
		return s.Mark(p, "eth0")
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
	if got := s.Mark(&packet.Packet{}, "eth0"); got != 0 {
		t.Errorf("a frame that is not IP has mark %d", got)
	}
	if got := (*Set)(nil).Mark(&packet.Packet{}, ""); got != 0 {
		t.Errorf("a nil Set gives mark %d", got)
	}
	if all := Compile([]Rule{{Value: 1, Mask: 1}, {IPv6: true, Value: 1, Mask: 1}}); all.Mark(&packet.Packet{}, "") != 0 {
		t.Error("a frame that is not IP was marked")
	}
}

func TestMarkAllocatesNothing(t *testing.T) {
	g := rand.New(rand.NewPCG(3, 4))
	tb := testTable(false)
	for range 60 {
		if _, err := tb.Command(split("-t mangle -A PREROUTING " + randomRule(g, false))); err != nil {
			t.Fatal(err)
		}
	}
	for _, rules := range [][]Rule{tb.Rules()[:10], tb.Rules()} {
		s := Compile(rules)
		p, in := randomPacket(g)
		if n := testing.AllocsPerRun(100, func() { s.Mark(p, in) }); n != 0 {
			t.Errorf("%d rules: %v allocations a packet", len(rules), n)
		}
	}
}

// The two rules of most directors, one VIP with many ports, and ten thousand.
func BenchmarkMark(b *testing.B) {
	for _, n := range []int{1, 2, 8, 16, 24, 32, 64, 1000, 10000} {
		var rules []Rule
		for i := range n {
			tb := NewTable(false)
			c := fmt.Sprintf("-t mangle -A PREROUTING -d 10.0.%d.%d -p tcp --dport %d -j MARK --set-mark %d", i/4%256, i%4, 80+i%3, 1+i)
			if _, err := tb.Command(strings.Fields(c)); err != nil {
				b.Fatal(err)
			}
			rules = append(rules, tb.Rules()...)
		}
		s := Compile(rules)
		p := &packet.Packet{Proto: tcp, Flow: packet.NewFlow(tcp, netip.MustParseAddrPort("192.0.2.1:40000"), netip.MustParseAddrPort("10.0.0.0:80"))}
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			for b.Loop() {
				s.Mark(p, "eth0")
			}
		})
		straight := Compile(rules)
		straight.ip4.index = nil
		b.Run(fmt.Sprintf("straight/rules=%d", n), func(b *testing.B) {
			for b.Loop() {
				straight.Mark(p, "eth0")
			}
		})
	}
}
