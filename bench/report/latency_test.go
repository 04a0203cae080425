package main

import (
	"bytes"
	"flag"
	"io/fs"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden file anew")

// with is a folder in which one file is another's.
type with struct {
	fs.FS
	name, is string
}

func (w with) Open(name string) (fs.File, error) {
	if name == w.name {
		return os.Open(w.is)
	}
	return w.FS.Open(name)
}

// The section about latency, made of a short run on a busy machine: limits stand beside their
// figures, and those that do not hold are seen.
func TestLatency(t *testing.T) {
	files, err := render(with{os.DirFS("../.."), resultsDir + "/latency.txt", "testdata/latency.txt"})
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(files[page]), "\n## Latency\n")
	section, _, _ = strings.Cut(section, "\n## ")
	if *update {
		if err := os.WriteFile("testdata/latency.golden", []byte(section), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/latency.golden")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal([]byte(section), want) {
		t.Errorf("-update, if this is as it should be:\n%s", section)
	}
	for _, part := range []string{": pass)", ": **fail**)", "| native, rr |"} {
		if !strings.Contains(section, part) {
			t.Errorf("it has no %q", part)
		}
	}
}

// Before anybody has measured it, the page says so.
func TestNoLatency(t *testing.T) {
	files, err := render(with{os.DirFS("../.."), resultsDir + "/latency.txt", "testdata/none"})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(files[page]), "There are no results yet: `make bench-latency` makes them.") {
		t.Error("it does not")
	}
}
