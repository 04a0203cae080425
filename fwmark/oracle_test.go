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
			if m.Flags != (TCPFlags{}) && (p.TCPFlags&m.Flags.Mask == m.Flags.Set) == m.Flags.Not {
				return false
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
		case MatchMAC:
			if string(k.Frame[6:12]) == string(m.MAC[:]) == m.Not {
				return false
			}
		case MatchICMP:
			found := p.ICMPType == m.Type && p.ICMPCode >= m.FirstCode && p.ICMPCode <= m.LastCode
			if p.FragOffset > 0 || (found || m.Type == 255 && !p.Is6) == m.Not {
				return false
			}
		case MatchTOS, MatchDSCP:
			tos := uint32(k.Frame[15])
			if p.Is6 {
				tos = uint32(k.Frame[14]&15)<<4 + uint32(k.Frame[15])>>4
			}
			if m.Kind == MatchDSCP {
				tos, m.Mask = tos/4, 63
			}
			if (tos&m.Mask == m.Value) == m.Not {
				return false
			}
		case MatchIPRange:
			for i, c := range []AddrRange{m.SourceRange, m.DestRange} {
				a := []netip.Addr{p.Source(), p.Dest()}[i]
				if c.First.IsValid() && (!a.Less(c.First) && !c.Last.Less(a)) == c.Not {
					return false
				}
			}
		case MatchAddrType:
			for i, c := range []AddrTypes{m.SourceTypes, m.DestTypes} {
				a := []netip.Addr{p.Source(), p.Dest()}[i]
				found := c.Set&(1<<5) != 0 && a.IsMulticast() || c.Set&(1<<2) != 0 && hosts[a]
				if c.Set != 0 && found == c.Not {
					return false
				}
			}
		}
	}
	return true
}

// hosts are the addresses of the host that packets are for.
type addresses map[netip.Addr]bool

func (a addresses) Local(addr netip.Addr) bool { return a[addr] }

var hosts = addresses{netip.MustParseAddr("10.0.0.1"): true, netip.MustParseAddr("2001:db8::1"): true}

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
		for range 200 {
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
