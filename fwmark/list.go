package fwmark

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// list is the output of -L. Names of hosts are never looked up; those of
// ports and protocols are, without -n.
func (t *Table) list(r *request) string {
	var b strings.Builder
	references := t.references()
	for i, c := range t.about(r) {
		if r.number == 0 {
			if i > 0 {
				b.WriteByte('\n')
			}
			r.head(&b, c.name, references[c.name])
		}
		for n := range c.rules {
			if r.number == 0 || r.number == n+1 {
				r.line(&b, n+1, &c.rules[n])
			}
		}
	}
	return b.String()
}

func (r *request) head(b *strings.Builder, name string, references int) {
	switch own := !slices.Contains(builtin, name); {
	case own:
		fmt.Fprintf(b, "Chain %s (%d references)\n", name, references)
	case r.verbose > 0:
		b.WriteString("Chain " + name + " (policy ACCEPT 0 packets, 0 bytes)\n")
	default:
		b.WriteString("Chain " + name + " (policy ACCEPT)\n")
	}
	if r.lineNumbers() {
		b.WriteString("num  ")
	}
	switch {
	case r.verbose > 0 && r.exact():
		b.WriteString("    pkts      bytes ")
	case r.verbose > 0:
		b.WriteString(" pkts bytes ")
	}
	b.WriteString("target     prot opt ")
	if r.verbose > 0 {
		b.WriteString("in     out     ")
	}
	b.WriteString("source               destination         \n")
}

func (r *request) line(b *strings.Builder, n int, rule *Rule) {
	numeric := r.numeric()
	if r.lineNumbers() {
		fmt.Fprintf(b, "%-4d ", n)
	}
	if r.verbose > 0 {
		width := 5
		if r.exact() {
			width = 8
		}
		fmt.Fprintf(b, "%*d %*d ", width, 0, width, 0)
	}
	protocol := protocolName(rule.Protocol)
	if numeric {
		protocol = strconv.Itoa(int(rule.Protocol))
	}
	fmt.Fprintf(b, "%-9s %s%-4s -- ", rule.target(), sign(rule.NotProtocol, " "), protocol)
	if r.verbose > 0 {
		anyIface := "any"
		if numeric {
			anyIface = "*"
		}
		in := anyIface
		if rule.In.Name != "" {
			in = sign(rule.In.Not, "") + rule.In.Name
		}
		fmt.Fprintf(b, " %-6s %-6s ", in, anyIface)
	}
	fmt.Fprintf(b, "%s%-19s %s%-19s ", sign(rule.Source.Not, " "), r.host(rule.Source, numeric),
		sign(rule.Dest.Not, " "), r.host(rule.Dest, numeric))
	b.WriteString(r.details(rule, numeric) + "\n")
}

// told is the line that -v adds to a command about a rule.
func (r *request) told(rule *Rule) string {
	in := "*"
	if rule.In.Name != "" {
		in = sign(rule.In.Not, "") + rule.In.Name
	}
	return fmt.Sprintf("%s %s%s opt -- in %s out * %s%s %s-> %s  %s\n", rule.target(), sign(rule.NotProtocol, " "),
		protocolName(rule.Protocol), in, sign(rule.Source.Not, " "), r.host(rule.Source, true),
		sign(rule.Dest.Not, " "), r.host(rule.Dest, true), r.details(rule, true))
}

func sign(not bool, otherwise string) string {
	if not {
		return "!"
	}
	return otherwise
}

func (r *request) host(n Network, numeric bool) string {
	switch {
	case !n.Any():
		s := n.String()
		if bits, ok := prefixBits(n.Mask); ok && bits == n.Mask.BitLen() {
			return printed(n.Addr)
		}
		return s
	case !numeric:
		return "anywhere"
	case r.ipv6:
		return "::/0"
	}
	return "0.0.0.0/0"
}

// details are the columns behind the addresses, each behind a space.
func (r *request) details(rule *Rule, numeric bool) string {
	var b strings.Builder
	protocol := protocolName(rule.Protocol)
	port := func(p uint16) string {
		if !numeric {
			if name := r.services.name(p, protocol); name != "" {
				return name
			}
		}
		return strconv.Itoa(int(p))
	}
	ports := func(p PortRange) string {
		if p.First == p.Last {
			return port(p.First)
		}
		return port(p.First) + ":" + port(p.Last)
	}
	side := func(label string, p PortRange) {
		switch {
		case !p.Given || p.First == 0 && p.Last == 65535 && !p.Not:
		case p.First == p.Last:
			b.WriteString(" " + label + ":" + sign(p.Not, "") + port(p.First))
		default:
			b.WriteString(" " + label + "s:" + sign(p.Not, "") + ports(p))
		}
	}
	if rule.Target == TargetGoto {
		b.WriteString("[goto] ")
	}
	for i := range rule.Matches {
		m := &rule.Matches[i]
		switch m.Kind {
		case MatchPorts:
			b.WriteString(" " + protocol)
			side("spt", m.Source)
			side("dpt", m.Dest)
			if f := m.Flags; !f.Any() && numeric {
				fmt.Fprintf(&b, " flags:%s0x%02X/0x%02X", sign(f.Not, ""), f.Mask, f.Set)
			} else if !f.Any() {
				b.WriteString(" flags:" + sign(f.Not, "") + tcpFlagText(f.Mask) + "/" + tcpFlagText(f.Set))
			}
		case MatchMultiport:
			b.WriteString(" multiport " + m.Side.String() + " ")
			if m.Not {
				b.WriteString(" !")
			}
			b.WriteString(joinPorts(m.Ports, ports))
		case MatchMark:
			b.WriteString(" mark match ")
			if m.Not {
				b.WriteString("! ")
			}
			b.WriteString(markText(m.Value, m.Mask))
		case MatchComment:
			b.WriteString(" /* " + m.Comment + " */")
		case MatchMAC:
			b.WriteString(" MAC " + sign(m.Not, "") + map[bool]string{true: " "}[m.Not] + m.macText())
		case MatchICMP:
			b.WriteString(m.icmpDetails(r.ipv6, numeric))
		case MatchTOS:
			b.WriteString(m.tosDetails(numeric))
		case MatchDSCP:
			fmt.Fprintf(&b, " DSCP match %s0x%02x", sign(m.Not, ""), m.Value)
		case MatchIPRange, MatchAddrType:
			b.WriteString(m.addressDetails())
		}
	}
	if rule.Target == TargetMark {
		b.WriteString(" MARK " + operation(rule.Value, rule.Mask))
	}
	return b.String()
}

// operation is what MARK does, in the words of -L (extensions/libxt_MARK.c,
// mark_tg_print).
func operation(value, mask uint32) string {
	switch {
	case value == 0:
		return "and " + hex(^mask)
	case value == mask:
		return "or " + hex(value)
	case mask == 0:
		return "xor " + hex(value)
	case mask == 0xffffffff:
		return "set " + hex(value)
	}
	return "xset " + hex(value) + "/" + hex(mask)
}
