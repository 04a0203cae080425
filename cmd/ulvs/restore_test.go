package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What Debian's ipvsadm saved of the kernel's tables is restored here and saved
// again, byte for byte. The other direction is conformance's TestRestore.
func TestDebianSaves(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../conformance/testdata/*/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	s.start("--interface", "eth0")
	restored := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, saved := range savedTables(string(text)) {
			for _, words := range [][]string{{"ipvsadm", "-C"}, {"ipvsadm", "-R"}} {
				out, code := s.ulvs(saved, words...)
				for line := range strings.Lines(out) { // -m and -i are restored, with a word
					if !strings.HasPrefix(line, "ulvs: warning: ") {
						code = -1
					}
				}
				if code != 0 {
					t.Fatalf("%s: %v: exit %d: %s", file, words, code, out)
				}
			}
			if out, code := s.ulvs("", "ipvsadm", "-Sn"); code != 0 || out != saved {
				t.Errorf("%s: exit %d, saved again:\n%s\nDebian's:\n%s", file, code, out, saved)
			}
			restored++
		}
	}
	if restored < 20 {
		t.Errorf("%d tables, want twenty or more", restored)
	}
	t.Logf("%d tables", restored)
}

// savedTables are the answers to ipvsadm -Sn in a recording.
func savedTables(recording string) (tables []string) {
	lines := strings.SplitAfter(recording, "\n")
	for i := range lines {
		if lines[i] != "$ ipvsadm -Sn (exit 0)\n" {
			continue
		}
		table := ""
		for _, l := range lines[i+1:] {
			if !strings.HasPrefix(l, "  -") {
				break
			}
			table += l[2:]
		}
		if table != "" {
			tables = append(tables, table)
		}
	}
	return tables
}
