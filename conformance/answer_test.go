package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAnswerGolden formats what ipvsadm really printed (testdata/answer/*.in)
// as recordings show it (*.golden).
func TestAnswerGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/answer/*.in")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, in := range inputs {
		text, err := os.ReadFile(in)
		if err != nil {
			t.Fatal(err)
		}
		golden, err := os.ReadFile(strings.TrimSuffix(in, ".in") + ".golden")
		if err != nil {
			t.Fatal(err)
		}
		got := answer([]string{"ipvsadm", "-x"}, 0, string(text))
		want := strings.Split(strings.TrimSuffix(string(golden), "\n"), "\n")
		if d := Diff(want, got); d != "" {
			t.Errorf("%s:\n%s", in, d)
		}
	}
}

func TestRoundExpiry(t *testing.T) {
	for in, want := range map[string]string{
		"TCP 00:59  NONE x":  "TCP ~60s  NONE x",
		"TCP 14:59  NONE x":  "TCP ~900s  NONE x",
		"TCP 00:22  NONE x":  "TCP ~25s  NONE x",
		"TCP 00:23  NONE x":  "TCP ~25s  NONE x",
		"TCP 00:12  NONE x":  "TCP ~15s  NONE x",
		"TCP 00:01  NONE x":  "TCP ~0s  NONE x",
		"IP  120:00 NONE x":  "IP  ~7200s NONE x",
		"no time 00:10 here": "no time 00:10 here",
	} {
		if got := roundExpiry(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestRecordings(t *testing.T) {
	for name, r := range recordings(t) {
		if _, err := ParseScenario(r.Source); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		text, err := os.ReadFile(recordingPath(name))
		if err != nil {
			t.Fatal(err)
		}
		if d := Diff(strings.Split(string(text), "\n"), strings.Split(r.String(), "\n")); d != "" {
			t.Errorf("%s is not as it would be written:\n%s", name, d)
		}
	}
	fresh, err := ParseRecording("# scenario\nshow -Ln\n")
	if err != nil || fresh.Source != "show -Ln\n" || fresh.Answers != nil {
		t.Errorf("an unplayed scenario: %+v, %v", fresh, err)
	}
	if _, err := ParseRecording("# scenario\nshow -Ln\n\n# what the kernel did\nx\n"); err == nil {
		t.Error("answers of no kernel are accepted")
	}
}

// TestCoverage wants everything that Generate can say in the recordings.
func TestCoverage(t *testing.T) {
	said := make(Coverage)
	for _, r := range recordings(t) {
		said.Add(r.Source)
	}
	want := []string{
		"family IPv4", "family IPv6", "protocol tcp", "protocol udp", "protocol sctp", "protocol icmp", "iptables", "ip6tables",
		"option -M", "option -b", "option -f", "option -o", "option -p", "option -x", "option -y", "option --pe", "sleep",
	}
	want = append(want, verbsAndMore()...)
	for _, w := range want {
		if said[w] == 0 {
			t.Errorf("no recording says %q", w)
		}
	}
}

func TestDiff(t *testing.T) {
	want := strings.Split("a b c d e f g h", " ")
	if d := Diff(want, want); d != "" {
		t.Errorf("of equals: %s", d)
	}
	got := strings.Split("a b c X e f g h i", " ")
	const golden = "  …\n  b\n  c\n- d\n+ X\n  e\n  f\n  g\n  h\n+ i\n"
	if d := Diff(want, got); d != golden {
		t.Errorf("got\n%swant\n%s", d, golden)
	}
	if d := Diff(nil, []string{"a"}); d != "+ a\n" {
		t.Errorf("of nothing: %q", d)
	}
}

func TestCompareNear(t *testing.T) {
	for _, c := range []struct {
		want, got string
		same      bool
	}{
		{"  TCP ~60s  NONE x", "  TCP ~55s  NONE x", true},
		{"  TCP ~60s  NONE x", "  TCP ~50s  NONE x", false},
		{"  TCP  1.2.3.4:80   5  10  1  600  108", "  TCP  1.2.3.4:80   5  10  0  600    0", true},
		{"    -> 1.2.3.4:80   5  10  1  600  108", "    -> 1.2.3.4:80   5  10  0  600    0", true},
		{"  TCP  1.2.3.4:80   5  10  0  600    0", "  TCP  1.2.3.4:80   5  11  0  600    0", false},
		{"  TCP  1.2.3.4:80   5  10  0  600    0", "  TCP  1.2.3.4:80   5  10  0  601    0", false},
	} {
		if d := CompareNear([]string{c.want}, []string{c.got}); (d == "") != c.same {
			t.Errorf("%q and %q: %s", c.want, c.got, d)
		}
	}
}

func TestTCPFlags(t *testing.T) {
	for letters, want := range map[string]byte{"": 0, "S": 2, "SA": 18, "FA": 17, "RA": 20, "FSRPAUEC": 255} {
		if got, err := tcpFlags(letters); got != want || err != nil {
			t.Errorf("%s: %d, %v", letters, got, err)
		}
	}
}

func TestCompareUnsorted(t *testing.T) {
	listing := func(command, services string) []string {
		return strings.Split("$ ipvsadm "+command+" (exit 0)\n  IP Virtual\n  Prot Local\n    -> Remote\n"+services+"#1 x -> rst", "\n")
	}
	const one, two, turned = "  TCP  a:1\n    -> r\n    -> s\n", "  UDP  b:1\n    -> r\n", "  TCP  a:1\n    -> s\n    -> r\n"
	for _, c := range []struct {
		command, want, got string
		same               bool
	}{
		{"-Ln --nosort", one + two, two + one, true},
		{"-Ln", one + two, two + one, false},
		{"-Ln --nosort", one + two, two + turned, false},
		{"-Ln --nosort", one + two, one, false},
		{"-Ln --nosort", "", "", true},
	} {
		d := Compare(listing(c.command, c.want), listing(c.command, c.got))
		if (d == "") != c.same {
			t.Errorf("%s: %q and %q: %s", c.command, c.want, c.got, d)
		}
	}
}
