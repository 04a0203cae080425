package fwmark

import (
	"fmt"
	"strconv"
	"strings"
)

// String is the rule as iptables -S prints it, for example "-A PREROUTING -d
// 192.0.2.1/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0xa/0xffffffff".
func (r Rule) String() string { return r.text(false) }

func (r *Rule) text(counters bool) string {
	var b strings.Builder
	b.WriteString("-A " + r.chainName())
	word := func(not bool, words ...string) {
		if not {
			b.WriteString(" !")
		}
		for _, w := range words {
			b.WriteString(" " + w)
		}
	}
	if !r.Source.Any() {
		word(r.Source.Not, "-s", r.Source.String())
	}
	if !r.Dest.Any() {
		word(r.Dest.Not, "-d", r.Dest.String())
	}
	if r.In.Name != "" {
		word(r.In.Not, "-i", r.In.Name)
	}
	if r.Protocol != 0 {
		word(r.NotProtocol, "-p", protocolName(r.Protocol))
	}
	for i := range r.Matches {
		m := &r.Matches[i]
		switch m.Kind {
		case MatchPorts:
			word(false, "-m", protocolName(r.Protocol))
			if m.Source.Given {
				word(m.Source.Not, "--sport", m.Source.String())
			}
			if m.Dest.Given {
				word(m.Dest.Not, "--dport", m.Dest.String())
			}
			if !m.Flags.Any() {
				word(m.Flags.Not, "--tcp-flags", tcpFlagText(m.Flags.Mask), tcpFlagText(m.Flags.Set))
			}
		case MatchMultiport:
			word(false, "-m", "multiport")
			word(m.Not, "--"+m.Side.String(), joinPorts(m.Ports, PortRange.String))
		case MatchMark:
			word(false, "-m", "mark")
			word(m.Not, "--mark", markText(m.Value, m.Mask))
		case MatchComment:
			word(false, "-m", "comment", "--comment", quote(m.Comment))
		case MatchMAC:
			word(false, "-m", "mac")
			word(m.Not, "--mac-source", m.macText())
		case MatchICMP:
			name := map[bool][2]string{false: {"icmp", "--icmp-type"}, true: {"icmp6", "--icmpv6-type"}}[r.IPv6]
			word(false, "-m", name[0])
			word(m.Not, name[1], m.icmpText(r.IPv6))
		case MatchTOS:
			word(false, "-m", "tos")
			word(m.Not, "--tos", fmt.Sprintf("0x%02x/0x%02x", m.Value, m.Mask))
		case MatchDSCP:
			word(false, "-m", "dscp")
			word(m.Not, "--dscp", fmt.Sprintf("0x%02x", m.Value))
		case MatchIPRange:
			word(false, "-m", "iprange")
			if !m.SourceRange.Any() {
				word(m.SourceRange.Not, "--src-range", m.SourceRange.text())
			}
			if !m.DestRange.Any() {
				word(m.DestRange.Not, "--dst-range", m.DestRange.text())
			}
		case MatchAddrType:
			word(false, "-m", "addrtype")
			if !m.SourceTypes.Any() {
				word(m.SourceTypes.Not, "--src-type", m.SourceTypes.text())
			}
			if !m.DestTypes.Any() {
				word(m.DestTypes.Not, "--dst-type", m.DestTypes.text())
			}
		}
	}
	if counters {
		word(false, "-c", "0", "0")
	}
	switch name := r.target(); {
	case r.Target == TargetMark:
		word(false, "-j", name, "--set-xmark", hex(r.Value)+"/"+hex(r.Mask))
	case r.Target == TargetGoto:
		word(false, "-g", name)
	case name != "":
		word(false, "-j", name)
	}
	return b.String()
}

// chainName is the name of the rule's chain.
func (r *Rule) chainName() string {
	if r.Chain == "" {
		return prerouting
	}
	return r.Chain
}

// target is the word behind -j or -g; "" is none.
func (r *Rule) target() string {
	switch r.Target {
	case TargetMark:
		return "MARK"
	case TargetAccept:
		return "ACCEPT"
	case TargetReturn:
		return "RETURN"
	}
	return r.To
}

// String is the range as iptables prints it: "80" or "80:90". Not does not
// show.
func (r PortRange) String() string {
	s := strconv.Itoa(int(r.First))
	if r.First != r.Last {
		s += ":" + strconv.Itoa(int(r.Last))
	}
	return s
}

// String is multiport's name of the side: sports, dports, ports.
func (s Side) String() string {
	switch s {
	case SourceSide:
		return "sports"
	case DestSide:
		return "dports"
	case EitherSide:
		return "ports"
	}
	return "side " + strconv.Itoa(int(s))
}

func joinPorts(ports []PortRange, text func(PortRange) string) string {
	words := make([]string, len(ports))
	for i, p := range ports {
		words[i] = text(p)
	}
	return strings.Join(words, ",")
}

// markText is the argument of -m mark --mark; a full mask does not show.
func markText(value, mask uint32) string {
	if mask == 0xffffffff {
		return hex(value)
	}
	return hex(value) + "/" + hex(mask)
}
