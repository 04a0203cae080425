package fwmark

import (
	"slices"
	"strings"
)

// Restore replaces the table's rules by those of a text in the form of
// iptables-save. Of the text's tables only mangle counts; without one the
// table stays as it is, as with iptables-restore. Rules of chains other than
// PREROUTING are passed over: they give no mark before IPVS would see it,
// unless PREROUTING jumps there, and such a jump is refused like everything
// that ulvs cannot evaluate. On an error, an *Error with the line, nothing has
// changed.
func (t *Table) Restore(text string) error {
	next, found := &Table{ipv6: t.ipv6, services: t.services}, false
	table, number := "", 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimRight(line, "\r\n")
		var err error
		switch {
		case line == "" || line[0] == '#':
		case table == "":
			if line[0] != '*' {
				err = wrong("expected a table (a line like *mangle)")
				break
			}
			table = strings.Trim(line[1:], " \t")
			if table == "mangle" {
				next.rules, found = nil, true
			}
		case strings.TrimRight(line, " \t") == "COMMIT":
			table = ""
		case table != "mangle":
		case line[0] == ':':
			err = restoreChain(line[1:])
		default:
			err = next.restoreRule(line)
		}
		if err != nil {
			return t.placed(err, number, line)
		}
	}
	if table != "" {
		return t.placed(wrong("COMMIT expected"), number+1, "")
	}
	if found {
		t.rules = next.rules
	}
	return nil
}

func (t *Table) placed(err error, number int, line string) error {
	e, ok := err.(*Error)
	if !ok {
		return err
	}
	e.Program, e.Line, e.Rule = t.program()+"-restore", number, line
	return e
}

// restoreChain reads ":CHAIN POLICY [packets:bytes]".
func restoreChain(line string) error {
	words := strings.Fields(line)
	if len(words) < 2 || len(words) > 3 || len(words) == 3 && !counter(words[2]) {
		return wrong("expected `:CHAIN POLICY [packets:bytes]'")
	}
	if words[0] == prerouting {
		return policy(words[0], words[1])
	}
	return nil
}

// counter reports a word like [0:0].
func counter(word string) bool {
	inner, ok := strings.CutPrefix(word, "[")
	inner, ok2 := strings.CutSuffix(inner, "]")
	packets, bytes, ok3 := strings.Cut(inner, ":")
	return ok && ok2 && ok3 && decimal(packets) && decimal(bytes)
}

// restoreRule carries out a line of commands, such as "-A PREROUTING ...".
func (t *Table) restoreRule(line string) error {
	words := split(line)
	if len(words) > 0 && line[0] == '[' {
		if !counter(words[0]) {
			return wrong("expected counters like [0:0]")
		}
		words = words[1:]
	}
	if len(words) == 0 || elsewhere(words) {
		return nil
	}
	q := t.request()
	if err := q.parse(words); q.foreign {
		return nil // as iptables-restore: one text may serve both families
	} else if err != nil {
		return err
	}
	switch {
	case q.table != "":
		return wrong("The -t option cannot be used in iptables-restore.")
	case q.done || strings.IndexByte("AIDRFP", q.command) < 0:
		return wrong("only rules can be restored")
	}
	_, err := t.run(q)
	return err
}

// elsewhere reports a line that adds to a chain that PREROUTING does not
// reach.
func elsewhere(words []string) bool {
	verbs := []string{"-A", "--append", "-I", "--insert"}
	return len(words) > 1 && slices.Contains(verbs, words[0]) && words[1] != prerouting
}
