package fwmark

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/ulvs/ulvs/packet"
)

// oracle interprets rules field by field, as the kernel's modules do, and chains
// one rule after the other.
func oracle(rules []Rule, in *Input) (mark uint32) {
	var walk func(name string, depth int) (accepted bool)
	walk = func(name string, depth int) bool {
		if depth > 100 {
			panic("jumps without end")
		}
		for _, r := range rules {
			if r.Chain != name || r.IPv6 != in.Packet.Is6 || !oracleMatches(r, in, mark) {
				continue
			}
			switch r.Target {
			case TargetMark:
				mark = mark&^r.Mask ^ r.Value
			case TargetAccept:
				return true
			case TargetReturn:
				return false
			case TargetGoto:
				return walk(r.To, depth+1)
			case TargetJump:
				if walk(r.To, depth+1) {
					return true
				}
			}
		}
		return false
	}
	walk("", 0)
	walk("INPUT", 0)
	return mark
}

func oracleMatches(r Rule, k *Input, mark uint32) bool {
	p, in := k.Packet, k.In
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

// randomRule is the words of a rule that marks, which always are a rule.
func randomRule(g *rand.Rand, ipv6 bool) string {
	return randomConditions(g, ipv6) + randomMark(g)
}

func randomMark(g *rand.Rand) string {
	pick := func(list ...string) string { return list[g.IntN(len(list))] }
	return fmt.Sprintf("-j MARK %s %#x", pick("--set-mark", "--and-mark", "--or-mark", "--xor-mark", "--set-xmark"), g.IntN(8))
}

// randomChains are the lines of a table with chains that jump to one another,
// without a circle.
func randomChains(g *rand.Rand, ipv6 bool, rules int) (lines []string) {
	own := []string{"A", "B", "C", "D", "E"}
	for _, name := range own {
		lines = append(lines, ":"+name+" - [0:0]")
	}
	for range rules {
		n := g.IntN(3+2*len(own))/2 - 1 // PREROUTING more often
		chain := []string{"PREROUTING", "INPUT"}[g.IntN(4)/3]
		if n >= 0 && n < len(own) {
			chain = own[n]
		} else {
			n = -1
		}
		words := "-A " + chain + " " + randomConditions(g, ipv6)
		switch k := g.IntN(12); {
		case k < 4 && n < len(own)-1:
			words += []string{"-j ", "-j ", "-g "}[g.IntN(3)] + own[n+1+g.IntN(len(own)-n-1)]
		case k == 4:
			words += "-j ACCEPT"
		case k == 5:
			words += "-j RETURN"
		case k == 6:
		default:
			words += randomMark(g)
		}
		lines = append(lines, words)
	}
	return lines
}

func randomConditions(g *rand.Rand, ipv6 bool) string {
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
	return b.String()
}

// randomPacket is an IP packet as packet.Parse would describe it.
func randomPacket(g *rand.Rand) *Input {
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
	return &Input{Packet: p, In: ifaces[g.IntN(len(ifaces))]}
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
		for _, ipv6 := range []bool{false, true} {
			tb := testTable(ipv6)
			text := strings.Join(randomChains(g, ipv6, size), "\n")
			if err := tb.Restore("*mangle\n" + text + "\nCOMMIT\n"); err != nil {
				t.Fatal(err)
			}
			rules = append(rules, tb.Rules()...)
		}
		s := Compile(rules)
		for range 100 {
			in := randomPacket(g)
			got, want := s.Mark(in), oracle(rules, in)
			if p := in.Packet; got != want {
				t.Fatalf("mark %#x, want %#x for %v from %s, fragment offset %d, of\n%v", got, want, p.Flow, in.In, p.FragOffset, rules)
			}
			if want != 0 {
				marked++
			}
			if !s.Possible(got, in.Packet.Is6) {
				t.Fatalf("mark %#x came out, but is not possible of\n%v", got, rules)
			}
		}
	}
	if marked < 5000 {
		t.Errorf("only %d packets were marked: the test compares too little", marked)
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
	chains := testTable(false)
	if err := chains.Restore("*mangle\n" + strings.Join(randomChains(g, false, 150), "\n") + "\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	for _, rules := range [][]Rule{tb.Rules()[:10], tb.Rules(), chains.Rules()} {
		s := Compile(rules)
		in := randomPacket(g)
		if n := testing.AllocsPerRun(100, func() { s.Mark(in) }); n != 0 {
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
		in := &Input{Packet: p, In: "eth0"}
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			for b.Loop() {
				s.Mark(in)
			}
		})
		straight := Compile(rules)
		straight.ip4.sections[0].index = nil
		b.Run(fmt.Sprintf("straight/rules=%d", n), func(b *testing.B) {
			for b.Loop() {
				straight.Mark(in)
			}
		})
	}
}
