package fwmark

import (
	"math"
	"strings"
)

// request is what a command's words say.
type request struct {
	ipv6     bool
	services *services
	chains   func(name string) bool // reports those there are; nil: all

	words []string
	at    int // the next word

	command   byte   // iptables' letter of it; 0: none yet
	zero      bool   // -Z, also beside -L or -S
	chain     string // "" is every chain
	number    int    // the rule's, from 1; 0: none
	name      string // -P's policy, -E's new name
	table     string
	options   string // letters of the options given that not every command takes
	verbose   int
	restoring bool // a line of a text, which is looked at as a whole in the end
	foreign   bool // -4 or -6 of the other family was given
	done      bool // -h and -V answer and end

	rule         Rule
	source, dest string
	modules      []*module // in their order; the target too
	implied      bool      // the protocol's module was loaded for its options
	goes         bool      // -g
	rules        []Rule    // rule, for every address of -s and -d
}

func (r *request) numeric() bool     { return strings.Contains(r.options, "n") }
func (r *request) exact() bool       { return strings.Contains(r.options, "x") }
func (r *request) lineNumbers() bool { return strings.Contains(r.options, string(lineNumbers)) }

// ruled reports a command that is about a rule, given by its conditions.
func (r *request) ruled() bool {
	return strings.IndexByte("AIRC", r.command) >= 0 || r.command == 'D' && r.number == 0
}

// parse reads all words.
func (r *request) parse(words []string) error {
	r.words = words
	not := false
	for r.at < len(r.words) && !r.done {
		w := r.words[r.at]
		r.at++
		var err error
		switch {
		case w == "--":
			if r.at < len(r.words) {
				return wrong("unknown arguments found on commandline")
			}
		case w == "!":
			if not {
				return wrong("multiple consecutive ! not allowed")
			}
			not = true
			continue
		case strings.HasPrefix(w, "--"):
			err = r.long(w, not)
		case len(w) > 1 && w[0] == '-':
			err = r.short(w, not)
		default:
			err = wrong("Bad argument `" + w + "'")
		}
		if err != nil {
			return err
		}
		not = false
	}
	if r.done {
		return nil
	}
	return r.finish(not)
}

func (r *request) long(w string, not bool) error {
	name, value, has := strings.Cut(w[2:], "=")
	o, m, ok := r.byName(name)
	if implied := r.implies(); !ok && !r.implied && implied != "" {
		r.implied = true
		r.load(implied)
		o, m, ok = r.byName(name)
	}
	if !ok || has && o.arg == none {
		return wrong("unknown option \"" + w + "\"")
	}
	if o.arg == required && !has {
		if r.at == len(r.words) {
			return wrong("option \"" + w + "\" requires an argument")
		}
		value = r.words[r.at]
		r.at++
	}
	if m != nil {
		return r.extension(m, o, value, not)
	}
	return r.base(o.id, value, not)
}

// implies is the module that the protocol's options need no -m for.
func (r *request) implies() string {
	switch {
	case r.rule.Protocol == 1 && !r.ipv6:
		return "icmp"
	case r.rule.Protocol == icmp6 && r.ipv6:
		return "icmp6"
	}
	return portModule(r.rule.Protocol)
}

// short reads one word of short options; the last may have its argument in
// the same word.
func (r *request) short(w string, not bool) error {
	for i := 1; i < len(w); i++ {
		o, ok := byLetter(w[i])
		if !ok {
			return wrong("unknown option \"" + w + "\"")
		}
		value := ""
		if o.arg != none {
			value = w[i+1:]
			i = len(w)
		}
		if o.arg == required && value == "" {
			if r.at == len(r.words) {
				return wrong("option \"" + w + "\" requires an argument")
			}
			value = r.words[r.at]
			r.at++
		}
		if err := r.base(o.id, value, not); err != nil || r.done {
			return err
		}
	}
	return nil
}

// operand takes the next word if it is not an option.
func (r *request) operand() (string, bool) {
	if r.at < len(r.words) && !strings.HasPrefix(r.words[r.at], "-") && r.words[r.at] != "!" {
		r.at++
		return r.words[r.at-1], true
	}
	return "", false
}

// base carries one of iptables' own options into the request.
func (r *request) base(id byte, value string, not bool) error {
	switch id {
	case 'A', 'D', 'C', 'I', 'R', 'L', 'S', 'F', 'Z', 'N', 'X', 'E', 'P':
		return r.verb(id, value, not)
	case 's', 'd', 'p', 'i':
	case 't', 'm':
		if not {
			return wrong("unexpected ! flag before --" + map[byte]string{'t': "table", 'm': "match"}[id])
		}
	case 'v', 'w', 'W', 'c', '4', '6', modprobe, 'h', 'V':
	case 'o':
		return r.out()
	case 'f':
		return wrong("`-f' is not evaluated by ulvs")
	default: // j g n x and --line-numbers
		if id == 'g' {
			id, r.goes = 'j', true
		}
		if not {
			return wrong("cannot have ! before -" + string(id))
		}
	}
	if strings.IndexByte("sdpijnx0c", id) >= 0 {
		if strings.IndexByte(r.options, id) >= 0 {
			return wrong("multiple -" + string(id) + " flags not allowed")
		}
		r.options += string(id)
	}
	switch id {
	case 's':
		r.source, r.rule.Source.Not = value, not
	case 'd':
		r.dest, r.rule.Dest.Not = value, not
	case 'p':
		return r.protocol(value, not)
	case 'i':
		return r.iface(value, not)
	case 'm':
		return r.match(value)
	case 'j':
		return r.jump(value)
	case 't':
		r.table = value
	case 'v':
		r.verbose++
	case '4', '6':
		if r.foreign = (id == '6') != r.ipv6; r.foreign {
			return wrong("`-" + string(id) + "' is for the other family")
		}
	case 'w':
		return r.wait(value)
	case 'c':
		return r.counters(value)
	case 'h', 'V':
		r.command, r.done = id, true
	}
	return nil
}

// verb is a command and the words that belong to it.
func (r *request) verb(id byte, value string, not bool) error {
	if not {
		return wrong("unexpected '!' flag")
	}
	switch {
	case r.command == 0:
		r.command = id
	case id == 'Z' && !r.zero && (r.command == 'L' || r.command == 'S'):
	case r.command == 'Z' && (id == 'L' || id == 'S'):
		r.command = id
	default:
		return wrong("Cannot use -" + string(id) + " with -" + string(r.command))
	}
	if id == 'Z' {
		r.zero = true
	}
	if value == "" && strings.IndexByte("LSFZX", id) >= 0 {
		value, _ = r.operand()
		if value == "" {
			return nil
		}
	}
	r.chain = value
	if id == 'N' {
		return badName(value)
	}
	switch id {
	case 'D', 'I', 'R', 'L', 'S', 'Z':
		n, ok := r.operand()
		if !ok {
			if id == 'R' {
				return wrong("-R requires a rule number")
			}
			return nil
		}
		v, ok := whole(n, math.MaxInt32)
		if !ok || v == 0 {
			return wrong("Invalid rule number `" + n + "'")
		}
		r.number = int(v)
	case 'P', 'E':
		n, ok := r.operand()
		if !ok {
			if id == 'P' {
				return wrong("-P requires a chain and a policy")
			}
			return wrong("-E requires old-chain-name and new-chain-name")
		}
		r.name = n
	}
	return nil
}

// out refuses -o: packets that come in have no output interface yet.
func (r *request) out() error {
	if r.chain == prerouting || r.chain == input {
		return wrong("Can't use -o with " + r.chain)
	}
	return wrong("`-o' is not evaluated by ulvs")
}

func (r *request) wait(value string) error {
	if value == "" {
		value, _ = r.operand()
	}
	if value != "" {
		if _, ok := whole(value, math.MaxInt32); !ok {
			return wrong("wait seconds not numeric")
		}
	}
	return nil
}

// counters reads -c's packets and bytes, which ulvs does not keep by rule.
func (r *request) counters(value string) error {
	packets, bytes, ok := strings.Cut(value, ",")
	if !ok {
		if bytes, ok = r.operand(); !ok {
			return wrong("-c requires packet and byte counter")
		}
	}
	if !decimal(packets) {
		return wrong("-c packet counter not numeric")
	}
	if !decimal(bytes) {
		return wrong("-c byte counter not numeric")
	}
	return nil
}

func decimal(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
