package fwmark

import (
	"strconv"
	"strings"
)

// icmpName is a type of ICMP, or a type and a code, by iptables' name. Of
// several names of the same, the first is printed.
type icmpName struct {
	name        string
	typ         uint8
	first, last uint8 // codes
}

// icmp4 and icmp6Types are the names that iptables 1.8.9 takes
// (extensions/libxt_icmp.h).
var icmp4 = []icmpName{
	{"any", 255, 0, 255}, {"echo-reply", 0, 0, 255}, {"pong", 0, 0, 255},
	{"destination-unreachable", 3, 0, 255}, {"network-unreachable", 3, 0, 0}, {"host-unreachable", 3, 1, 1},
	{"protocol-unreachable", 3, 2, 2}, {"port-unreachable", 3, 3, 3}, {"fragmentation-needed", 3, 4, 4},
	{"source-route-failed", 3, 5, 5}, {"network-unknown", 3, 6, 6}, {"host-unknown", 3, 7, 7},
	{"network-prohibited", 3, 9, 9}, {"host-prohibited", 3, 10, 10}, {"TOS-network-unreachable", 3, 11, 11},
	{"TOS-host-unreachable", 3, 12, 12}, {"communication-prohibited", 3, 13, 13},
	{"host-precedence-violation", 3, 14, 14}, {"precedence-cutoff", 3, 15, 15},
	{"source-quench", 4, 0, 255}, {"redirect", 5, 0, 255}, {"network-redirect", 5, 0, 0},
	{"host-redirect", 5, 1, 1}, {"TOS-network-redirect", 5, 2, 2}, {"TOS-host-redirect", 5, 3, 3},
	{"echo-request", 8, 0, 255}, {"ping", 8, 0, 255}, {"router-advertisement", 9, 0, 255},
	{"router-solicitation", 10, 0, 255}, {"time-exceeded", 11, 0, 255}, {"ttl-exceeded", 11, 0, 255},
	{"ttl-zero-during-transit", 11, 0, 0}, {"ttl-zero-during-reassembly", 11, 1, 1},
	{"parameter-problem", 12, 0, 255}, {"ip-header-bad", 12, 0, 0}, {"required-option-missing", 12, 1, 1},
	{"timestamp-request", 13, 0, 255}, {"timestamp-reply", 14, 0, 255},
	{"address-mask-request", 17, 0, 255}, {"address-mask-reply", 18, 0, 255},
}

var icmp6Types = []icmpName{
	{"destination-unreachable", 1, 0, 255}, {"no-route", 1, 0, 0}, {"communication-prohibited", 1, 1, 1},
	{"beyond-scope", 1, 2, 2}, {"address-unreachable", 1, 3, 3}, {"port-unreachable", 1, 4, 4},
	{"failed-policy", 1, 5, 5}, {"reject-route", 1, 6, 6}, {"packet-too-big", 2, 0, 255},
	{"time-exceeded", 3, 0, 255}, {"ttl-exceeded", 3, 0, 255}, {"ttl-zero-during-transit", 3, 0, 0},
	{"ttl-zero-during-reassembly", 3, 1, 1}, {"parameter-problem", 4, 0, 255}, {"bad-header", 4, 0, 0},
	{"unknown-header-type", 4, 1, 1}, {"unknown-option", 4, 2, 2}, {"echo-request", 128, 0, 255},
	{"ping", 128, 0, 255}, {"echo-reply", 129, 0, 255}, {"pong", 129, 0, 255},
	{"router-solicitation", 133, 0, 255}, {"router-advertisement", 134, 0, 255},
	{"neighbour-solicitation", 135, 0, 255}, {"neighbor-solicitation", 135, 0, 255},
	{"neighbour-advertisement", 136, 0, 255}, {"neighbor-advertisement", 136, 0, 255}, {"redirect", 137, 0, 255},
}

func icmpNames(ipv6 bool) []icmpName {
	if ipv6 {
		return icmp6Types
	}
	return icmp4
}

// icmpType reads TYPE, TYPE/CODE, or a name or its unambiguous start.
func (m *Match) icmpType(arg string, ipv6 bool) error {
	var found []icmpName
	for _, n := range icmpNames(ipv6) {
		if len(arg) <= len(n.name) && arg != "" && strings.EqualFold(n.name[:len(arg)], arg) {
			if len(arg) == len(n.name) {
				found = []icmpName{n}
				break
			}
			found = append(found, n)
		}
	}
	what := "ICMP"
	if ipv6 {
		what = "ICMPv6"
	}
	if len(found) > 1 {
		return wrong("Ambiguous " + what + " type `" + arg + "': `" + found[0].name + "' or `" + found[1].name + "'?")
	}
	if len(found) == 1 {
		m.Type, m.FirstCode, m.LastCode = found[0].typ, found[0].first, found[0].last
		return nil
	}
	typ, code, coded := strings.Cut(arg, "/")
	n, ok := whole(typ, 255)
	if !ok {
		return wrong("Unknown " + what + " type `" + typ + "'")
	}
	m.Type, m.FirstCode, m.LastCode = uint8(n), 0, 255
	if coded {
		c, ok := whole(code, 255)
		if !ok {
			return wrong("Unknown " + what + " code `" + arg + "'")
		}
		m.FirstCode, m.LastCode = uint8(c), uint8(c)
	}
	return nil
}

// icmpText is the argument of --icmp-type as -S prints it.
func (m *Match) icmpText(ipv6 bool) string {
	switch {
	case m.Type == 255 && !ipv6 && m.FirstCode == 0 && m.LastCode == 255:
		return "any"
	case m.FirstCode == m.LastCode:
		return strconv.Itoa(int(m.Type)) + "/" + strconv.Itoa(int(m.FirstCode))
	}
	return strconv.Itoa(int(m.Type))
}

// icmpDetails is how -L prints the condition.
func (m *Match) icmpDetails(ipv6, numeric bool) string {
	label := " icmp"
	if ipv6 {
		label = " ipv6-icmp"
	}
	if !numeric {
		for _, n := range icmpNames(ipv6) {
			if n.typ == m.Type && n.first == m.FirstCode && n.last == m.LastCode {
				return label + " " + sign(m.Not, "") + n.name
			}
		}
	}
	if m.Not {
		label += " !"
	}
	s := label + "type " + strconv.Itoa(int(m.Type))
	if m.FirstCode == m.LastCode {
		s += " code " + strconv.Itoa(int(m.FirstCode))
	}
	return s
}
