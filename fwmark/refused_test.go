package fwmark

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Words that ulvs answers in another way than iptables: mostly rules that it
// cannot evaluate. Refused ones name the rule and change nothing.
func TestRefusedGolden(t *testing.T) {
	for name, ipv6 := range map[string]bool{"refused4": false, "refused6": true} {
		t.Run(name, func(t *testing.T) {
			lines := commands(t, "testdata/"+name+".txt")
			var b strings.Builder
			for _, line := range lines {
				tb := testTable(ipv6)
				words := split(line)
				if words[0] != "-t" {
					words = append(words, "-t", "mangle")
				}
				out, err := tb.Command(words)
				b.WriteString("$ " + line + "\n" + out)
				for _, r := range tb.Rules() {
					b.WriteString(r.String() + "\n")
				}
				e := (*Error)(nil)
				if !errors.As(err, &e) {
					continue
				}
				b.WriteString("! " + e.Error() + "\n")
				if tb.Len() != 0 {
					t.Errorf("%s: refused, but applied", line)
				}
				if e.Usage && e.Rule != join(words) {
					t.Errorf("%s: the error's rule is %q", line, e.Rule)
				}
			}
			golden := "testdata/" + name + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			diff(t, b.String(), readFile(t, golden))
		})
	}
}

// Words that iptables refuses too, which its recorded answers lack.
func TestRefusedWords(t *testing.T) {
	for words, want := range map[string]string{
		"-A PREROUTING -p icmpv6 --icmpv6-type router": "Ambiguous ICMPv6 type `router': ",
		"-A PREROUTING -p icmpv6 --icmpv6-type 1/x":    "Unknown ICMPv6 code `1/x'",
		"-N ": "chain name not allowed to be empty",
	} {
		args := append(strings.Split(words, " "), "-t", "mangle")
		if _, err := testTable(true).Command(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", words, err, want)
		}
	}
	if err := testTable(false).Restore("*mangle\n[0] -A PREROUTING -j ACCEPT\nCOMMIT\n"); err == nil ||
		!strings.Contains(err.Error(), "line 2: expected counters like [0:0]") {
		t.Error(err)
	}
}

// Without -t mangle, or with another table, that is said before all else.
func TestOtherTable(t *testing.T) {
	for _, tc := range []struct{ words, want string }{
		{"-A INPUT -p tcp --syn -j ACCEPT", "no table was given"},
		{"-L -n", "no table was given"},
		{"-t nat -A PREROUTING -j DNAT --to 1.2.3.4", "table `nat'"},
		{"-A PREROUTING --syn -t mangle", "unknown option \"--syn\""},
		{"-A PREROUTING --syn --table mangle", "unknown option \"--syn\""},
	} {
		_, err := testTable(false).Command(split(tc.words))
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.words) {
			t.Errorf("%s: got error %v, want one with %q", tc.words, err, tc.want)
		}
	}
}

// The library's own verbs hold to the same rules as commands.
func TestTableMethods(t *testing.T) {
	tb := testTable(false)
	parse := func(s string) Rule {
		p := testTable(false)
		if _, err := p.Command(append([]string{"-t", "mangle", "-A", "PREROUTING"}, split(s)...)); err != nil {
			t.Fatal(err)
		}
		return p.Rules()[0]
	}
	a, b, c := parse("-p tcp --dport 80 -j MARK --set-mark 1"), parse("-j MARK --set-mark 2"), parse("-p udp -j MARK --set-mark 3")
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(rules ...Rule) {
		t.Helper()
		got := tb.Rules()
		if len(got) != len(rules) {
			t.Fatalf("got %v, want %v", got, rules)
		}
		for i := range got {
			if !got[i].Equal(&rules[i]) {
				t.Fatalf("rule %d is %v, want %v", i+1, got[i], rules[i])
			}
		}
	}
	ok(tb.Append(a))
	ok(tb.Insert(1, b))
	ok(tb.Insert(3, c))
	want(b, a, c)
	copied := tb.Clone()
	ok(tb.Replace(2, c))
	want(b, c, c)
	ok(tb.Delete(c))
	want(b, c)
	ok(tb.DeleteNumber("", 1))
	want(c)
	if copied.Len() != 3 || copied.Is6() {
		t.Error("the clone changed with its original")
	}
	for name, tc := range map[string]struct {
		err  error
		text string
	}{
		"insert 0":  {tb.Insert(0, a), textInsertion},
		"insert 3":  {tb.Insert(3, a), textInsertion},
		"replace 2": {tb.Replace(2, a), textReplacement},
		"delete":    {tb.Delete(a), textNoRule},
		"number 2":  {tb.DeleteNumber("", 2), textDeletion},
		"family":    {tb.Append(Rule{IPv6: true}), "no such rule"},
		"kind":      {tb.Append(Rule{Matches: []Match{{}}}), "no such rule"},
		"protocol":  {tb.Append(Rule{Matches: []Match{{Kind: MatchPorts}}}), "is not evaluated"},
		"comment":   {tb.Append(Rule{Matches: []Match{{Kind: MatchComment, Comment: "a\nb"}}}), "comment"},
		"interface": {tb.Append(Rule{In: Interface{Name: "a b"}}), "Bad argument"},
	} {
		if tc.err == nil || !strings.Contains(tc.err.Error(), tc.text) {
			t.Errorf("%s: got %v, want an error with %q", name, tc.err, tc.text)
		}
	}
	want(c)
	tb.Flush()
	want()
}

// A table has a bound, whichever way rules come.
func TestTooManyRules(t *testing.T) {
	list := "10.0.0.0"
	for i := range 299 {
		list += ",10.0." + strconv.Itoa(i>>8) + "." + strconv.Itoa(i&255)
	}
	words := split("-t mangle -A PREROUTING -s " + list + " -d " + list + " -j ACCEPT")
	if _, err := testTable(false).Command(words); err == nil || !strings.Contains(err.Error(), "iptables: too many addresses, in: ") {
		t.Errorf("%v", err)
	}
	tb := testTable(false)
	if err := tb.Restore("*mangle\n" + strings.Repeat("-A INPUT -j ACCEPT\n", maxRules) + "COMMIT\n"); err != nil {
		t.Fatal(err)
	}
	if err := tb.NewChain("c"); err == nil || !strings.Contains(err.Error(), "Too many rules.") {
		t.Error(err)
	}
}
