package fwmark

import (
	"slices"
	"strings"
)

// Command carries out the words after `iptables` (or `ip6tables`) on a command
// line: -A, -I, -D, -R, -C, -F, -Z, -S, -L, -P with ACCEPT. The table must be
// given as -t mangle, anywhere. The output, texts and errors are those of
// Debian's iptables 1.8.9. An error is an *Error.
func (t *Table) Command(args []string) (output string, err error) {
	q := t.request()
	err = q.parse(args)
	if err == nil && q.done {
		return t.help(q), nil
	}
	// A command for another table is told so first, whatever else is wrong.
	if q.table != "mangle" && (err == nil || !meansMangle(args)) {
		e := "table `" + q.table + "'"
		if q.table == "" {
			e = "no table was given (iptables' default is filter)"
		}
		err = wrong(e + ": only MARK rules of mangle PREROUTING are evaluated by ulvs, give -t mangle")
	}
	if err == nil {
		output, err = t.run(q)
	}
	if e, ok := err.(*Error); ok && e.Usage {
		e.Rule = join(args)
	}
	return output, t.named(err)
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

func (t *Table) help(q *request) string {
	if q.command == 'V' {
		return t.program() + " v1.8.9 (ulvs)\n"
	}
	return "Usage: " + t.program() + " -t mangle -[ACD] PREROUTING rule-specification\n" +
		"       -I PREROUTING [number] rule-specification\n" +
		"       -R PREROUTING number rule-specification\n" +
		"       -D PREROUTING number\n" +
		"       -[LS] [chain [number]] [-n] [-v] [-x] [--line-numbers]\n" +
		"       -[FZ] [chain]\n" +
		"Conditions: [!] -s ADDRESS[/MASK] [!] -d ADDRESS[/MASK] [!] -i NAME[+] [!] -p PROTOCOL\n" +
		"       [!] --sport PORT[:PORT] [!] --dport PORT[:PORT] (tcp, udp, sctp)\n" +
		"       -m multiport [!] --sports|--dports|--ports PORT[:PORT],...\n" +
		"       -m mark [!] --mark VALUE[/MASK]  -m comment --comment TEXT\n" +
		"Target: -j MARK --set-mark|--set-xmark VALUE[/MASK] | --and-mark|--or-mark|--xor-mark VALUE\n"
}

// chains are the chains that a listing is about.
func (r *request) chains() []string {
	if r.chain == "" {
		return builtin
	}
	return []string{r.chain}
}

// run carries out a command that was understood.
func (t *Table) run(q *request) (string, error) {
	known := slices.Contains(builtin, q.chain)
	switch q.command {
	case 'N', 'E':
		return "", wrong("chains of one's own are not evaluated by ulvs")
	case 'X':
		if q.chain != "" {
			return "", failed(textNoChain)
		}
		return "", nil
	case 'P':
		return "", policy(q.chain, q.name)
	}
	if !known && (q.chain != "" || strings.IndexByte("AIDRC", q.command) >= 0) {
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
	case 'F':
		if q.chain == "" || q.chain == prerouting {
			t.Flush()
		}
		q.tell(&out, "Flushing")
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
	if q.zero {
		t.Zero()
		q.tell(&out, "Zeroing")
	}
	return out.String(), nil
}

// tell says under -v which chains a command went through.
func (r *request) tell(b *strings.Builder, what string) {
	if r.verbose > 0 {
		for _, c := range r.chains() {
			b.WriteString(what + " chain `" + c + "'\n")
		}
	}
}

// change carries out -A, -I, -D, -R and -C.
func (t *Table) change(q *request) error {
	if q.chain != prerouting {
		switch {
		case q.command == 'D' && q.number > 0:
			return failed(textDeletion)
		case q.command == 'D' || q.command == 'C':
			return failed(textNoRule)
		}
		return wrong("chain `" + q.chain + "' is not evaluated by ulvs: only PREROUTING is")
	}
	switch q.command {
	case 'A':
		return t.put(len(t.rules)+1, q.rules)
	case 'I':
		slices.Reverse(q.rules)
		err := t.put(max(q.number, 1), slices.Clone(q.rules))
		slices.Reverse(q.rules)
		return err
	case 'R':
		return t.replace(q.number, q.rules[0])
	case 'C':
		return t.check(q.rules)
	}
	if q.number > 0 {
		return t.removeNumber(q.number)
	}
	return t.remove(q.rules)
}

// policy accepts ACCEPT only: a packet that the kernel drops in PREROUTING is
// none that ulvs could give a mark.
func policy(chain, name string) error {
	switch {
	case !slices.Contains(builtin, chain):
		return failed(textBuiltin)
	case name == "ACCEPT":
		return nil
	case name != "DROP":
		return failed(textPolicy)
	}
	return wrong("policy `" + name + "' is not carried out by ulvs: only ACCEPT is")
}

// listRules is the output of -S.
func (t *Table) listRules(q *request) string {
	var b strings.Builder
	for _, c := range q.chains() {
		if q.number > 0 {
			break
		}
		b.WriteString("-P " + c + " ACCEPT")
		if q.verbose > 0 {
			b.WriteString(" -c 0 0")
		}
		b.WriteByte('\n')
	}
	if q.chain != "" && q.chain != prerouting {
		return b.String()
	}
	for i := range t.rules {
		if q.number == 0 || q.number == i+1 {
			b.WriteString(t.rules[i].text(q.verbose > 0) + "\n")
		}
	}
	return b.String()
}
