package fwmark

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// tcpFlagNames are iptables' names of the bits, from the lowest on.
var tcpFlagNames = []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG"}

// tcpFlags reads the arguments of --tcp-flags, of which the second is a word of its own.
func (r *request) tcpFlags(mask string, not bool) (f TCPFlags, err error) {
	set, ok := r.operand()
	if !ok {
		return f, wrong("--tcp-flags requires two args.")
	}
	f.Not = not
	if f.Mask, err = tcpFlagBits(mask); err != nil {
		return f, err
	}
	if f.Set, err = tcpFlagBits(set); err != nil {
		return f, err
	}
	if f.Mask == 0 && f.Set != 0 { // iptables forgets it
		return f, wrong("`--tcp-flags " + mask + " " + set + "' would never match")
	}
	return f, nil
}

func tcpFlagBits(arg string) (b uint8, err error) {
	for word := range strings.SplitSeq(arg, ",") {
		switch i := slices.Index(tcpFlagNames, strings.ToUpper(word)); {
		case i >= 0:
			b |= 1 << i
		case strings.EqualFold(word, "ALL"):
			b |= 1<<len(tcpFlagNames) - 1
		case word != "" && !strings.EqualFold(word, "NONE"):
			return 0, wrong("Unknown TCP flag `" + word + "'")
		}
	}
	return b, nil
}

func tcpFlagText(b uint8) string {
	var list []string
	for i, name := range tcpFlagNames {
		if b>>i&1 != 0 {
			list = append(list, name)
		}
	}
	if list == nil {
		return "NONE"
	}
	return strings.Join(list, ",")
}

// macSource reads six groups of one or two hexadecimal digits.
func (m *Match) macSource(arg string) error {
	groups := strings.Split(arg, ":")
	if len(groups) != len(m.MAC) {
		return wrong("Invalid MAC address specified.")
	}
	for i, g := range groups {
		v, err := strconv.ParseUint(g, 16, 8)
		if err != nil || len(g) > 2 {
			return wrong("Invalid MAC address specified.")
		}
		m.MAC[i] = byte(v)
	}
	return nil
}

func (m *Match) macText() string {
	b := m.MAC
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5])
}

// tosNames are the symbols of --tos, whose mask is 0x3f.
var tosNames = []struct {
	name  string
	value uint32
}{{"Minimize-Delay", 16}, {"Maximize-Throughput", 8}, {"Maximize-Reliability", 4}, {"Minimize-Cost", 2},
	{"Normal-Service", 0}}

// tos reads VALUE[/MASK] or a symbol.
func (m *Match) tos(arg string) error {
	for _, n := range tosNames {
		if strings.EqualFold(n.name, arg) {
			m.Value, m.Mask = n.value, 0x3f
			return nil
		}
	}
	v, rest, ok := number(arg, 255)
	if !ok {
		return wrong("Symbolic name \"" + arg + "\" is unknown")
	}
	m.Value, m.Mask = uint32(v), 0xff
	if rest != "" {
		n, ok := whole(strings.TrimPrefix(rest, "/"), 255)
		if !ok || rest[0] != '/' {
			return wrong("Illegal value: \"" + arg + "\"")
		}
		m.Mask = uint32(n)
	}
	return nil
}

func (m *Match) tosDetails(numeric bool) string {
	s := " tos match" + sign(m.Not, "")
	for _, n := range tosNames {
		if !numeric && m.Mask == 0x3f && m.Value == n.value {
			return s + " " + n.name
		}
	}
	return s + fmt.Sprintf("0x%02x/0x%02x", m.Value, m.Mask)
}

// dscp reads a code point, or with class its name.
func (m *Match) dscp(arg string, class bool) error {
	if !class {
		v, ok := whole(arg, 63)
		if !ok {
			return wrong("dscp: bad value for option \"--dscp\", or out of range (0-63).")
		}
		m.Value = uint32(v)
		return nil
	}
	switch s := strings.ToUpper(arg); {
	case s == "EF":
		m.Value = 0x2e
	case s == "BE":
		m.Value = 0
	case len(s) == 3 && s[:2] == "CS" && s[2] >= '0' && s[2] <= '7':
		m.Value = uint32(s[2]-'0') << 3
	case len(s) == 4 && s[:2] == "AF" && s[2] >= '1' && s[2] <= '4' && s[3] >= '1' && s[3] <= '3':
		m.Value = uint32(s[2]-'0')<<3 | uint32(s[3]-'0')<<1
	default:
		return wrong("Invalid DSCP value `" + arg + "'")
	}
	return nil
}

// addrRange reads ADDRESS[-ADDRESS].
func addrRange(option, arg string, not, ipv6 bool) (r AddrRange, err error) {
	parse := address4
	if ipv6 {
		parse = address6
	}
	first, last, ranged := strings.Cut(arg, "-")
	if !ranged {
		last = first
	}
	for _, end := range []struct {
		word string
		to   *netip.Addr
	}{{first, &r.First}, {last, &r.Last}} {
		a, ok := parse(end.word)
		if !ok {
			return r, wrong("iprange: Bad value for \"--" + option + "\" option: \"" + end.word + "\"")
		}
		*end.to = a
	}
	if r.First.Compare(r.Last) > 0 {
		return r, wrong("range " + arg + " is reversed and will never match")
	}
	r.Not = not
	return r, nil
}

func (r AddrRange) text() string { return printed(r.First) + "-" + printed(r.Last) }

// addrTypeNames are iptables' names, by number (RTN_).
var addrTypeNames = []string{"UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE",
	"UNREACHABLE", "PROHIBIT", "THROW", "NAT", "XRESOLVE"}

// addrTypes reads a list of types. Of IPv6, several mean that the address is all of
// them (net/netfilter/xt_addrtype.c, match_type6).
func addrTypes(arg string, not, ipv6 bool) (t AddrTypes, err error) {
	t.Not = not
	for word := range strings.SplitSeq(arg, ",") {
		i := slices.Index(addrTypeNames, strings.ToUpper(word))
		switch {
		case i < 0:
			return t, wrong("addrtype: bad type \"" + word + "\"")
		case AddrType(i) != AddrLocal && AddrType(i) != AddrMulticast:
			return t, wrong("address type `" + addrTypeNames[i] + "' is not evaluated by ulvs (LOCAL and MULTICAST are)")
		}
		t.Set |= 1 << i
	}
	if ipv6 && bits.OnesCount16(t.Set) > 1 {
		return t, wrong("several address types of IPv6 at once are not evaluated by ulvs")
	}
	return t, nil
}

func (t AddrTypes) text() string {
	var list []string
	for i, name := range addrTypeNames {
		if t.Set>>i&1 != 0 {
			list = append(list, name)
		}
	}
	return strings.Join(list, ",")
}

// addresses reads an option of iprange or addrtype.
func (m *Match) addresses(o option, arg string, not, ipv6 bool) (err error) {
	switch o.id {
	case sourceRange:
		m.SourceRange, err = addrRange(o.name, arg, not, ipv6)
	case destRange:
		m.DestRange, err = addrRange(o.name, arg, not, ipv6)
	case sourceTypes:
		m.SourceTypes, err = addrTypes(arg, not, ipv6)
	case destTypes:
		m.DestTypes, err = addrTypes(arg, not, ipv6)
	}
	return err
}

func icmpProtocol(ipv6 bool) uint8 {
	if ipv6 {
		return icmp6
	}
	return 1
}

// addressDetails is how -L prints iprange and addrtype.
func (m *Match) addressDetails() (s string) {
	if m.Kind == MatchAddrType {
		s = " ADDRTYPE match"
		if !m.SourceTypes.Any() {
			s += " src-type " + sign(m.SourceTypes.Not, "") + m.SourceTypes.text()
		}
		if !m.DestTypes.Any() {
			s += " dst-type " + sign(m.DestTypes.Not, "") + m.DestTypes.text()
		}
		return s
	}
	for _, side := range []struct {
		label string
		AddrRange
	}{{"source", m.SourceRange}, {"destination", m.DestRange}} {
		if !side.Any() {
			s += " " + side.label + " IP range "
			if side.Not {
				s += "! "
			}
			s += side.text()
		}
	}
	return s
}
