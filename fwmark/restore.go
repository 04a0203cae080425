package fwmark

import (
	"slices"
	"strings"
)

// Restore replaces the table's chains and rules by those of a text in the form
// of iptables-save. Of the text's tables only mangle counts; without one the
// table stays as it is, as with iptables-restore. What no packet of IPVS passes
// is left out: the rules of FORWARD, OUTPUT and POSTROUTING, and chains that
// neither PREROUTING nor INPUT reaches and that have something which ulvs cannot
// evaluate. LeftOut has their lines. On an error, an *Error with the line,
// nothing has changed.
func (t *Table) Restore(text string) error {
	lines, found, err := t.readText(text)
	if err != nil {
		return err
	}
	if !found {
		return nil
	}
	next := NewTable(t.ipv6)
	next.services = t.services
	absent := irrelevant(lines)
	var leftOut []string
	for i := range lines {
		l := &lines[i]
		if absent[l.chain()] && (!l.declares() || !slices.Contains(builtin, l.chain())) {
			if !l.declares() {
				leftOut = append(leftOut, l.text)
			}
			continue
		}
		if err := next.restoreLine(l); err != nil {
			return t.placed(err, l.number, l.text)
		}
	}
	t.chains, t.size, t.leftOut = next.chains, next.size, leftOut
	return nil
}

// LeftOut are the lines that the last Restore has left out.
func (t *Table) LeftOut() []string { return t.leftOut }

// savedLine is one line of mangle: a chain, a rule, or the end.
type savedLine struct {
	number int
	text   string
	words  []string
	q      *request // nil: a chain's line, or COMMIT
	err    error    // of the words
}

func (l *savedLine) declares() bool { return l.q == nil }

// chain is the chain that the line is about.
func (l *savedLine) chain() string {
	if l.q != nil {
		return l.q.chain
	}
	if len(l.words) > 0 {
		return l.words[0]
	}
	return ""
}

// jumpsTo are the chains that the line may go to, whether it is understood or not.
func (l *savedLine) jumpsTo() (list []string) {
	for i, w := range l.words {
		if i > 0 && (l.words[i-1] == "-j" || l.words[i-1] == "-g" || l.words[i-1] == "--jump" || l.words[i-1] == "--goto") {
			list = append(list, w)
		}
	}
	if l.q != nil && l.q.rule.To != "" {
		list = append(list, l.q.rule.To)
	}
	if l.q != nil && l.q.command == 'E' {
		list = append(list, l.q.name)
	}
	return list
}

// readText reads the lines of mangle; found: there is such a table.
func (t *Table) readText(text string) (lines []savedLine, found bool, err error) {
	table, number, rules := "", 0, 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimRight(line, "\r\n")
		switch {
		case line == "" || line[0] == '#':
		case table == "":
			if line[0] != '*' {
				return nil, false, t.placed(wrong("expected a table (a line like *mangle)"), number, line)
			}
			table = strings.Trim(line[1:], " \t")
			if table == "mangle" {
				lines, found = nil, true
			}
		case strings.TrimRight(line, " \t") == "COMMIT":
			if table == "mangle" {
				lines = append(lines, savedLine{number: number, text: line})
			}
			table = ""
		case table == "mangle":
			l := savedLine{number: number, text: line}
			if err := t.readLine(&l); err != nil {
				return nil, false, t.placed(err, number, line)
			}
			if l.q != nil && slices.Contains(builtin[2:], l.q.chain) {
				l.q.rules = nil
			}
			if l.q != nil {
				rules += len(l.q.rules)
			}
			if rules > maxRules {
				return nil, false, t.placed(failed(textTooMany), number, line)
			}
			if len(l.words) > 0 {
				lines = append(lines, l)
			}
		}
	}
	if table != "" {
		return nil, false, t.placed(wrong("COMMIT expected"), number+1, "")
	}
	return lines, found, nil
}

// readLine reads a line's words. A line without words is for the other family.
func (t *Table) readLine(l *savedLine) error {
	if l.text[0] == ':' {
		l.words = strings.Fields(l.text[1:])
		if n := len(l.words); n < 2 || n > 3 || n == 3 && !counter(l.words[2]) {
			return wrong("expected `:CHAIN POLICY [packets:bytes]'")
		}
		return nil
	}
	l.words = split(l.text)
	if len(l.words) > 0 && l.text[0] == '[' {
		if !counter(l.words[0]) {
			return wrong("expected counters like [0:0]")
		}
		l.words = l.words[1:]
	}
	if len(l.words) == 0 {
		return nil
	}
	l.q = t.request()
	l.q.restoring, l.q.chains = true, nil
	l.err = l.q.parse(l.words)
	if l.q.foreign { // as iptables-restore: one text may serve both families
		l.words = nil
	}
	return nil
}

// irrelevant are the chains of which nothing is taken.
func irrelevant(lines []savedLine) map[string]bool {
	out := map[string]bool{}
	for _, name := range builtin[2:] {
		out[name] = true
	}
	from, to := map[string][]string{}, map[string][]string{}
	bad := map[string]bool{}
	for i := range lines {
		l := &lines[i]
		for _, next := range l.jumpsTo() {
			from[next] = append(from[next], l.chain())
			to[l.chain()] = append(to[l.chain()], next)
		}
		if l.err != nil {
			bad[l.chain()] = true
		}
	}
	spread := func(start []string, along map[string][]string) map[string]bool {
		seen := map[string]bool{}
		for len(start) > 0 {
			name := start[len(start)-1]
			start = start[:len(start)-1]
			if !seen[name] {
				seen[name] = true
				start = append(start, along[name]...)
			}
		}
		return seen
	}
	reached := spread([]string{prerouting, input, ""}, to)
	var list []string
	for name := range bad {
		if !reached[name] {
			list = append(list, name)
		}
	}
	for name := range spread(list, from) {
		if !reached[name] {
			out[name] = true
		}
	}
	return out
}

func (t *Table) placed(err error, number int, line string) error {
	e, ok := err.(*Error)
	if !ok {
		return err
	}
	e.Program, e.Line, e.Rule = t.program()+"-restore", number, line
	return e
}

// counter reports a word like [0:0].
func counter(word string) bool {
	inner, ok := strings.CutPrefix(word, "[")
	inner, ok2 := strings.CutSuffix(inner, "]")
	packets, bytes, ok3 := strings.Cut(inner, ":")
	return ok && ok2 && ok3 && decimal(packets) && decimal(bytes)
}

// restoreLine carries out a line.
func (t *Table) restoreLine(l *savedLine) error {
	switch {
	case l.q == nil && l.words == nil: // COMMIT
		return t.sound('A', "")
	case l.q == nil && slices.Contains(builtin, l.words[0]):
		if slices.Contains(builtin[2:], l.words[0]) {
			return nil
		}
		return checkPolicy(l.words[0], l.words[1])
	case l.q == nil && l.words[1] != "-":
		return failed(textBuiltin)
	case l.q == nil && t.chain(l.words[0]) != nil:
		return nil
	case l.q == nil:
		return t.NewChain(l.words[0])
	case l.err != nil:
		return l.err
	case l.q.table != "":
		return wrong("The -t option cannot be used in iptables-restore.")
	case l.q.done || strings.IndexByte("AIDRFPNXE", l.q.command) < 0:
		return wrong("only chains and rules can be restored")
	}
	if to := l.q.rule.To; to != "" && t.chain(to) == nil {
		return wrong("Chain '" + to + "' does not exist")
	}
	_, err := t.run(l.q)
	return err
}
