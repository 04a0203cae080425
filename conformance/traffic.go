package conformance

import (
	"fmt"
	"slices"
	"strings"
)

// conversations are what clients say, packet by packet. The first column is
// the usual; the rest is what only scanners and the lost send.
var conversations = map[string][][]string{
	"tcp": {
		{"S"}, {"S"}, {"S", "A"}, {"S", "A", "PA"}, {"S", "A", "FA"}, {"S", "A", "FA", "A"}, {"S", "RA"}, {"S", "A", "R"},
		{"A"}, {"PA"}, {"FA"}, {"RA"}, {"R"}, {"F"}, {"SA"}, {"SF"}, {"SR"}, {"U"}, {"PU"}, {"S", "S"}, {"SEC"},
		{"S", "A", "S"}, {"S", "FA", "S"}, {"S", "A", "FA", "S"}, {"S", "A", "RA", "S"}, {"S", "SA"}, {"SPAUF"},
	},
	"sctp": {
		{"INIT"}, {"INIT", "COOKIE_ECHO"}, {"INIT", "COOKIE_ECHO", "DATA"}, {"INIT", "COOKIE_ECHO", "SHUTDOWN"},
		{"INIT", "COOKIE_ECHO", "SHUTDOWN", "SHUTDOWN_COMPLETE"}, {"INIT", "ABORT"}, {"INIT", "COOKIE_ECHO,DATA", "ABORT"},
		{"INIT", "COOKIE_ECHO", "ABORT", "INIT"}, {"DATA"}, {"ABORT"}, {"COOKIE_ECHO"}, {"INIT_ACK"}, {"SHUTDOWN_ACK"},
		{"HEARTBEAT"}, {"SACK"}, {"INIT", "INIT"}, {"INIT", "ERROR"}, {"INIT", "COOKIE_ACK"}, {"INIT,ABORT"},
		{"COOKIE_ECHO,ABORT"}, {"COOKIE_ACK,ABORT"}, {"INIT", "COOKIE_ECHO", "SHUTDOWN_ACK"}, {"HEARTBEAT_ACK"},
		{"INIT", "ECNE"}, {"INIT", "CWR"}, {"SHUTDOWN_COMPLETE"}, {"INIT", "SHUTDOWN", "SHUTDOWN_COMPLETE", "INIT"},
	},
	"udp":  {{""}},
	"icmp": {{""}},
	"esp":  {{""}},
	"ah":   {{""}},
}

// traffic is a few packets of one client.
func (g *generator) traffic() {
	s := pick(g, g.services...)
	vip, proto, port := s.vip, s.proto, s.port
	if g.chance(8, "") {
		vip = pick(g, g.vips...)
	}
	if proto == "" {
		proto = pick(g, "tcp", "tcp", "udp", "sctp")
	}
	if g.chance(6, "") {
		proto = pick(g, "tcp", "udp", "sctp", "icmp")
	}
	if slices.Contains(g.f.Without, proto) {
		proto = "tcp"
	}
	if port == 0 || g.chance(10, "") {
		port = pick(g, 80, 443, 81, 2000)
		if proto == "udp" && g.chance(30, "ipsec") {
			port = isakmp
		}
	}
	client, odd := g.client(vip), false
	if g.chance(5, "odd-source") {
		client, odd = g.oddClient(vip), true
	}
	source := 1000 + g.IntN(3)
	if g.chance(2, "port20") {
		source = 20
	}
	proto, source, port = g.ipsec(proto, source, port)
	options := ""
	if g.chance(15, "") {
		options += fmt.Sprintf(" n=%d", 2+g.IntN(4))
		if g.chance(40, "") && !odd {
			options += " vary=ip"
		}
	}
	if g.chance(3, "ttl") {
		options += pick(g, " ttl=1", " ttl=2", " ttl=255")
	}
	if g.chance(5, "size") {
		options += pick(g, " size=4", " size=100", " size=1400")
	}
	options += g.mangled(proto, vip)
	options += g.odd(proto, vip, options)
	if s.sip && proto == "udp" && !strings.Contains(options, "frag=") && g.chance(70, "pe") {
		options += " call=" + pick(g, "alpha", "beta", "gamma")
	}
	for _, flags := range g.talk(proto) {
		g.say("send %s %s > %s %s%s", proto, endpoint(client, source), endpoint(vip, port), flags, options)
	}
	if g.chance(8, "icmp-error") && proto != "icmp" && (proto != "ah" || !netIs6(vip)) {
		flags := map[string]string{"sctp": "DATA"}[proto]
		g.say("send %s %s > %s %s error=%s", proto, endpoint(client, source), endpoint(vip, port), flags,
			pick(g, "host", "port", "mtu", "time", "parameter"))
	}
}

// mangled are options of packets that come in pieces, or damaged.
func (g *generator) mangled(proto, vip string) (options string) {
	if g.chance(4, "frag") && proto != "icmp" {
		options = pick(g, " frag=2 size=100", " frag=3 size=3000", " frag=2 size=1400")
		if tiny := pick(g, "", "", " frag=2 size=100 first=8", " frag=3 size=100 first=16"); tiny != "" && g.mayBeTiny(vip) {
			options = tiny
		}
		if g.chance(50, "") {
			options += " order=reverse"
		}
	}
	if g.chance(3, "badsum") {
		options += pick(g, " bad=transport", " bad=header")
		if netIs6(vip) {
			options = strings.Replace(options, "header", "transport", 1)
		}
	}
	return options
}

// associations are further conversations of SCTP, which begin anywhere.
var associations = [][]string{
	{"DATA", "SHUTDOWN", "SHUTDOWN_COMPLETE"}, {"INIT_ACK", "COOKIE_ACK", "DATA"}, {"HEARTBEAT", "ABORT", "INIT"},
	{"INIT", "INIT_ACK", "COOKIE_ACK"}, {"INIT", "SHUTDOWN_ACK", "COOKIE_ECHO", "SHUTDOWN_ACK"}, {"ERROR", "DATA"},
	{"COOKIE_ECHO,ABORT", "DATA"}, {"INIT", "COOKIE_ECHO,ABORT"}, {"SHUTDOWN", "SHUTDOWN_COMPLETE"},
}

// sloppy has a service's connections be opened by any packet, now and then.
func (g *generator) sloppy(s *genService) {
	percent := map[string]int{"tcp": 10, "sctp": 40}[s.proto]
	if kind := "sloppy_" + s.proto; g.side.IntN(100) < percent && !slices.Contains(g.f.Without, kind) {
		g.say("sysctl net.ipv4.vs.%s=1", kind)
	}
}

// talk is a conversation: mostly a usual one. Rarely, flags are drawn.
func (g *generator) talk(proto string) []string {
	all := conversations[proto]
	if g.chance(40, "") {
		all = all[:min(len(all), 8)]
	}
	said := pick(g, all...)
	if proto == "sctp" && g.side.IntN(3) == 0 {
		said = associations[g.side.IntN(len(associations))]
	}
	return said
}

func (g *generator) client(vip string) string {
	if netIs6(vip) {
		return pick(g, "fd01::1", "fd01::1", "fd01::2", "fd01::1:1", "fd01:0:0:1::1")
	}
	return pick(g, "10.1.1.1", "10.1.1.1", "10.1.1.2", "10.1.1.130", "10.1.2.1", "10.2.1.1")
}

func netIs6(addr string) bool {
	return slices.Contains([]byte(addr), ':')
}

func endpoint(addr string, port int) string {
	if netIs6(addr) {
		return fmt.Sprintf("[%s]:%d", addr, port)
	}
	return fmt.Sprintf("%s:%d", addr, port)
}
