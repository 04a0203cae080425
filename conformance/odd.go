package conformance

import (
	"slices"
	"strings"
)

// What is rare on the wire, and easily forgotten.

const isakmp = 500

// mayStayDeleted reports whether packets of a service that is deleted have the same fate by
// ulvs, which has the service of barriers, as by the kernel, whose hooks go with the last
// service of a family.
func (g *generator) mayStayDeleted(s *genService) bool {
	return s.six || slices.ContainsFunc(g.services, func(o *genService) bool { return o != s && !o.six && !o.deleted })
}

// mayBeTiny reports whether a first fragment may be without its whole header: xt_tcp drops
// those, and of IPv6 IPVS does so for every port.
func (g *generator) mayBeTiny(vip string) bool {
	return !netIs6(vip) && !slices.ContainsFunc(g.services, func(s *genService) bool { return s.mark > 0 && !s.six })
}

// ipsec has some packets be ESP or AH, and most to ISAKMP's port come from there.
func (g *generator) ipsec(proto string, source, port int) (string, int, int) {
	if g.chance(6, "ipsec") {
		return pick(g, "esp", "esp", "ah"), 0, 0
	}
	if port == isakmp && g.chance(80, "ipsec") {
		source = isakmp
	}
	return proto, source, port
}

// odd are IPv4 options and IPv6 extension headers.
func (g *generator) odd(proto, vip, others string) (options string) {
	if g.chance(6, "options") && !netIs6(vip) {
		options = " opts=" + pick(g, sortedKeys(ipOptions)...)
	}
	whole := !strings.Contains(others, "frag=") && !strings.Contains(others, "bad=")
	if g.chance(25, "extensions") && netIs6(vip) && whole && (proto == "udp" || proto == "esp" || proto == "icmp") {
		names := slices.DeleteFunc(sortedKeys(extensions), func(name string) bool { return name == "ah" })
		options = " ext=" + pick(g, append(names, "hbh,dst,rh", "dst,problem")...)
	}
	return options
}

// oddClient is a source of packets that not every host takes.
func (g *generator) oddClient(vip string) string {
	if netIs6(vip) {
		return pick(g, "ff02::1", "::1", "fd00:10::1")
	}
	return pick(g, "240.10.0.5", "255.255.255.200", "0.1.2.3", "0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1",
		"192.168.10.100")
}
