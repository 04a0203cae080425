package ipvsadm

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fuzzTable is a table with something in it.
func fuzzTable() *fakeControl {
	f := busyTable()
	runCommand(f, "", []string{"ipvsadm", "-A", "-f", "7", "-p", "-M", "255.255.0.0"})
	return f
}

// FuzzCommand runs arbitrary words, joined by NUL: the line ends, with one of
// the original's codes, and says why unless it succeeded.
func FuzzCommand(f *testing.F) {
	files, _ := filepath.Glob("testdata/kernel/s*.txt")
	for _, file := range files {
		for i, rec := range readRecorded(f, file) {
			if i%8 == 0 {
				f.Add(strings.Join(rec.args, "\x00"))
			}
		}
	}
	f.Fuzz(func(t *testing.T, words string) {
		stdout, stderr, exit := runCommand(fuzzTable(), "", strings.Split(words, "\x00"))
		switch exit {
		case 0:
			if stderr != "" {
				t.Errorf("exit 0 with %q", stderr)
			}
		case 1, 2, 255:
			if stderr == "" || !strings.HasSuffix(stderr, "\n") {
				t.Errorf("exit %d with %q", exit, stderr)
			}
			if stdout != "" {
				t.Errorf("exit %d after %q", exit, stdout)
			}
		default:
			t.Errorf("exit %d", exit)
		}
	})
}

// FuzzRestore restores arbitrary text. What was made of it is saved, restored
// into an empty table, and saved again: both must be the same rules.
func FuzzRestore(f *testing.F) {
	files, _ := filepath.Glob("testdata/kernel/*.txt")
	for _, file := range files {
		text, lines := "", 0
		for _, rec := range readRecorded(f, file) {
			if rec.exit == 0 {
				text += rec.stdin + strings.Join(rec.args[1:], " ") + "\n"
				lines++
			}
			// Short ones: the fuzzer's minimizer takes a minute over a long one.
			if lines == 5 {
				f.Add(text)
				text, lines = "", 0
			}
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		first := newFake()
		_, stderr, exit := runCommand(first, text, []string{"ipvsadm", "-R"})
		if !slices.Contains([]int{0, 1, 2, 255}, exit) || exit != 0 && stderr == "" {
			t.Fatalf("exit %d with %q", exit, stderr)
		}
		saved, _, _ := runCommand(first, "", []string{"ipvsadm", "-Sn"})
		if strings.Contains(saved, "-f -") || strings.Contains(saved, " -b \n") {
			return // the original writes such rules and cannot read them
		}
		second := newFake()
		_, stderr, exit = runCommand(second, saved, []string{"ipvsadm", "-R"})
		if stderr != "" || exit != 0 {
			t.Fatalf("what was saved is refused: exit %d, %s\n%s", exit, stderr, saved)
		}
		again, _, _ := runCommand(second, "", []string{"ipvsadm", "-Sn"})
		if a, b := sortedLines(saved), sortedLines(again); !slices.Equal(a, b) {
			t.Errorf("saved:\n%s\nthen:\n%s", saved, again)
		}
	})
}

// sortedLines takes the order away, which is not the same for the same rules:
// see sort.go.
func sortedLines(s string) []string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return lines
}
