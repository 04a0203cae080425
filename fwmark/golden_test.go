package fwmark

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew from the real iptables (as root)")

func readFile(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// commands are the lines of a session: the words after `iptables -t mangle`.
func commands(t testing.TB, name string) []string {
	var list []string
	for line := range strings.Lines(readFile(t, name)) {
		if line = strings.TrimSuffix(line, "\n"); line != "" && line[0] != '#' {
			list = append(list, line)
		}
	}
	return list
}

func testTable(ipv6 bool) *Table {
	tb := NewTable(ipv6)
	tb.services = "testdata/services"
	return tb
}

// answer is what a command printed, in the form of the golden files.
func answer(line, stdout, stderr string, status int) string {
	s := "$ " + line + "\n" + stdout
	if stderr != "" {
		s += "! " + stderr + "\n"
	}
	if status != 0 {
		s += fmt.Sprintf("! exit %d\n", status)
	}
	return s
}

// ours carries a session out on a Table.
func ours(lines []string, ipv6 bool) string {
	var b strings.Builder
	tb := testTable(ipv6)
	for _, line := range lines {
		out, err := tb.Command(append([]string{"-t", "mangle"}, split(line)...))
		text, status := "", 0
		if e := (*Error)(nil); errors.As(err, &e) {
			text, status = e.Text, 1
			if e.Usage {
				status = 2
			}
		}
		b.WriteString(answer(line, out, text, status))
	}
	return b.String()
}

// theirs carries it out with the real program in a network namespace of its
// own. What differs between builds and programs is left out of stderr.
func theirs(t *testing.T, program string, lines []string) string {
	t.Helper()
	var b strings.Builder
	// One shell holds the namespace; each command's parts come back marked.
	shell := exec.Command("unshare", "-n", "sh", "-c", `while IFS= read -r dir; do
		(cd "$dir" && xargs -0 "$0" -t mangle <words >out 2>err; echo $? >status); done`, program)
	dir := t.TempDir()
	var input strings.Builder
	for i, line := range lines {
		d := fmt.Sprintf("%s/%d", dir, i)
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		words := strings.Join(split(line), "\x00") + "\x00"
		if err := os.WriteFile(d+"/words", []byte(words), 0o600); err != nil {
			t.Fatal(err)
		}
		input.WriteString(d + "\n")
	}
	shell.Stdin = strings.NewReader(input.String())
	if out, err := shell.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
	for i, line := range lines {
		d := fmt.Sprintf("%s/%d/", dir, i)
		var stderr []string
		for l := range strings.Lines(readFile(t, d+"err")) {
			l = strings.TrimSuffix(l, "\n")
			if before, after, ok := strings.Cut(l, ": "); ok && strings.HasPrefix(before, strings.TrimSuffix(program, "-legacy")) {
				l = strings.TrimSpace(after)
			}
			if l != "" && !strings.HasPrefix(l, "Try `") && !strings.HasPrefix(l, "# Warning") {
				stderr = append(stderr, l)
			}
		}
		var status int
		fmt.Sscan(readFile(t, d+"status"), &status)
		if status >= 123 { // xargs' own for a failed command
			status = 2
			if len(stderr) > 0 && stateText(stderr[0]) {
				status = 1
			}
		}
		b.WriteString(answer(line, readFile(t, d+"out"), strings.Join(stderr, "\n"), status))
	}
	return b.String()
}

func stateText(s string) bool {
	for _, t := range []string{textNoRule, textNoChain, textDeletion, textInsertion, textReplacement, textPolicy, textBuiltin,
		textChainExists, textFileExists} {
		if s == t {
			return true
		}
	}
	return strings.Contains(s, " failed (") // exit 4 with iptables-nft
}

var sessions = []struct {
	name, program string
	ipv6          bool
}{
	{"session4", "iptables", false},
	{"session6", "ip6tables", true},
}

// What iptables printed for the same commands is what ulvs prints. The golden
// files are the real program's answers (iptables 1.8.9, nf_tables).
func TestSessionGolden(t *testing.T) {
	for _, s := range sessions {
		t.Run(s.name, func(t *testing.T) {
			lines := commands(t, "testdata/"+s.name+".txt")
			golden := "testdata/" + s.name + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(theirs(t, s.program, lines)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			diff(t, ours(lines, s.ipv6), readFile(t, golden))
		})
	}
}

// The golden files are still what the real programs print.
func TestSessionReal(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for a network namespace: run it with sudo")
	}
	for _, s := range sessions {
		t.Run(s.name, func(t *testing.T) {
			version, err := exec.Command(s.program, "-V").Output()
			if err != nil || !bytes.Contains(version, []byte("v1.8.9 (nf_tables)")) {
				t.Skipf("needs Debian 12's %s (install the package iptables), found %q, %v", s.program, version, err)
			}
			lines := commands(t, "testdata/"+s.name+".txt")
			diff(t, theirs(t, s.program, lines), readFile(t, "testdata/"+s.name+".golden"))
		})
	}
}

// diff shows the first answers that differ.
func diff(t *testing.T, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n$ "), strings.Split(want, "\n$ ")
	shown := 0
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			t.Errorf("got:\n$ %s\nwant:\n$ %s", a, b)
			if shown++; shown == 40 {
				return
			}
		}
	}
}
