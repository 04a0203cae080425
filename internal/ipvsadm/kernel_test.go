package ipvsadm

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
)

// recorded is one command line and what the real ipvsadm did on a real kernel.
// The files under testdata/kernel hold them:
//
//	--- a fresh table, in a network namespace of its own
//	conn "a line of /proc/net/ip_vs_conn"
//	$ the command line: words, JSON strings where needed
//	< a line of standard input, or a JSON string that is all of it
//	1 a line of standard output
//	2 a line of standard error
//	= the exit code
//
// A line of output that ends in a backslash had no newline.
type recorded struct {
	where          string
	fresh          bool
	conns          []ulvs.ConnStatus // of the table, from here on
	args           []string
	stdin          string
	stdout, stderr string
	exit           int
}

func readRecorded(t testing.TB, path string) []recorded {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(text), "# Recorded from ipvsadm v1.31 ") {
		t.Fatalf("%s: no header that says what it was recorded from", path)
	}
	var out []recorded
	cur := recorded{fresh: true}
	for i, l := range strings.Split(string(text), "\n") {
		where := fmt.Sprintf("%s:%d", filepath.Base(path), i+1)
		tag, rest, _ := strings.Cut(l, " ")
		line := strings.TrimSuffix(rest+"\n", "\\\n")
		switch tag {
		case "---":
			cur = recorded{fresh: true}
		case "conn":
			cur.conns = append(cur.conns, parseConn(t, jsonString(t, rest)))
		case "$":
			cur.where, cur.args = where, splitWords(t, rest)
		case "<":
			if strings.HasPrefix(rest, `"`) {
				line = jsonString(t, rest)
			}
			cur.stdin += line
		case "1":
			cur.stdout += line
		case "2":
			cur.stderr += line
		case "=":
			if cur.exit, err = strconv.Atoi(rest); err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			out = append(out, cur)
			cur = recorded{conns: cur.conns}
		case "#", "":
		default:
			t.Fatalf("%s: what is %q?", where, l)
		}
	}
	return out
}

func jsonString(t testing.TB, s string) (out string) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), &out); err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return out
}

// splitWords splits at single blanks; a part that begins with a quotation mark
// is a JSON string.
func splitWords(t testing.TB, s string) []string {
	t.Helper()
	var out []string
	word, have := "", false
	for s != "" {
		switch s[0] {
		case ' ':
			if have {
				out = append(out, word)
			}
			word, have, s = "", false, s[1:]
		case '"':
			dec := json.NewDecoder(strings.NewReader(s))
			var part string
			if err := dec.Decode(&part); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
			word, have, s = word+part, true, s[dec.InputOffset():]
		default:
			word, have, s = word+s[:1], true, s[1:]
		}
	}
	if have {
		out = append(out, word)
	}
	return out
}

// parseConn reads a line as ip_vs_conn_seq_show prints it.
func parseConn(t testing.TB, line string) (c ulvs.ConnStatus) {
	t.Helper()
	w := strings.Fields(line)
	if len(w) < 9 {
		t.Fatalf("conn %q: too short", line)
	}
	for _, p := range []ulvs.Protocol{0, ulvs.TCP, ulvs.UDP, ulvs.SCTP} {
		if p.String() == w[0] {
			c.Protocol = p
		}
	}
	addr := func(host, port string) netip.AddrPort {
		a, err := netip.ParseAddr(host)
		if err != nil {
			b, err := hex.DecodeString(host)
			if err != nil {
				t.Fatalf("conn %q: %v", line, err)
			}
			a, _ = netip.AddrFromSlice(b)
		}
		n, err := strconv.ParseUint(port, 16, 16)
		if err != nil {
			t.Fatalf("conn %q: %v", line, err)
		}
		return netip.AddrPortFrom(a, uint16(n))
	}
	c.Client, c.Virtual, c.Dest = addr(w[1], w[2]), addr(w[3], w[4]), addr(w[5], w[6])
	c.State = w[7]
	seconds, err := strconv.Atoi(w[8])
	if err != nil {
		t.Fatalf("conn %q: %v", line, err)
	}
	// The kernel cuts fractions of a second off.
	c.Expires = time.Duration(seconds)*time.Second + 999*time.Millisecond
	if len(w) > 9 {
		c.Engine = w[9]
	}
	if len(w) > 10 {
		c.EngineData = w[10]
	}
	return c
}

// testNames are the files that the recorded ipvsadm saw, and a name server that
// never answers, as there.
func testNames(hosts string) *SystemNames {
	n := namesFrom(hosts, "testdata/services", &net.Resolver{PreferGo: true})
	n.left = 0
	return n
}

func TestKernel(t *testing.T) {
	files, err := filepath.Glob("testdata/kernel/*.txt")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d files under testdata/kernel (%v)", len(files), err)
	}
	total := 0
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			var control *fakeControl
			for _, rec := range readRecorded(t, file) {
				total++
				if rec.fresh {
					control = newFake()
				}
				control.conns = rec.conns
				stdout, stderr, exit := runCommand(control, rec.stdin, rec.args)
				if exit != rec.exit || stdout != rec.stdout || stderr != rec.stderr {
					t.Errorf("%s: %q < %q\nexit %d, the original's %d\nstdout %q\noriginal %q\nstderr %q\noriginal %q",
						rec.where, rec.args, rec.stdin, exit, rec.exit, stdout, rec.stdout, stderr, rec.stderr)
				}
			}
		})
	}
	if total < 1000 {
		t.Errorf("only %d command lines were recorded", total)
	}
}

// runCommand runs a line over a table and gives the exit code as a shell sees it.
func runCommand(control ulvs.Control, stdin string, args []string) (stdout, stderr string, exit int) {
	return runWith(testNames("testdata/hosts"), control, stdin, args)
}

func runWith(names Names, control ulvs.Control, stdin string, args []string) (stdout, stderr string, exit int) {
	var out, errs bytes.Buffer
	c := Command{
		Control: control, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs,
		Lookup: names,
	}
	code := c.Run(args)
	return out.String(), errs.String(), int(uint8(code))
}
