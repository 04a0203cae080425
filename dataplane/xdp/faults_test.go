package xdp

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// writersFaults are deliberate mistakes that TestWriters is to find: pieces of a
// source file's text, and what they are replaced by.
var writersFaults = []struct {
	name, file string
	edits      [][2]string
}{
	// The second edit takes away what makes the first harmless: that the key of a
	// free slot is nobody's.
	{"word before key", "internal/shtab/shtab.go", [][2]string{
		{"\ts.key = *k\n", "\tatomic.StoreUint64(&s.word, tagOf(h)<<ValueBits|value)\n\ts.key = *k\n"},
		{"\ts.key = Key{}\n}\n", "}\n"},
	}},
	{"no quarantine", "internal/expiring/expiring.go", [][2]string{{"\tif t.quarantine {\n", "\tif false {\n"}}},
}

// TestWritersFaults builds the tests with a mistake in the table, one at a time, and
// has TestWriters find it, in each of its ways. A way ends when it has found it, most
// often within a second; two minutes are for a machine that is busy with something else.
func TestWritersFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the tests twice")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip(err)
	}
	for _, f := range writersFaults {
		t.Run(f.name, func(t *testing.T) {
			source, err := filepath.Abs(filepath.Join("../..", f.file))
			if err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(source)
			if err != nil {
				t.Fatal(err)
			}
			text := string(raw)
			for _, e := range f.edits {
				if n := strings.Count(text, e[0]); n != 1 {
					t.Fatalf("%s has %q %d times, want once: write the fault anew", f.file, e[0], n)
				}
				text = strings.Replace(text, e[0], e[1], 1)
			}
			dir := t.TempDir()
			wrong, overlay, binary := filepath.Join(dir, "wrong.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "test")
			list, err := json.Marshal(map[string]map[string]string{"Replace": {source: wrong}})
			if err != nil {
				t.Fatal(err)
			}
			for path, content := range map[string]string{wrong: text, overlay: string(list)} {
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			build := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", overlay, "-o", binary, ".")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("build with the fault: %v\n%s", err, out)
			}
			start := time.Now()
			out, err := exec.CommandContext(t.Context(), binary, "-test.run=^TestWriters$", "-test.v", "-writers=2m").CombinedOutput()
			took := time.Since(start).Round(time.Millisecond)
			ways := regexp.MustCompile(`(?m)^ +--- (\w+): TestWriters/.*`).FindAllSubmatch(out, -1)
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			found := 0
			for _, w := range ways {
				switch string(w[1]) {
				case "FAIL":
					found++
				case "SKIP":
					t.Skipf("%s", out)
				}
				t.Logf("%s", w[0])
			}
			// For no other reason.
			reasons := regexp.MustCompile(`to the server of another connection|packets of \d+ were not forwarded`).FindAll(out, -1)
			if found == 0 || found != len(ways) || len(reasons) < found {
				t.Errorf("%d ways of %d found it, in %v\n%s", found, len(ways), took, out)
			}
		})
	}
}
