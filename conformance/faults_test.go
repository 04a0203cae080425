package conformance

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var findFlag = flag.Bool("find", false, "TestFaults: play all scenarios, and write into testdata/faults which of them find the fault")

// fault is a deliberate mistake: a piece of a source file's text, and what it
// is replaced by when the program is built.
type fault struct {
	why, file, old, new string
	found               []string // scenarios that find it
}

func readFault(path string) (f fault, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return f, err
	}
	for line := range strings.Lines(string(text)) {
		word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch word {
		case "#":
			f.why = rest
		case "file":
			f.file = rest
		case "old":
			f.old = rest
		case "new":
			f.new = rest
		case "found":
			f.found = strings.Fields(rest)
		default:
			return f, fmt.Errorf("%s: no such word: %s", path, word)
		}
	}
	return f, nil
}

func (f fault) String() string {
	return fmt.Sprintf("# %s\nfile %s\nold %s\nnew %s\nfound %s\n", f.why, f.file, f.old, f.new, strings.Join(f.found, " "))
}

// source returns the source file without the fault, and where it is.
func (f fault) source(t *testing.T) (path, text string) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", f.file))
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(content), f.old); n != 1 {
		t.Fatalf("%s has %q %d times, want once: write the fault anew", f.file, f.old, n)
	}
	return path, string(content)
}

// build builds the program with the fault. The source stays as it is: the
// compiler is given another file in its place.
func (f fault) build(t *testing.T) (binary string) {
	t.Helper()
	source, text := f.source(t)
	dir := t.TempDir()
	wrong := filepath.Join(dir, "wrong.go")
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: wrong}})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{
		wrong:                              strings.Replace(text, f.old, f.new, 1),
		filepath.Join(dir, "overlay.json"): string(overlay),
	} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	binary = filepath.Join(dir, "ulvs")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, "./cmd/ulvs")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build with the fault: %v\n%s", err, out)
	}
	return binary
}

// TestFaults makes deliberate mistakes, one at a time, and wants the recorded
// scenarios to find each of them. Each is a build of the program: without -kernel a few are
// made, and the others can be. With -short none is: see make race.
func TestFaults(t *testing.T) {
	files, err := filepath.Glob("testdata/faults/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Errorf("%d faults, want ten", len(files))
	}
	all := recordings(t)
	for i, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			f, err := readFault(file)
			if err != nil {
				t.Fatal(err)
			}
			if few := i%4 == 0 && !testing.Short(); !few && !*kernelFlag && !*findFlag {
				f.source(t)
				return
			}
			as := quickUlvs(f.build(t), "afpacket")
			names := f.found
			if *findFlag {
				names = nil
				for _, name := range slices.Sorted(maps.Keys(all)) {
					if short, ok := strings.CutSuffix(name, ".txt"+QuickSuffix); ok {
						names = append(names, short)
					}
				}
			}
			if len(names) == 0 {
				t.Fatal("no scenario is said to find it: run with -find")
			}
			var rounds []*round
			for _, name := range names {
				r, ok := all[name+".txt"+QuickSuffix]
				if !ok {
					t.Fatalf("there is no scenario %s", name)
				}
				rounds = append(rounds, &round{name: name, Recording: r, as: as, compare: CompareNear})
			}
			inCompany(t.Context(), t, rounds)
			f.found = nil
			for _, o := range rounds {
				if o.err != nil {
					t.Skip(o.err)
				}
				if o.diff != "" {
					f.found = append(f.found, o.name)
				}
			}
			if *findFlag {
				t.Logf("found by %d: %v", len(f.found), f.found)
				f.found = f.found[:min(2, len(f.found))]
				if err := os.WriteFile(file, []byte(f.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if len(f.found) == 0 {
				t.Errorf("not found by %v: %s", names, f.why)
			}
		})
	}
}
