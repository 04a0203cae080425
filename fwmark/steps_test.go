package fwmark

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

var stepRounds = flag.Int("steps", 800, "for how many random tables TestSteps follows steps")

// stepLinks are the interfaces that steps know, of which packets come by one more.
var stepLinks = []Link{{7, "eth1"}, {3, "eth0"}, {9, "eth2"}}

func linkName(number uint32) string {
	for _, l := range stepLinks {
		if l.Number == number {
			return l.Name
		}
	}
	return "lo"
}

// checkSteps holds a list to its form: it leads forward, and to every step.
func checkSteps(t *testing.T, list []Step) {
	t.Helper()
	reached := make([]bool, len(list)+1)
	reached[0] = true
	for i, s := range list {
		if !reached[i] || int(s.Field) >= len(Inputs{}) {
			t.Fatalf("nothing leads to step %d, or it has no field: %+v", i, list)
		}
		for _, to := range []uint16{s.Yes, s.No} {
			switch {
			case to == Done || to == Undecided:
			case int(to) <= i || int(to) >= len(list):
				t.Fatalf("step %d leads to %d of %+v", i, to, list)
			default:
				reached[to] = true
			}
		}
	}
	if len(list) > MaxSteps {
		t.Fatalf("%d steps", len(list))
	}
}

// blind reports whether a packet meets what steps can look at of a rule's conditions, marks aside,
// where there are others as well.
func blind(rules []Rule, in *Input) bool {
	return slices.ContainsFunc(rules, func(r Rule) bool {
		var left []Match
		others := false
		for _, m := range r.Matches {
			switch m.Kind {
			case MatchMAC, MatchTOS, MatchDSCP, MatchAddrType:
				others = true
				continue
			case MatchMark:
				continue
			}
			others = others || !m.Flags.Any()
			m.Flags = TCPFlags{}
			left = append(left, m)
		}
		r.Matches = left
		return others && r.IPv6 == in.Packet.Is6 && oracleMatches(r, in, 0)
	})
}

// Steps give packets the marks that reading the rules gives, and leave those alone undecided that meet
// a condition that no step can look at, or come by an interface that is not known.
func TestSteps(t *testing.T) {
	g := rand.New(rand.NewPCG(15, 16))
	followed, marked, undecided, longest, strange := 0, 0, 0, 0, 0
	for round := range *stepRounds {
		ipv6 := round%2 == 1
		tb := testTable(ipv6)
		lines := randomChains(g, ipv6, 1+g.IntN(16))
		if round%4 > 0 { // conditions that steps can look at
			lines = slices.DeleteFunc(append(lines, randomChains(g, ipv6, 30)[5:]...), func(line string) bool {
				return slices.ContainsFunc(strings.Fields("mac tos dscp addrtype syn tcp-flags"), func(word string) bool {
					return strings.Contains(line, word)
				})
			})
		}
		if err := tb.Restore("*mangle\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"); err != nil {
			t.Fatal(err)
		}
		rules := tb.Rules()
		set := Compile(rules)
		f := NewPartial(rules, ipv6, stepLinks)
		for range 200 {
			in := randomPacket(g)
			p := in.Packet
			if p.Is6 != ipv6 || portModule(p.Proto) == "" || p.FragOffset > 0 {
				continue
			}
			link := []uint32{3, 3, 7, 7, 9, 5, 100}[g.IntN(7)]
			in.In = linkName(link)
			o := outcomeAt(t, f.Outcomes(p.Dest(), p.Proto), p.Flow.VirtualPort())
			want := oracle(rules, in)
			if got := set.Mark(in); got != want {
				t.Fatalf("mark %#x, want %#x", got, want)
			}
			mark, decided := o.Mark, o.Certain
			if len(o.Steps) > 0 {
				checkSteps(t, o.Steps)
				mark, decided = Follow(o.Steps, InputsOf(p, link))
				longest = max(longest, len(o.Steps))
				if followed++; decided && want != 0 {
					marked++
				}
			}
			switch {
			case decided && mark == want:
			case decided:
				t.Fatalf("%v by %s gets %#x, want %#x, by %+v of\n%s", p.Flow, in.In, mark, want, o, strings.Join(lines, "\n"))
			case in.In == "lo" && strings.Contains(tb.Save(), " -i "):
				strange++
			case !blind(rules, in):
				t.Fatalf("%v by %s is undecided by %+v of\n%s", p.Flow, in.In, o, strings.Join(lines, "\n"))
			default:
				undecided++
			}
		}
	}
	t.Logf("%d packets followed steps, up to %d, of which %d got marks; %d were undecided, and %d by another interface",
		followed, longest, marked, undecided, strange)
	if n := *stepRounds; followed < 12*n || marked < 3*n || undecided < n/2 || strange < n/20 || longest < 20 {
		t.Error("that was not much")
	}
}

// What people's rules come to: a step a rule and client's network.
func TestStepsOf(t *testing.T) {
	const vip = "-d 192.0.2.1 -p tcp "
	for _, tt := range []struct{ name, rules, want string }{
		{"a client", vip + "-s 10.0.0.0/8 -j MARK --set-mark 10",
			"0: source 0 & ff000000 in a000000-a000000: &0^a done, else done"},
		{"another client", vip + "! -s 10.0.0.0/8 -j MARK --set-mark 10",
			"0: source 0 & ff000000 in a000001-9ffffff: &0^a done, else done"},
		{"ports", vip + "--sport 1024:2047 -j MARK --or-mark 2",
			"0: port & ffff in 400-7ff: &fffffffd^2 done, else done"},
		{"clients in turn", vip + "-s 10.0.0.0/8 -j MARK --set-mark 10\n" + vip + "-s 10.1.0.0/16 -j MARK --set-mark 11",
			"0: source 0 & ff000000 in a000000-a000000: &0^a 1, else 1\n" +
				"1: source 0 & ffff0000 in a010000-a010000: &0^b done, else done"},
		{"one of several ports", vip + "-m multiport --sports 80,443 -j MARK --set-mark 10",
			"0: port & ffff in 50-50: &0^a done, else 1\n" +
				"1: port & ffff in 1bb-1bb: &0^a done, else done"},
		{"the rest", vip + "-s 10.0.0.0/8 -j ACCEPT\n" + vip + "-j MARK --set-mark 10",
			"0: source 0 & ff000000 in a000001-9ffffff: &0^a done, else done"},
		{"by interface", vip + "-i eth0 -j MARK --set-mark 10",
			"0: interface & ffffffff in 3-3: 3, else 1\n1: interface & ffffffff in 7-7: 3, else 2\n" +
				"2: interface & ffffffff in 9-9: 3, else undecided\n3: interface & ffffffff in 3-3: &0^a done, else done"},
		{"by all there are", vip + "-i eth+ -j MARK --set-mark 10",
			"0: interface & ffffffff in 3-3: 3, else 1\n1: interface & ffffffff in 7-7: 3, else 2\n" +
				"2: interface & ffffffff in 9-9: 3, else undecided\n3: source 0 & 0 in 0-ffffffff: &0^a done, else done"},
		{"flags", vip + "-s 10.0.0.0/8 --syn -j MARK --set-mark 10",
			"0: source 0 & ff000000 in a000000-a000000: undecided, else done"},
		{"a mark that is known", vip + "-j MARK --set-mark 1\n" + vip + "-m mark --mark 1 -s 10.0.0.0/8 -j MARK --set-mark 10",
			"0: source 0 & 0 in 0-ffffffff: &0^1 1, else 1\n1: source 0 & ff000000 in a000000-a000000: &0^a done, else done"},
		{"a mark that is not", vip + "-s 10.0.0.0/8 -j MARK --set-mark 1\n" + vip + "-m mark --mark 1 -j MARK --set-mark 10",
			"0: source 0 & ff000000 in a000000-a000000: &0^1 1, else 1\n1: mark & ffffffff in 1-1: &0^a done, else done"},
		{"what makes no difference", vip + "-s 10.0.0.0/8 -j A\n" + vip + "-j MARK --set-mark 10\n-A A -j RETURN", "certain a"},
		{"a range", vip + "-m iprange --src-range 10.0.0.5-10.0.0.9 -j MARK --set-mark 10",
			"0: source 0 & ffffffff in a000005-a000009: &0^a done, else done"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := ""
			for line := range strings.Lines(tt.rules) {
				if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-A") {
					line = "-A PREROUTING " + line
				}
				text += line + "\n"
			}
			tb := NewTable(false)
			if err := tb.Restore("*mangle\n:A -\n" + text + "COMMIT\n"); err != nil {
				t.Fatal(err)
			}
			list := NewPartial(tb.Rules(), false, stepLinks).Outcomes(netip.MustParseAddr("192.0.2.1"), tcp)
			if got := stepsText(list[0]); got != tt.want {
				t.Errorf("%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func stepsText(o Outcome) string {
	if o.Certain {
		return fmt.Sprintf("certain %x", o.Mark)
	}
	to := func(n uint16) string {
		return map[bool]string{true: map[uint16]string{Done: "done", Undecided: "undecided"}[n], false: fmt.Sprint(n)}[n >= Undecided]
	}
	var lines []string
	for i, s := range o.Steps {
		field := map[Field]string{FieldPort: "port", FieldInterface: "interface", FieldMark: "mark"}[s.Field]
		if field == "" {
			field = fmt.Sprint("source ", s.Field)
		}
		change := ""
		if !s.idle() {
			change = fmt.Sprintf("&%x^%x ", s.And, s.Xor)
		}
		lines = append(lines, fmt.Sprintf("%d: %s & %x in %x-%x: %s%s, else %s", i, field, s.Mask, s.Low, s.Low+s.Span, change, to(s.Yes), to(s.No)))
	}
	return strings.Join(lines, "\n")
}

// Where there would be more steps than are followed there are none, nor where chains are gone through
// without end; a rule that no packet to the destination meets costs none.
func TestStepsBound(t *testing.T) {
	to := netip.MustParseAddr("192.0.2.1")
	outcome := func(text string) Outcome {
		tb := NewTable(false)
		if err := tb.Restore("*mangle\n" + text + "COMMIT\n"); err != nil {
			t.Fatal(err)
		}
		return NewPartial(tb.Rules(), false, nil).Outcomes(to, tcp)[0]
	}
	for n := MaxSteps - 1; n <= MaxSteps+1; n++ {
		var text strings.Builder
		for i := range n {
			fmt.Fprintf(&text, "-A PREROUTING -d 192.0.2.1 -s 10.1.%d.%d -j MARK --set-mark %d\n", i/256, i%256, i+1)
			fmt.Fprintf(&text, "-A PREROUTING -d 192.0.2.2 -s 10.2.%d.%d -j MARK --set-mark %d\n", i/256, i%256, i+1)
		}
		want := n
		if n > MaxSteps {
			want = 0
		}
		if o := outcome(text.String()); len(o.Steps) != want || o.Certain {
			t.Errorf("%d rules: %d steps, want %d", n, len(o.Steps), want)
		}
	}
	var text strings.Builder
	for i := range 10 {
		fmt.Fprintf(&text, ":%c -\n", 'A'+i)
	}
	for i := range 9 {
		for range 30 {
			fmt.Fprintf(&text, "-A %c -j %c\n", 'A'+i, 'A'+i+1)
		}
	}
	if o := outcome(text.String() + "-A PREROUTING -j A\n-A J -j MARK --xor-mark 1\n"); len(o.Steps) > 0 || o.Certain {
		t.Errorf("%+v", o)
	}
}

// Ranges of the source are exact at their ends.
func TestStepsRange(t *testing.T) {
	g := rand.New(rand.NewPCG(17, 18))
	inside := 0
	for range 3000 {
		var words [3][]uint32
		for i := range words {
			for range 4 {
				words[i] = append(words[i], []uint32{0, 1, 2, 3, 1<<32 - 2, 1<<32 - 1}[g.IntN(6)])
			}
		}
		first, last := words[0], words[1]
		if n := g.IntN(4); g.IntN(2) == 0 {
			copy(last, first[:n])
		}
		if slices.Compare(first, last) > 0 {
			first, last = last, first
		}
		w := evaluation{listing: newListing()}
		start, yes := w.here, newLabel()
		w.testRange(first, last, 0, yes, w.done)
		w.place(yes)
		w.change(1, 1)
		w.leave(w.done)
		list, _ := w.finish(start)
		for range 30 {
			var in Inputs
			at := words[2]
			for i := range at {
				if at[i] = in[i]; g.IntN(3) == 0 {
					at[i] = []uint32{0, 1, 2, 3, 1<<32 - 2, 1<<32 - 1}[g.IntN(6)]
				} else {
					at[i] = words[g.IntN(2)][i]
				}
			}
			copy(in[:], at)
			want := uint32(0)
			if slices.Compare(first, at) <= 0 && slices.Compare(at, last) <= 0 {
				want = 1
				inside++
			}
			if mark, decided := Follow(list, in); mark != want || !decided {
				t.Fatalf("%x in %x-%x: %d, %v by %s", at, first, last, mark, decided, stepsText(Outcome{Steps: list}))
			}
		}
	}
	if inside < 10000 {
		t.Errorf("%d were inside", inside)
	}
}
