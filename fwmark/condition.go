package fwmark

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// module is one -m, or -j MARK, of a rule. match is nil for MARK.
type module struct {
	name  string
	given map[byte]bool // its options
	match Match
}

// moduleKinds are what the modules match.
var moduleKinds = map[string]MatchKind{
	"tcp": MatchPorts, "udp": MatchPorts, "sctp": MatchPorts, "multiport": MatchMultiport, "mark": MatchMark,
	"comment": MatchComment, "mac": MatchMAC, "icmp": MatchICMP, "icmp6": MatchICMP, "tos": MatchTOS,
	"dscp": MatchDSCP, "iprange": MatchIPRange, "addrtype": MatchAddrType,
}

// load adds a module to the rule.
func (r *request) load(name string) {
	r.modules = append(r.modules, &module{name: name, given: map[byte]bool{}, match: Match{Kind: moduleKinds[name]}})
}

func (r *request) protocol(arg string, not bool) error {
	p, err := parseProtocol(arg)
	if err != nil {
		return err
	}
	if p == 0 && not {
		return wrong("rule would never match protocol")
	}
	// The protocol that ip6tables compares is the last of the headers.
	if r.ipv6 && (p == 43 || p == 44 || p == 51 || p == 60) {
		return wrong("never matched protocol: " + protocolName(p))
	}
	r.rule.Protocol, r.rule.NotProtocol = p, not
	return nil
}

func (r *request) iface(name string, not bool) error {
	switch {
	case name == "":
		return wrong("Empty interface is likely to be undesired")
	case len(name) > 15:
		return wrong("interface name `" + name + "' must be shorter than IFNAMSIZ (15)")
	case strings.ContainsAny(name, "/\" \t\r\n\v\f\x00"):
		return wrong("interface name " + strconv.Quote(name) + " has a character that no interface of Linux may have, or that is not understood")
	case name == "+" && !not:
		return nil
	}
	r.rule.In = Interface{Name: name, Not: not}
	return nil
}

func (r *request) match(name string) error {
	if name == "icmpv6" {
		name = "icmp6"
	}
	if name == "MARK" || modules[name] == nil || name == "icmp" && r.ipv6 || name == "icmp6" && !r.ipv6 {
		return wrong("match `" + name + "' is not evaluated by ulvs (addrtype, comment, dscp, icmp, icmp6, iprange, " +
			"mac, mark, multiport, sctp, tcp, tos and udp are)")
	}
	r.load(name)
	return nil
}

// jump reads the argument of -j or -g (iptables/xshared.c, do_parse).
func (r *request) jump(target string) error {
	if target == "" {
		return wrong("Invalid target name (too short)")
	}
	own := r.chains == nil || r.chains(target)
	switch {
	case r.goes && own && (r.chains != nil || badName(target) == nil):
		r.rule.Target, r.rule.To = TargetGoto, target
	case r.goes:
		return wrong("Chain '" + target + "' does not exist")
	case target == "MARK":
		r.rule.Target = TargetMark
		r.load(target)
	case target == "ACCEPT":
		r.rule.Target = TargetAccept
	case target == "RETURN":
		r.rule.Target = TargetReturn
	case slices.Contains(targets, target):
		return wrong("target `" + target + "' is not evaluated by ulvs " +
			"(MARK, ACCEPT, RETURN and chains of one's own are)")
	case own && badName(target) == nil:
		r.rule.Target, r.rule.To = TargetJump, target
	default:
		return wrong("Chain '" + target + "' does not exist")
	}
	return nil
}

// extension carries a module's option into the rule.
func (r *request) extension(m *module, o option, value string, not bool) error {
	name := o.name
	for _, c := range modules[m.name] { // errors name the first spelling
		if c.id == o.id && o.id != foreign {
			name = c.name
			break
		}
	}
	again := m.given[o.id]
	m.given[o.id] = true
	switch {
	case o.id == foreign:
		return wrong("`--" + name + "' is not evaluated by ulvs")
	case m.given[tcpSYN] && m.given[tcpFlags], again && (o.id == tcpSYN || o.id == tcpFlags):
		return wrong("Only one of `--syn' or `--tcp-flags'  allowed")
	case again && (m.name == "tcp" || m.name == "sctp"):
		return wrong("Only one `--" + name + "' allowed")
	case again:
		return wrong(m.name + ": option \"--" + name + "\" can only be used once.")
	case not && (m.name == "MARK" || o.id == commentText):
		return wrong(m.name + ": option \"--" + name + "\" cannot be inverted.")
	}
	var err error
	switch m.match.Kind {
	case MatchPorts:
		if o.id == tcpSYN {
			m.match.Flags = TCPFlags{Mask: 0x17, Set: 0x02, Not: not}
			return nil
		}
		if o.id == tcpFlags {
			m.match.Flags, err = r.tcpFlags(value, not)
			return err
		}
		ports, err := r.portRange(m.name, name, value, not)
		if err != nil {
			return err
		}
		if o.id == sourcePorts {
			m.match.Source = ports
		} else {
			m.match.Dest = ports
		}
	case MatchMultiport:
		m.match.Side, m.match.Not = Side(o.id-sourcePorts)+SourceSide, not
		m.match.Ports, err = r.portList(value)
	case MatchMark:
		m.match.Not = not
		m.match.Value, m.match.Mask, err = marks(m.name, name, value)
	case MatchComment:
		if len(value) > 255 || strings.ContainsAny(value, "\n\r\x00") {
			return wrong("comment: " + strconv.Quote(value) + " is longer than 255 bytes, or more than one line")
		}
		m.match.Comment = value
	case MatchMAC:
		m.match.Not = not
		err = m.match.macSource(value)
	case MatchICMP:
		m.match.Not = not
		err = m.match.icmpType(value, r.ipv6)
	case MatchTOS:
		m.match.Not = not
		err = m.match.tos(value)
	case MatchDSCP:
		m.match.Not = not
		err = m.match.dscp(value, o.id == dscpClass)
	case MatchIPRange, MatchAddrType:
		err = m.match.addresses(o, value, not, r.ipv6)
	default:
		err = r.mark(o.id, name, value)
	}
	return err
}

// mark reads the argument of one of MARK's options. All become the value and
// mask of --set-xmark (extensions/libxt_MARK.c, mark_tg_parse).
func (r *request) mark(id byte, name, arg string) (err error) {
	value, mask := &r.rule.Value, &r.rule.Mask
	if id == setXmark || id == setMark {
		*value, *mask, err = marks("MARK", name, arg)
		if id == setMark {
			*mask |= *value
		}
		return err
	}
	n, ok := whole(arg, math.MaxUint32)
	if !ok {
		return wrong("MARK: bad value for option \"--" + name + "\", or out of range (0-4294967295).")
	}
	v := uint32(n)
	switch id {
	case andMark:
		*value, *mask = 0, ^v
	case orMark:
		*value, *mask = v, v
	case xorMark:
		*value, *mask = v, 0
	}
	return nil
}

// finish looks at the command as a whole, once all words are read.
func (r *request) finish(not bool) error {
	for _, m := range r.modules {
		if err := r.check(m); err != nil {
			return err
		}
		if m.match.Kind != 0 {
			r.rule.Matches = append(r.rule.Matches, m.match)
		}
	}
	switch {
	case r.command == 0:
		return wrong("no command specified")
	case not:
		return wrong("nothing appropriate following !")
	}
	if r.ruled() {
		if err := r.expand(); err != nil {
			return err
		}
	}
	for i := range len("nsdpjxi0c") {
		o := "nsdpjxi0c"[i]
		if strings.IndexByte(r.options, o) >= 0 && !r.legal(o) {
			return wrong("Illegal option `-" + string(o) + "' with this command")
		}
	}
	if len(r.chain) > 28 {
		return wrong("chain name `" + r.chain + "' too long (must be under 29 chars)")
	}
	return nil
}

// legal says which options a command takes (iptables/xshared.c,
// generic_opt_check).
func (r *request) legal(o byte) bool {
	switch o {
	case 'n', 'x', lineNumbers:
		return r.command == 'L'
	case 'c':
		return strings.IndexByte("AIR", r.command) >= 0
	}
	return r.ruled()
}

// check is what iptables checks of a module when all its options are known.
func (r *request) check(m *module) error {
	excludes := func() error {
		var first string
		var id byte
		for _, o := range modules[m.name] {
			if !m.given[o.id] || id == o.id {
				continue
			}
			if first != "" {
				return wrong(m.name + ": option \"--" + first + "\" cannot be used together with \"--" + o.name + "\".")
			}
			first, id = o.name, o.id
		}
		return nil
	}
	switch m.match.Kind {
	case MatchPorts:
		if portModule(r.rule.Protocol) != m.name || r.rule.NotProtocol {
			return wrong(strings.ToUpper(m.name) + " match requires '-p " + m.name + "'")
		}
	case MatchMultiport:
		if len(m.given) == 0 {
			return wrong("multiport expection an option")
		}
		return excludes()
	case MatchMark, MatchComment, MatchMAC, MatchICMP, MatchTOS:
		if len(m.given) == 0 {
			return wrong(m.name + ": option \"--" + modules[m.name][0].name + "\" must be specified")
		}
		if m.match.Kind == MatchICMP && (r.rule.NotProtocol || r.rule.Protocol != icmpProtocol(r.ipv6)) {
			// iptables-nft finds that out when the kernel refuses the rule.
			return failed("RULE_APPEND failed (Invalid argument): rule in chain " + r.chain)
		}
	case MatchDSCP:
		if len(m.given) == 0 {
			return wrong("DSCP match: Parameter --dscp is required")
		}
		return excludes()
	case MatchIPRange:
		if len(m.given) == 0 {
			return wrong("iprange match: You must specify `--src-range' or `--dst-range'")
		}
	case MatchAddrType:
		if len(m.given) == 0 {
			return wrong("addrtype: you must specify --src-type or --dst-type")
		}
	default:
		if len(m.given) == 0 {
			return wrong("MARK: One of the --set-xmark, --{and,or,xor,set}-mark options is required")
		}
		return excludes()
	}
	return nil
}

// expand makes one rule for every pair of addresses of -s and -d.
func (r *request) expand() error {
	sources, dests := []Network{{}}, []Network{{}}
	var err error
	if strings.Contains(r.options, "s") {
		if sources, err = networks(r.source, r.rule.Source.Not, r.ipv6); err != nil {
			return err
		}
	}
	if strings.Contains(r.options, "d") {
		if dests, err = networks(r.dest, r.rule.Dest.Not, r.ipv6); err != nil {
			return err
		}
	}
	if r.command == 'R' && len(sources)*len(dests) > 1 {
		return wrong("Replacement rule does not specify a unique address")
	}
	if len(sources)*len(dests) > maxRules {
		return wrong("too many addresses")
	}
	r.rule.IPv6 = r.ipv6
	if r.chain != prerouting {
		r.rule.Chain = r.chain
	}
	if !strings.Contains(r.options, "j") {
		r.rule.Target = TargetNone
	}
	for _, s := range sources {
		for _, d := range dests {
			rule := r.rule.clone()
			rule.Source, rule.Dest = s, d
			r.rules = append(r.rules, rule)
		}
	}
	return nil
}
