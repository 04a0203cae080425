package fwmark

import (
	"strconv"
	"strings"
)

const (
	tcp      = 6
	udp      = 17
	dccp     = 33
	sctp     = 132
	udplite  = 136
	icmp6    = 58
	mobility = 135
)

// protocols are the names of Debian's /etc/protocols, by which iptables
// prints protocols. They are built in so that a listing does not depend on
// the machine.
var protocols = [256]string{
	1: "icmp", 2: "igmp", 3: "ggp", 4: "ipencap", 5: "st", tcp: "tcp", 8: "egp", 9: "igp",
	12: "pup", udp: "udp", 20: "hmp", 22: "xns-idp", 27: "rdp", 29: "iso-tp4",
	dccp: "dccp", 36: "xtp", 37: "ddp", 38: "idpr-cmtp", 41: "ipv6",
	43: "ipv6-route", 44: "ipv6-frag", 45: "idrp", 46: "rsvp", 47: "gre",
	50: "esp", 51: "ah", 57: "skip", icmp6: "ipv6-icmp", 59: "ipv6-nonxt",
	60: "ipv6-opts", 73: "rspf", 81: "vmtp", 88: "eigrp", 89: "ospf",
	93: "ax.25", 94: "ipip", 97: "etherip", 98: "encap", 103: "pim",
	108: "ipcomp", 112: "vrrp", 115: "l2tp", 124: "isis", sctp: "sctp",
	133: "fc", mobility: "mobility-header", udplite: "udplite",
	137: "mpls-in-ip", 138: "manet", 139: "hip", 140: "shim6", 141: "wesp",
	142: "rohc", 143: "ethernet",
}

// aliases are further names that iptables takes (libxtables,
// xtables_chain_protos).
var aliases = map[string]uint8{
	"all": 0, "ip": 0, "hopopt": 0, "icmpv6": icmp6, "mh": mobility, "ipv6-mh": mobility,
}

// parseProtocol reads the argument of -p.
func parseProtocol(arg string) (uint8, error) {
	s := strings.ToLower(arg)
	if n, ok := whole(s, 255); ok {
		return uint8(n), nil
	}
	if n, ok := aliases[s]; ok {
		return n, nil
	}
	for n, name := range protocols {
		if name == s && s != "" {
			return uint8(n), nil
		}
	}
	return 0, wrong("unknown protocol \"" + s + "\" specified")
}

func protocolName(p uint8) string {
	if p == 0 {
		return "all"
	}
	if protocols[p] != "" {
		return protocols[p]
	}
	return strconv.Itoa(int(p))
}

// portModule is the module that reads a protocol's ports, or "".
func portModule(p uint8) string {
	if p == tcp || p == udp || p == sctp {
		return protocols[p]
	}
	return ""
}
