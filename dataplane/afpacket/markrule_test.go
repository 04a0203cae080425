package afpacket

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// datagram is what the mark rules of the test are about.
type datagram struct {
	src, dst     netip.Addr
	sport, dport uint16
	mac          dataplane.MAC
	tos          byte
}

// mark is the oracle: the rules one after the other, as the contract says.
func (d datagram) mark(rules []dataplane.MarkRule, in string) (mark uint32) {
	inRanges := func(p uint16, m dataplane.PortMatch) bool {
		for _, r := range m.Ranges {
			if r.First <= p && p <= r.Last {
				return true
			}
		}
		return false
	}
	addr := func(a netip.Addr, m dataplane.AddrMatch) bool {
		if !m.Addr.IsValid() {
			return true
		}
		same := true
		for i, b := range a.AsSlice() {
			same = same && b&m.Mask.AsSlice()[i] == m.Addr.AsSlice()[i]
		}
		return same != m.Not
	}
	holds := func(r dataplane.MarkRule) bool {
		ok := r.Proto == 0 || (r.Proto == unix.IPPROTO_UDP) != r.NotProto
		ok = ok && addr(d.src, r.Src) && addr(d.dst, r.Dst)
		if r.In != "" {
			name, wild := strings.CutSuffix(r.In, "+")
			ok = ok && (in == name || wild && strings.HasPrefix(in, name)) != r.NotIn
		}
		for _, m := range r.Ports {
			var hit bool
			switch m.Side {
			case dataplane.SourcePort:
				hit = inRanges(d.sport, m)
			case dataplane.DestPort:
				hit = inRanges(d.dport, m)
			case dataplane.EitherPort:
				hit = inRanges(d.sport, m) || inRanges(d.dport, m)
			}
			ok = ok && hit != m.Not
		}
		for _, m := range r.Marks {
			ok = ok && (mark&m.Mask == m.Value) != m.Not
		}
		for _, m := range r.MACs {
			ok = ok && (d.mac == m.Addr) != m.Not
		}
		for _, m := range r.TOS {
			ok = ok && (d.tos&m.Mask == m.Value) != m.Not
		}
		for _, m := range r.SrcRanges {
			ok = ok && (m.First.Compare(d.src) <= 0 && d.src.Compare(m.Last) <= 0) != m.Not
		}
		for _, m := range r.DstRanges {
			ok = ok && (m.First.Compare(d.dst) <= 0 && d.dst.Compare(m.Last) <= 0) != m.Not
		}
		types := func(a netip.Addr, list []dataplane.AddrTypes) {
			for _, m := range list {
				local := a.String() == "10.8.0.2"
				ok = ok && (local && m.Set&(1<<unix.RTN_LOCAL) != 0) != m.Not
			}
		}
		types(d.src, r.SrcTypes)
		types(d.dst, r.DstTypes)
		return ok
	}
	var walk func(chain string) (accepted bool)
	walk = func(chain string) bool {
		for _, r := range rules {
			if r.Chain != chain || !holds(r) {
				continue
			}
			switch r.Verb {
			case dataplane.SetMark:
				mark = mark&^r.Mask ^ r.Value
			case dataplane.Accept:
				return true
			case dataplane.Return:
				return false
			case dataplane.Goto:
				return walk(r.To)
			case dataplane.Jump:
				if walk(r.To) {
					return true
				}
			}
		}
		return false
	}
	walk(dataplane.PreroutingChain)
	walk(dataplane.InputChain)
	return mark
}

// Each rule set is claimed with mark 5, and the host must get exactly those
// datagrams that the oracle gives another mark, without any mark on them.
func TestMarkRules(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const all = ^uint32(0)
	a := netip.MustParseAddr
	ports := func(side dataplane.PortSide, not bool, p ...uint16) dataplane.PortMatch {
		m := dataplane.PortMatch{Side: side, Not: not}
		for i := 0; i < len(p); i += 2 {
			m.Ranges = append(m.Ranges, dataplane.PortRange{First: p[i], Last: p[i+1]})
		}
		return m
	}
	with := func(p ...dataplane.PortMatch) []dataplane.PortMatch { return p }
	const src, dst, any = dataplane.SourcePort, dataplane.DestPort, dataplane.EitherPort
	rule := func(r dataplane.MarkRule) []dataplane.MarkRule {
		r.Value, r.Mask = 5, all
		return []dataplane.MarkRule{r}
	}
	type rules = []dataplane.MarkRule
	types := func(set uint16, not bool) []dataplane.AddrTypes { return []dataplane.AddrTypes{{Set: set, Not: not}} }
	const jump, goTo = dataplane.Jump, dataplane.Goto
	var mac dataplane.MAC
	l.in(client, func() {
		i, err := net.InterfaceByName("eth0")
		l.must(err)
		mac = dataplane.MAC(i.HardwareAddr)
	})
	cases := map[string]rules{
		"everything":           rule(dataplane.MarkRule{}),
		"nothing":              nil,
		"protocol":             rule(dataplane.MarkRule{Proto: unix.IPPROTO_UDP}),
		"other protocol":       rule(dataplane.MarkRule{Proto: unix.IPPROTO_TCP}),
		"not protocol":         rule(dataplane.MarkRule{Proto: unix.IPPROTO_UDP, NotProto: true}),
		"port without proto":   rule(dataplane.MarkRule{Ports: with(ports(dst, false, 1000, 1000))}),
		"dest port":            rule(dataplane.MarkRule{Proto: 17, Ports: with(ports(dst, false, 1000, 1001))}),
		"dest ports, merged":   rule(dataplane.MarkRule{Proto: 17, Ports: with(ports(dst, false, 1002, 65535, 1000, 1000, 1003, 2000))}),
		"not dest port":        rule(dataplane.MarkRule{Proto: 17, Ports: with(ports(dst, true, 1000, 1001))}),
		"not dest ports":       rule(dataplane.MarkRule{Proto: 17, Ports: with(ports(dst, true, 1000, 1000, 1002, 1002))}),
		"source port":          rule(dataplane.MarkRule{Proto: 17, Ports: with(ports(src, false, 2000, 2000))}),
		"source and dest":      rule(dataplane.MarkRule{Proto: 17, Ports: with(ports(src, false, 2000, 2000), ports(dst, true, 1000, 1000))}),
		"either":               rule(dataplane.MarkRule{Proto: 17, Ports: with(ports(any, false, 1000, 1000, 2000, 2000))}),
		"neither":              rule(dataplane.MarkRule{Proto: 17, Ports: with(ports(any, true, 1000, 1000, 2000, 2000))}),
		"either, twice":        rule(dataplane.MarkRule{Proto: 17, Ports: with(ports(any, false, 1000, 1001), ports(any, false, 2000, 2000, 1001, 1001))}),
		"no port at all":       rule(dataplane.MarkRule{Proto: 17, Ports: with(ports(dst, false))}),
		"any port":             rule(dataplane.MarkRule{Proto: 17, Ports: with(ports(dst, true))}),
		"source address":       rule(dataplane.MarkRule{Src: dataplane.AddrMatch{Addr: a("10.8.0.1"), Mask: a("255.255.255.255")}}),
		"not source address":   rule(dataplane.MarkRule{Src: dataplane.AddrMatch{Addr: a("10.8.0.1"), Mask: a("255.255.255.255"), Not: true}}),
		"odd mask":             rule(dataplane.MarkRule{Src: dataplane.AddrMatch{Addr: a("10.0.0.1"), Mask: a("255.0.0.3")}}),
		"dest address, no":     rule(dataplane.MarkRule{Dst: dataplane.AddrMatch{Addr: a("10.9.0.0"), Mask: a("255.255.0.0")}}),
		"interface":            rule(dataplane.MarkRule{In: "eth0"}),
		"interface, wildcard":  rule(dataplane.MarkRule{In: "eth+"}),
		"other interface":      rule(dataplane.MarkRule{In: "eth"}),
		"not interface":        rule(dataplane.MarkRule{In: "eth0", NotIn: true}),
		"not other interface":  rule(dataplane.MarkRule{In: "wlan+", NotIn: true}),
		"last one wins":        {{Value: 5, Mask: all}, {Value: 6, Mask: all, Ports: with(ports(dst, false, 1000, 1000)), Proto: 17}},
		"xor, or, and":         {{Value: 0xff, Mask: 0xff}, {Value: 0xfa, Mask: 0}, {Proto: 17, Ports: with(ports(dst, false, 1000, 1000)), Mask: 4}},
		"either applies once":  {{Value: 7, Mask: all}, {Proto: 17, Ports: with(ports(any, false, 1000, 1000, 2000, 2000)), Value: 2}},
		"on an earlier mark":   {{Value: 4, Mask: all, Proto: 17, Ports: with(ports(dst, false, 1000, 1000))}, {Value: 1, Mask: 0, Marks: []dataplane.MarkMatch{{Value: 4, Mask: 4}}}},
		"source range":         rule(dataplane.MarkRule{SrcRanges: []dataplane.AddrRange{{First: a("10.8.0.2"), Last: a("10.8.0.4")}}}),
		"not source range":     rule(dataplane.MarkRule{SrcRanges: []dataplane.AddrRange{{First: a("10.8.0.2"), Last: a("10.8.0.4"), Not: true}}}),
		"dest range":           rule(dataplane.MarkRule{DstRanges: []dataplane.AddrRange{{First: a("10.8.0.2"), Last: a("10.8.0.2")}}}),
		"MAC":                  rule(dataplane.MarkRule{MACs: []dataplane.MACMatch{{Addr: mac}}}),
		"not MAC":              rule(dataplane.MarkRule{MACs: []dataplane.MACMatch{{Addr: mac, Not: true}}}),
		"other MAC":            rule(dataplane.MarkRule{MACs: []dataplane.MACMatch{{Addr: dataplane.MAC{2, 3}, Not: true}}}),
		"type of service":      rule(dataplane.MarkRule{TOS: []dataplane.ByteMatch{{Mask: 0xfc, Value: 0x20}}}),
		"not type of service":  rule(dataplane.MarkRule{TOS: []dataplane.ByteMatch{{Mask: 0xfc, Value: 0, Not: true}}}),
		"TCP's flags":          rule(dataplane.MarkRule{Proto: 6, Flags: []dataplane.ByteMatch{{Mask: 2, Value: 2}}, Ports: with(ports(dst, false, 0, 65535))}),
		"local":                rule(dataplane.MarkRule{DstTypes: types(1<<unix.RTN_LOCAL, false)}),
		"local or multicast":   rule(dataplane.MarkRule{DstTypes: types(1<<unix.RTN_LOCAL|1<<unix.RTN_MULTICAST, false)}),
		"not local":            rule(dataplane.MarkRule{DstTypes: types(1<<unix.RTN_LOCAL|1<<unix.RTN_MULTICAST, true)}),
		"source not local":     rule(dataplane.MarkRule{SrcTypes: types(1<<unix.RTN_LOCAL|1<<unix.RTN_MULTICAST, true)}),
		"source local":         rule(dataplane.MarkRule{SrcTypes: types(1<<unix.RTN_LOCAL, false)}),
		"jump":                 {{Verb: jump, To: "A"}, {Chain: "A", Value: 5, Mask: all, Proto: 17, Ports: with(ports(dst, false, 1000, 1000))}},
		"jump, and on":         {{Verb: jump, To: "A"}, {Chain: "A", Value: 4, Mask: all}, {Value: 1}},
		"jump, return, and on": {{Verb: jump, To: "A"}, {Chain: "A", Value: 4, Mask: all}, {Chain: "A", Verb: dataplane.Return}, {Chain: "A", Value: 2}, {Value: 1}},
		"jump under ports":     {{Verb: jump, To: "A", Proto: 17, Ports: with(ports(any, false, 1000, 1000, 2000, 2000))}, {Chain: "A", Value: 5}},
		"goto":                 {{Verb: goTo, To: "A"}, {Value: 5, Mask: all}, {Chain: "A", Proto: 17, Ports: with(ports(dst, false, 1000, 1000)), Value: 5}},
		"goto within a jump":   {{Verb: jump, To: "A"}, {Value: 1}, {Chain: "A", Verb: goTo, To: "B"}, {Chain: "A", Value: 2}, {Chain: "B", Value: 4}},
		"accept":               {{Value: 5, Mask: all}, {Verb: dataplane.Accept, Proto: 17, Ports: with(ports(dst, false, 1000, 1000))}, {Value: 7, Mask: all}},
		"accept, deep":         {{Verb: jump, To: "A"}, {Value: 7, Mask: all}, {Chain: "A", Verb: jump, To: "B"}, {Chain: "B", Value: 5, Mask: all}, {Chain: "B", Verb: dataplane.Accept, Src: dataplane.AddrMatch{Addr: a("10.8.0.1"), Mask: a("255.255.255.255")}}},
		"return":               {{Value: 5, Mask: all}, {Verb: dataplane.Return, Proto: 17, Ports: with(ports(dst, false, 1000, 1000))}, {Value: 7, Mask: all}},
		"INPUT":                {{Chain: "INPUT", Value: 5, Mask: all}},
		"INPUT comes later":    {{Chain: "INPUT", Marks: []dataplane.MarkMatch{{Value: 4, Mask: all}}, Value: 5, Mask: all}, {Value: 4, Mask: all}},
		"accept, then INPUT":   {{Chain: "INPUT", Value: 1}, {Value: 4, Mask: all}, {Verb: dataplane.Accept, Proto: 17, Ports: with(ports(dst, false, 1000, 1000))}, {Value: 2}},
		"a chain of both":      {{Verb: jump, To: "A"}, {Chain: "INPUT", Verb: jump, To: "A"}, {Chain: "INPUT", Value: 1}, {Chain: "A", Marks: []dataplane.MarkMatch{{Mask: all}}, Value: 4}, {Chain: "A", Marks: []dataplane.MarkMatch{{Value: 1, Mask: 1, Not: true}}, Verb: dataplane.Accept, Proto: 17, Ports: with(ports(dst, false, 1000, 1001))}},
		"chain without rules":  {{Verb: jump, To: "A"}, {Verb: goTo, To: "A", Src: dataplane.AddrMatch{Addr: a("10.8.0.1"), Mask: a("255.255.255.255")}}, {Value: 5, Mask: all}},
		"not on earlier marks": {{Value: 4, Mask: all, Proto: 17, Ports: with(ports(dst, false, 1000, 1000))}, {Value: 5, Mask: all, Marks: []dataplane.MarkMatch{{Value: 4, Mask: 4, Not: true}}}},
	}
	// The host drops what reaches it with a mark.
	l.nft(director, "add table inet watch")
	l.nft(director, "add chain inet watch pre { type filter hook prerouting priority -300 ; }")
	l.nft(director, "add rule inet watch pre meta mark != 0 drop")
	sports, dports := []uint16{2000, 2001, 1000}, []uint16{1000, 1001, 1002}
	var inside []*net.UDPConn
	var outside []*net.UDPConn
	l.in(director, func() {
		for _, p := range dports {
			c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(p)})
			l.must(err)
			inside = append(inside, c)
		}
	})
	l.in(client, func() {
		l.ip("addr add 10.8.0.4/24 dev eth0")
		for _, ip := range []string{"10.8.0.1", "10.8.0.4"} {
			for _, p := range sports {
				c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(ip), Port: int(p)})
				l.must(err)
				if ip == "10.8.0.4" {
					raw, err := c.SyscallConn()
					l.must(err)
					l.must(raw.Control(func(fd uintptr) {
						l.must(unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, 0x20))
					}))
				}
				outside = append(outside, c)
			}
		}
	})
	p, _ := l.start(director, &toHop{}, Options{})
	for name, set := range cases {
		if err := p.Claim(dataplane.Claims{Marks4: []uint32{5, 99}, Rules4: set}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, out := range outside {
			from := out.LocalAddr().(*net.UDPAddr).AddrPort()
			for i, in := range inside {
				to := netip.AddrPortFrom(a("10.8.0.2"), dports[i])
				d := datagram{from.Addr(), to.Addr(), from.Port(), to.Port(), mac, 0}
				if from.Addr() == a("10.8.0.4") {
					d.tos = 0x20
				}
				want := d.mark(set, "eth0") != 5
				word := fmt.Sprint(name, from, to)
				if _, err := out.WriteToUDPAddrPort([]byte(word), to); err != nil {
					t.Fatal(err)
				}
				if got := arrives(t, in, word, want); got != want {
					t.Errorf("%s: %v to %v, mark %d: arrived: %v", name, from, to, d.mark(set, "eth0"), got)
				}
			}
		}
	}
}

// arrives reports whether word comes out of c. What is expected is waited for
// patiently.
func arrives(t *testing.T, c *net.UDPConn, word string, expected bool) bool {
	t.Helper()
	wait := 2 * time.Millisecond
	if expected {
		wait = patience
	}
	_ = c.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, 200)
	for {
		n, _, err := c.ReadFromUDP(b)
		if err != nil {
			return false
		}
		if string(b[:n]) == word {
			return true
		}
	}
}
