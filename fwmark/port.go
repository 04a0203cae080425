package fwmark

import "strings"

// portRange reads the argument of --sport or --dport of tcp, udp or sctp:
// PORT, FIRST:LAST, FIRST: or :LAST.
func (r *request) portRange(module, option, arg string, not bool) (PortRange, error) {
	first, last, ranged := strings.Cut(arg, ":")
	p := PortRange{Given: true, Not: not, Last: 65535}
	if module == "udp" && strings.Contains(last, ":") {
		return p, wrong("udp: Too many components for option \"--" + option + "\" (max: 2)")
	}
	var err error
	if first != "" || !ranged {
		if p.First, err = r.port(module, first, false); err != nil {
			return p, err
		}
	}
	switch {
	case !ranged:
		p.Last = p.First
	case last != "":
		if p.Last, err = r.port(module, last, false); err != nil {
			return p, err
		}
	}
	switch {
	case p.First > p.Last:
		return p, wrong("invalid portrange (min > max)")
	case p.First > 0 || p.Last < 65535:
		return p, nil
	case not:
		// iptables 1.8.9 takes this for tcp and udp and then forgets it.
		return p, wrong("`! --" + option + " " + arg + "' would never match")
	case module == "sctp":
		return p, nil // printed, other than for tcp and udp
	}
	return PortRange{}, nil
}

// portList reads the argument of multiport's options: ports and ranges with
// commas between, up to fifteen ports.
func (r *request) portList(arg string) ([]PortRange, error) {
	// Checked at once, other than the other modules' protocols: -p comes
	// first (extensions/libxt_multiport.c, proto_to_name and its callers).
	if r.rule.Protocol == 0 {
		return nil, wrong("multiport needs `-p tcp', `-p udp', `-p udplite', `-p sctp' or `-p dccp'")
	}
	module := portModule(r.rule.Protocol)
	switch {
	case r.rule.Protocol == udplite || r.rule.Protocol == dccp:
		return nil, wrong("multiport with `-p " + protocolName(r.rule.Protocol) + "' is not evaluated by ulvs")
	case module == "" || r.rule.NotProtocol:
		return nil, wrong("multiport only works with TCP, UDP, UDPLITE, SCTP and DCCP")
	}
	var list []PortRange
	ports := 0
	for s := range strings.SplitSeq(arg, ",") {
		if ports++; ports > 15 {
			return nil, wrong("too many ports specified")
		}
		first, last, ranged := strings.Cut(s, ":")
		p, err := r.port(module, first, true)
		if err != nil {
			return nil, err
		}
		e := PortRange{Given: true, First: p, Last: p}
		if ranged {
			if ports++; ports > 15 {
				return nil, wrong("too many ports specified")
			}
			if e.Last, err = r.port(module, last, true); err != nil {
				return nil, err
			}
			if e.First >= e.Last {
				return nil, wrong("invalid portrange specified")
			}
		}
		list = append(list, e)
	}
	return list, nil
}

// port reads a port's number or name. The module udp itself asks the resolver,
// which finds names of any protocol.
func (r *request) port(module, s string, multiport bool) (uint16, error) {
	if n, ok := whole(s, 65535); ok {
		return uint16(n), nil
	}
	if module == "udp" && !multiport {
		if n, ok := r.services.port(s, ""); ok {
			return n, nil
		}
		return 0, wrong("Port \"" + s + "\" does not resolve to anything.")
	}
	if n, ok := r.services.port(s, module); ok {
		return n, nil
	}
	return 0, wrong("invalid port/service `" + s + "' specified")
}
