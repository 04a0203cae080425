package fwmark

import (
	"errors"
	"strings"
	"testing"
)

// roundTrip holds a table's rules to what they print: the text parses to the
// same rules, alone and as a whole.
func roundTrip(t *testing.T, tb *Table) {
	t.Helper()
	again := testTable(tb.Is6())
	for _, c := range tb.chains[len(builtin):] {
		if err := again.NewChain(c.name); err != nil {
			t.Fatal(err)
		}
	}
	rules := tb.Rules()
	for _, r := range rules {
		if _, err := again.Command(append([]string{"-t", "mangle"}, split(r.String())...)); err != nil {
			t.Fatalf("%v: %v", r, err)
		}
	}
	text := tb.Save()
	diff(t, again.Save(), text)
	for i, r := range again.Rules() {
		if !r.Equal(&rules[i]) {
			t.Fatalf("%v parses to another rule", r)
		}
	}
	whole := testTable(tb.Is6())
	if err := whole.Restore(text); err != nil {
		t.Fatalf("%v of\n%s", err, text)
	}
	diff(t, whole.Save(), text)
	if !whole.Equal(tb) {
		t.Fatal("what is restored is not equal")
	}
	set := testTable(tb.Is6())
	if err := set.SetRules(rules); err != nil {
		t.Fatal(err)
	}
	Compile(rules)
}

// Words are separated by line feeds, so that a word may hold anything else.
func FuzzCommand(f *testing.F) {
	for _, s := range sessions {
		for _, line := range commands(f, "testdata/"+s.name+".txt") {
			f.Add(strings.Join(split(line), "\n"), s.ipv6)
		}
	}
	f.Fuzz(func(t *testing.T, words string, ipv6 bool) {
		tb := testTable(ipv6)
		if err := tb.Append(Rule{IPv6: ipv6, Protocol: tcp, Value: 1, Mask: 1}); err != nil {
			t.Fatal(err)
		}
		before := tb.Save()
		_, err := tb.Command(append([]string{"-t", "mangle"}, strings.Split(words, "\n")...))
		if err != nil {
			if e := (*Error)(nil); !errors.As(err, &e) || e.Text == "" || e.Program == "" {
				t.Fatalf("error without its parts: %#v", err)
			}
			diff(t, tb.Save(), before)
		}
		roundTrip(t, tb)
	})
}

func FuzzRestore(f *testing.F) {
	f.Add(saved, false)
	f.Add("*mangle\n:A - [0:0]\n:B - [0:0]\n-A PREROUTING -j A\n-A A -p tcp -g B\n-A B -j RETURN\n-E A C\n-A FORWARD -j B\n-X\nCOMMIT\n", false)
	f.Add(readFile(f, "testdata/saved.txt"), false)
	for _, s := range sessions {
		for _, line := range commands(f, "testdata/"+s.name+".txt") {
			f.Add("*mangle\n"+line+"\nCOMMIT\n", s.ipv6)
		}
	}
	f.Fuzz(func(t *testing.T, text string, ipv6 bool) {
		tb := testTable(ipv6)
		if err := tb.Append(Rule{IPv6: ipv6, Protocol: tcp, Value: 1, Mask: 1}); err != nil {
			t.Fatal(err)
		}
		before := tb.Save()
		if err := tb.Restore(text); err != nil {
			if e := (*Error)(nil); !errors.As(err, &e) || e.Line == 0 {
				t.Fatalf("error without its line: %#v", err)
			}
			diff(t, tb.Save(), before)
		}
		roundTrip(t, tb)
	})
}
