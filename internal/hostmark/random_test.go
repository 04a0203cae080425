package hostmark_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ulvs/ulvs/fwmark"
)

// randomRule is the words of a rule; fwmark does not take all of them.
func randomRule(g *rand.Rand, ipv6 bool) string {
	var b strings.Builder
	pick := func(list ...string) string { return list[g.IntN(len(list))] }
	not := func() string { return pick("", "", "! ") }
	addrs := []string{"10.0.0.1", "10.1.2.3/32", "192.0.2.0/25", "10.0.0.0/8", "10.0.0.1/255.0.0.255", "128.0.0.0/1", "10.0.0.0/15"}
	if ipv6 {
		addrs = []string{"2001:db8::1", "2001:db8::/32", "2001:db8:8000::/33", "::1.2.3.4", "::/1", "2001:db8::1/ffff::ffff", "fe80::/10"}
	}
	port := func() int { return []int{0, 1, 80, 443, 8080, 65534, 65535}[g.IntN(7)] }
	ports := func() string {
		first, last := port(), port()
		switch {
		case g.IntN(2) == 0 || first == last:
			return fmt.Sprint(first)
		case first > last:
			first, last = last, first
		}
		return fmt.Sprintf("%d:%d", first, last)
	}
	for _, o := range []string{"-s", "-d"} {
		if g.IntN(2) == 0 {
			fmt.Fprintf(&b, "%s%s %s ", not(), o, pick(addrs...))
		}
	}
	if g.IntN(3) == 0 {
		fmt.Fprintf(&b, "%s-i %s ", not(), pick("eth0", "eth+", "abcdefghijklmno", "+", "lo"))
	}
	comment := func() {
		if g.IntN(4) == 0 {
			fmt.Fprintf(&b, `-m comment --comment "%s" `, pick("a", "two words", strings.Repeat("x", 255)))
		}
	}
	comment()
	marks := func() {
		if g.IntN(4) == 0 {
			fmt.Fprintf(&b, "-m mark %s--mark %#x/%s ", not(), g.IntN(16), pick("0", "0xf", "0xffffffff", "0xff00ff"))
		}
	}
	marks()
	switch proto := pick("", "icmp", "47", "tcp", "tcp", "udp", "sctp"); proto {
	case "":
	case "icmp", "47":
		b.WriteString(not() + "-p " + proto + " ")
	default:
		fmt.Fprintf(&b, "-p %s ", proto)
		if g.IntN(3) == 0 {
			fmt.Fprintf(&b, "-m %s ", proto)
		}
		if g.IntN(2) == 0 {
			fmt.Fprintf(&b, "%s--dport %s ", not(), ports())
		}
		if g.IntN(3) == 0 {
			fmt.Fprintf(&b, "%s--sport %s ", not(), ports())
		}
		marks()
		if g.IntN(3) == 0 {
			fmt.Fprintf(&b, "-m multiport %s%s %s", not(), pick("--sports", "--dports", "--ports"), ports())
			for range g.IntN(4) {
				b.WriteString("," + ports())
			}
			b.WriteByte(' ')
		}
	}
	comment()
	fmt.Fprintf(&b, "-j MARK %s %#x", pick("--set-mark", "--and-mark", "--or-mark", "--xor-mark", "--set-xmark"), g.Uint32())
	return b.String()
}

// What fwmark makes of a command and what is read back after the real program
// has carried it out is the same, rule by rule.
func TestRandom(t *testing.T) {
	// iptables-nft 1.8.9 makes of ! --sport 1 ! --dport 2 that not both are so,
	// which is what is read back, as two rules; fwmark means what the words say.
	both := regexp.MustCompile(`! --dport \d+ ! --sport \d+ `)
	for i, program := range []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"} {
		t.Run(program, func(t *testing.T) {
			h := newHost(t, program)
			g := rand.New(rand.NewPCG(7, uint64(i)))
			ipv6 := strings.HasPrefix(program, "ip6")
			table := fwmark.NewTable(ipv6)
			var lines []string
			for table.Len() < 400 {
				rule := "-A PREROUTING " + randomRule(g, ipv6)
				if strings.HasSuffix(program, "nft") && both.MatchString(rule) {
					continue
				}
				one := fwmark.NewTable(ipv6)
				if err := one.Restore("*mangle\n" + rule + "\nCOMMIT\n"); err != nil {
					continue
				}
				if err := table.Append(one.Rules()[0]); err != nil {
					t.Fatal(err)
				}
				lines = append(lines, rule)
			}
			// Not all at once: without root, netlink messages are limited.
			for chunk := range slices.Chunk(lines, 50) {
				run(t, h, program+"-restore --noflush <<'EOF'\n*mangle\n"+strings.Join(chunk, "\n")+"\nCOMMIT\nEOF")
			}
			r := read(t, h)
			got := r.V4
			if ipv6 {
				got = r.V6
			}
			if len(r.Unfollowed) > 0 {
				t.Errorf("not followed: %d, first %q", len(r.Unfollowed), r.Unfollowed[0])
			}
			want := table.Rules()
			lines = strings.Split(strings.TrimSpace(run(t, h, program+" -t mangle -S PREROUTING")), "\n")[1:]
			if len(got) != len(want) || len(lines) != len(want) {
				for i := range got {
					if !got[i].Equal(&want[i]) {
						t.Errorf("read back %v\nwant      %v\niptables  %s", got[i], want[i], lines[i])
						break
					}
				}
				t.Fatalf("%d rules, want %d of %d", len(got), len(want), len(lines))
			}
			for i := range want {
				if !got[i].Equal(&want[i]) {
					t.Errorf("read back %v\nwant      %v\niptables  %s", got[i], want[i], lines[i])
				}
			}
		})
	}
}
