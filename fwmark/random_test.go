package fwmark

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/ulvs/ulvs/packet"
)

// Small pools, so that rules and packets meet.
var (
	pool4  = []string{"10.0.0.1", "10.0.0.2", "10.0.1.1", "10.1.0.1", "192.0.2.7", "224.0.0.9"}
	pool6  = []string{"2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "2001:db8:1::1", "::1.2.3.4", "ff02::9", "::ffff:10.0.0.1"}
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
	addrs, masks, icmp := pool4, masks4, "icmp"
	if ipv6 {
		addrs, masks, icmp = pool6, masks6, "icmpv6"
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
		if proto == "icmp" && g.IntN(2) == 0 {
			name := map[bool]string{false: "--icmp-type", true: "--icmpv6-type"}[ipv6]
			return fmt.Sprintf("%s-p %s %s%s %s ", b.String(), icmp, not(), name, pick("8", "3", "3/1", "128", "1/3", "255"))
		}
		b.WriteString(not() + "-p " + proto + " ")
	default:
		b.WriteString("-p " + proto + " ")
		if proto == "tcp" && g.IntN(4) == 0 {
			b.WriteString(not() + pick("--syn ", "--tcp-flags SYN,ACK SYN ", "--tcp-flags ALL NONE ", "--tcp-flags ACK,FIN FIN "))
		}
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
	if g.IntN(8) == 0 {
		fmt.Fprintf(&b, "-m mac %s--mac-source %s ", not(), pick("02:00:00:00:00:01", "2:0:0:0:0:2"))
	}
	if g.IntN(8) == 0 {
		b.WriteString(pick("-m tos "+not()+"--tos 0x10 ", "-m tos "+not()+"--tos Minimize-Delay ", "-m dscp "+not()+"--dscp-class AF11 "))
	}
	if g.IntN(8) == 0 {
		from, to := netip.MustParseAddr(pick(addrs...)), netip.MustParseAddr(pick(addrs...))
		if to.Less(from) {
			from, to = to, from
		}
		fmt.Fprintf(&b, "-m iprange %s--%s-range %s-%s ", not(), pick("src", "dst"), from, to)
	}
	if g.IntN(8) == 0 {
		fmt.Fprintf(&b, "-m addrtype %s--%s-type %s ", not(), pick("src", "dst"), pick("LOCAL", "MULTICAST"))
	}
	if g.IntN(6) == 0 {
		fmt.Fprintf(&b, "-m mark %s--mark %#x/%#x ", not(), g.IntN(4), g.IntN(4))
	}
	return b.String()
}

// randomPacket is an IP packet as packet.Parse would describe it.
func randomPacket(g *rand.Rand) *Input {
	p := &packet.Packet{Is6: g.IntN(2) == 0}
	p.Proto = []uint8{tcp, tcp, udp, sctp, 1, icmp6, 47}[g.IntN(6)]
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
	frame := make([]byte, 34)
	copy(frame[6:], []byte{2, 0, 0, 0, 0, byte(1 + g.IntN(2))})
	tos := []byte{0, 0x10, 0x28, 0x2a}[g.IntN(4)]
	frame[14], frame[15] = 0x45, tos
	p.L3 = 14
	if p.Is6 {
		frame[14], frame[15] = 0x60|tos>>4, tos<<4
	}
	switch {
	case p.Proto == tcp && p.FragOffset == 0:
		p.Kind, p.TCPFlags = packet.TCP, []uint8{0, packet.SYN, packet.SYN | packet.ACK, packet.ACK | packet.FIN}[g.IntN(4)]
	case p.Proto == 1 || p.Proto == icmp6:
		if p.Kind = packet.ICMP; p.FragOffset == 0 {
			p.ICMPType, p.ICMPCode = []uint8{1, 3, 8, 128}[g.IntN(4)], uint8(g.IntN(4))
		}
	}
	return &Input{Packet: p, Frame: frame, In: ifaces[g.IntN(len(ifaces))], Host: hosts}
}
