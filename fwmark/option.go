package fwmark

import "strings"

// argument says whether an option takes a word.
type argument uint8

const (
	none argument = iota
	required
	attached // optional, and then in the same word
)

// option is one long spelling of an option. id is the short option's letter,
// or a number of the extension's.
type option struct {
	name string
	id   byte
	arg  argument
}

// Ids of options without a letter.
const (
	lineNumbers byte = '0'
	modprobe    byte = 'M'

	sourcePorts byte = iota // of tcp, udp, sctp and multiport
	destPorts
	eitherPorts
	markValue
	commentText
	setXmark
	setMark
	andMark
	orMark
	xorMark
	tcpFlags
	tcpSYN
	macSource
	icmpType
	tosValue
	dscpValue
	dscpClass
	sourceRange
	destRange
	sourceTypes
	destTypes
	foreign // an option that iptables knows and ulvs does not evaluate
)

// baseOptions are iptables' own. The letters are iptables' short options.
var baseOptions = []option{
	{"append", 'A', required}, {"delete", 'D', required}, {"check", 'C', required},
	{"insert", 'I', required}, {"replace", 'R', required}, {"list", 'L', attached},
	{"list-rules", 'S', attached}, {"flush", 'F', attached}, {"zero", 'Z', attached},
	{"new-chain", 'N', required}, {"delete-chain", 'X', attached},
	{"rename-chain", 'E', required}, {"policy", 'P', required},
	{"source", 's', required}, {"destination", 'd', required}, {"src", 's', required},
	{"dst", 'd', required}, {"protocol", 'p', required}, {"in-interface", 'i', required},
	{"jump", 'j', required}, {"table", 't', required}, {"match", 'm', required},
	{"numeric", 'n', none}, {"out-interface", 'o', required}, {"verbose", 'v', none},
	{"wait", 'w', attached}, {"wait-interval", 'W', required}, {"exact", 'x', none},
	{"version", 'V', none}, {"help", 'h', attached}, {"line-numbers", lineNumbers, none},
	{"modprobe", modprobe, required}, {"set-counters", 'c', required},
	{"goto", 'g', required}, {"ipv4", '4', none}, {"ipv6", '6', none},
	{"fragments", 'f', none},
}

// portOptions are those of the modules tcp, udp and sctp that ulvs evaluates.
var portOptions = []option{
	{"source-port", sourcePorts, required}, {"sport", sourcePorts, required},
	{"destination-port", destPorts, required}, {"dport", destPorts, required},
}

// modules are the options that -m and -j MARK add.
var modules = map[string][]option{
	"tcp": append([]option{
		{"syn", tcpSYN, none}, {"tcp-flags", tcpFlags, required}, {"tcp-option", foreign, required},
	}, portOptions...),
	"udp":  portOptions,
	"sctp": append([]option{{"chunk-types", foreign, required}}, portOptions...),
	"multiport": {
		{"source-ports", sourcePorts, required}, {"sports", sourcePorts, required},
		{"destination-ports", destPorts, required}, {"dports", destPorts, required},
		{"ports", eitherPorts, required},
	},
	"mark":    {{"mark", markValue, required}},
	"comment": {{"comment", commentText, required}},
	"mac":     {{"mac-source", macSource, required}},
	"icmp":    {{"icmp-type", icmpType, required}},
	"icmp6":   {{"icmpv6-type", icmpType, required}},
	"tos":     {{"tos", tosValue, required}},
	"dscp":    {{"dscp", dscpValue, required}, {"dscp-class", dscpClass, required}},
	"iprange": {{"src-range", sourceRange, required}, {"dst-range", destRange, required}},
	"addrtype": {
		{"src-type", sourceTypes, required}, {"dst-type", destTypes, required},
		{"limit-iface-in", foreign, none}, {"limit-iface-out", foreign, none},
	},
	"MARK": {
		{"set-xmark", setXmark, required}, {"set-mark", setMark, required},
		{"and-mark", andMark, required}, {"or-mark", orMark, required},
		{"xor-mark", xorMark, required},
	},
}

// byLetter finds a short option.
func byLetter(letter byte) (option, bool) {
	for _, o := range baseOptions {
		if o.id == letter && o.id != lineNumbers && o.id != modprobe {
			return o, true
		}
	}
	return option{}, false
}

// byName finds a long option by its name or an unambiguous start of it, as
// getopt_long does: iptables' own first, then those of the modules, the one
// that was loaded last first. module is nil for iptables' own.
func (r *request) byName(name string) (o option, m *module, ok bool) {
	count := 0
	consider := func(options []option, of *module) (exact bool) {
		for _, c := range options {
			if c.name == name {
				o, m, ok = c, of, true
				return true
			}
			if strings.HasPrefix(c.name, name) && !(ok && o.id == c.id && m == of) {
				o, m, ok = c, of, true
				count++
			}
		}
		return false
	}
	if consider(baseOptions, nil) {
		return o, m, true
	}
	for i := len(r.modules) - 1; i >= 0; i-- {
		if consider(modules[r.modules[i].name], r.modules[i]) {
			return o, m, true
		}
	}
	return o, m, count == 1
}
