package fwmark

import (
	"slices"
	"strings"
)

// Command carries out the words after `iptables` (or `ip6tables`) on a command
// line: -A, -I, -D, -R, -C, -F, -Z, -S, -L, -N, -X, -E, -P with ACCEPT. The table must be
// given as -t mangle, anywhere. The output, texts and errors are those of
// Debian's iptables 1.8.9. An error is an *Error.
func (t *Table) Command(args []string) (output string, err error) {
	q := t.request()
	err = q.parse(args)
	if err == nil && q.done {
		return help(t.program(), q), nil
	}
	// A command for another table is told so first, whatever else is wrong.
	if q.table != "mangle" && (err == nil || !meansMangle(args)) {
		e := "table `" + q.table + "'"
		if q.table == "" {
			e = "no table was given (iptables' default is filter)"
		}
		err = wrong(e + ": only rules of mangle are evaluated by ulvs, give -t mangle")
	}
	if err == nil {
		output, err = t.run(q)
	}
	if e, ok := err.(*Error); ok && e.Usage {
		e.Rule = join(args)
	}
	return output, t.named(err)
}

// Edits reports whether the words after `iptables` (or `ip6tables`) are those of a
// command that changes chains or rules.
func Edits(ipv6 bool, args []string) bool {
	q := NewTable(ipv6).request()
	q.chains = nil
	_ = q.parse(args) // an error may come behind the command
	return q.command != 0 && strings.IndexByte("AIDRFNXEP", q.command) >= 0
}

// meansMangle looks for -t mangle behind the word that parse stumbled over.
func meansMangle(args []string) bool {
	for i, a := range args {
		switch {
		case a == "-tmangle" || a == "--table=mangle":
			return true
		case (a == "-t" || a == "--table") && i+1 < len(args) && args[i+1] == "mangle":
			return true
		}
	}
	return false
}

func help(program string, q *request) string {
	if q.command == 'V' {
		return program + " v1.8.9 (ulvs)\n"
	}
	return "Usage: " + program + " -t mangle -[ACD] chain rule-specification\n" +
		"       -I chain [number] rule-specification\n" +
		"       -R chain number rule-specification\n" +
		"       -D chain number\n" +
		"       -[LS] [chain [number]] [-n] [-v] [-x] [--line-numbers]\n" +
		"       -[FZ] [chain]\n" +
		"       -N chain  -X [chain]  -E chain name\n" +
		"Chains: PREROUTING, INPUT, and those of one's own\n" +
		"Conditions: [!] -s ADDRESS[/MASK] [!] -d ADDRESS[/MASK] [!] -i NAME[+] [!] -p PROTOCOL\n" +
		"       [!] --sport PORT[:PORT] [!] --dport PORT[:PORT] (tcp, udp, sctp)\n" +
		"       -m multiport [!] --sports|--dports|--ports PORT[:PORT],...\n" +
		"       -m mark [!] --mark VALUE[/MASK]  -m comment --comment TEXT\n" +
		"Target: -j MARK --set-mark|--set-xmark VALUE[/MASK] | --and-mark|--or-mark|--xor-mark VALUE\n" +
		"       -j ACCEPT | -j RETURN | -j chain | -g chain\n"
}

// about are the chains that a command is about: the one it names, or all.
func (t *Table) about(q *request) []chain {
	if q.chain == "" {
		return t.chains
	}
	if c := t.chain(q.chain); c != nil {
		return []chain{*c}
	}
	return nil
}

// run carries out a command that was understood.
func (t *Table) run(q *request) (string, error) {
	switch q.command {
	case 'N':
		return "", t.NewChain(q.chain)
	case 'E':
		return "", t.RenameChain(q.chain, q.name)
	case 'P':
		return "", checkPolicy(q.chain, q.name)
	}
	if t.chain(q.chain) == nil || q.chain == "" && strings.IndexByte("AIDRC", q.command) >= 0 {
		if strings.IndexByte("CD", q.command) >= 0 && q.number == 0 {
			return "", failed(textNoRule)
		}
		return "", failed(textNoChain)
	}
	var out strings.Builder
	switch q.command {
	case 'S':
		out.WriteString(t.listRules(q))
	case 'L':
		out.WriteString(t.list(q))
	case 'X':
		list := slices.Clone(t.about(q))
		if err := t.DeleteChain(q.chain); err != nil {
			return "", err
		}
		q.tell(&out, "Deleting", slices.DeleteFunc(list, func(c chain) bool { return slices.Contains(builtin, c.name) }))
	case 'F':
		if q.chain == "" {
			t.Flush()
		} else {
			t.chain(q.chain).rules = nil
		}
		q.tell(&out, "Flushing", t.about(q))
	case 'Z':
	default:
		if err := t.change(q); err != nil {
			return "", err
		}
		if q.verbose > 0 {
			for i := range q.rules {
				out.WriteString(q.told(&q.rules[i]))
			}
		}
	}
	if q.zero { // the table counts no packets
		q.tell(&out, "Zeroing", t.about(q))
	}
	return out.String(), nil
}

// tell says under -v which chains a command went through.
func (r *request) tell(b *strings.Builder, what string, chains []chain) {
	if r.verbose > 0 {
		for i := range chains {
			b.WriteString(what + " chain `" + chains[i].name + "'\n")
		}
	}
}

// change carries out -A, -I, -D, -R and -C.
func (t *Table) change(q *request) error {
	if slices.Contains(builtin[2:], q.chain) {
		switch {
		case q.command == 'D' && q.number > 0:
			return failed(textDeletion)
		case q.command == 'D' || q.command == 'C':
			return failed(textNoRule)
		}
		return wrong("chain `" + q.chain + "' is not evaluated by ulvs: IPVS's packets pass PREROUTING and INPUT only")
	}
	c := t.chain(q.chain)
	if q.restoring {
		return t.changeChain(c, q)
	}
	was := c.rules
	c.rules = slices.Clone(was)
	err := t.changeChain(c, q)
	if err == nil {
		err = t.sound(q.command, q.chain)
	}
	if err != nil {
		c.rules = was
	}
	return err
}

func (t *Table) changeChain(c *chain, q *request) error {
	switch q.command {
	case 'A':
		return t.put(c, len(c.rules)+1, q.rules)
	case 'I':
		slices.Reverse(q.rules)
		err := t.put(c, max(q.number, 1), slices.Clone(q.rules))
		slices.Reverse(q.rules)
		return err
	case 'R':
		return c.replace(q.number, q.rules[0])
	case 'C':
		return c.check(q.rules)
	}
	if q.number > 0 {
		return c.removeNumber(q.number)
	}
	return c.remove(q.rules)
}

// policy accepts ACCEPT only: a packet that the kernel drops is none that ulvs
// could give a mark.
func checkPolicy(name, policy string) error {
	switch {
	case !slices.Contains(builtin, name):
		return failed(textBuiltin)
	case policy == "ACCEPT":
		return nil
	case policy != "DROP":
		return failed(textPolicy)
	}
	return wrong("policy `" + policy + "' is not carried out by ulvs: only ACCEPT is")
}

// listRules is the output of -S.
func (t *Table) listRules(q *request) string {
	var b strings.Builder
	chains := t.about(q)
	for _, c := range chains {
		switch {
		case q.number > 0:
		case slices.Contains(builtin, c.name):
			b.WriteString("-P " + c.name + " ACCEPT")
			if q.verbose > 0 {
				b.WriteString(" -c 0 0")
			}
			b.WriteByte('\n')
		default:
			b.WriteString("-N " + c.name + "\n")
		}
	}
	for _, c := range chains {
		for i := range c.rules {
			if q.number == 0 || q.number == i+1 {
				b.WriteString(c.rules[i].text(q.verbose > 0) + "\n")
			}
		}
	}
	return b.String()
}
