package xdp

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var faultTimes = flag.Int("faults", 0, "TestStatesFaults: how often each mistake is to be found")

// fault is a deliberate mistake that a test is to find: pieces of a source file's text, and
// what they are replaced by.
type fault struct {
	name, file string
	edits      [][2]string
}

var writersFaults = []fault{
	// The second edit takes away what makes the first harmless: that the key of a
	// free slot is nobody's.
	{"word before key", "internal/shtab/shtab.go", [][2]string{
		{"\ts.key = *k\n", "\tatomic.StoreUint64(&s.word, tagOf(h)<<ValueBits|value)\n\ts.key = *k\n"},
		{"\ts.key = Key{}\n}\n", "}\n"},
	}},
	{"no quarantine", "internal/expiring/expiring.go", [][2]string{{"\tif t.quarantine {\n", "\tif false {\n"}}},
}

var statesFaults = []fault{
	{"the program stores its state late", "dataplane/xdp/program/change.go", [][2]string{
		{"\t\tcompareAndSwap(entry, shtab.OffState, asm.R1, asm.Word),\n", "\t\tasm.StoreMem(entry, shtab.OffState, asm.R1, asm.Word),\n"},
	}},
	{"Go stores its state late", "conn/state.go", [][2]string{
		{"\tif !t.SwapState(id, was, is) {\n", "\tif t.SetState(id, is); false {\n"},
	}},
	{"what is opened is accepted without its ACK", "conn/changed.go", [][2]string{
		{"\t\tif !t.SwapState(id, was, is) {\n\t\t\tcontinue\n\t\t}\n\t\tif is&", "\t\tt.SetState(id, is)\n\t\tif is&"},
	}},
	{"a state is accepted that is over", "conn/changed.go", [][2]string{
		{"\t\tif !t.SwapState(id, was, is) {\n\t\t\tcontinue\n\t\t}\n\t\tif (was", "\t\tt.SetState(id, is)\n\t\tif (was"},
	}},
	{"a column is left without a count", "dataplane/xdp/program/change.go", [][2]string{
		{"\to.moveConn()\n", ""},
	}},
	{"a column is always left, never come to", "dataplane/xdp/program/change.go", [][2]string{
		{"\t\tasm.Sub.Imm(asm.R2, 1), // 1 or -1\n", "\t\tasm.Mov.Imm(asm.R2, -1),\n"},
	}},
	{"an end counts what is changed meanwhile", "forward/expire.go", [][2]string{
		{"!tb.conns.CloseState(id, false)", "false"},
	}},
	{"doubles stay counted", "forward/opener.go", [][2]string{{"o.conns.Opened(id, o.double)", "o.conns.Opened(id, nil)"}}},
	{"the program changes who is counted", "dataplane/xdp/program/change.go", [][2]string{
		{"\t\tasm.Or.Reg(asm.R1, asm.R0),\n", ""},
	}},
	{"a change is not told", "dataplane/xdp/program/change.go", [][2]string{{"\to.completeCell(conns)\n", ""}}},
	{"a change is told of another", "dataplane/xdp/program/change.go", [][2]string{{"1-1<<31", "2-1<<31"}}},
	{"a template is left where its service is not persistent any more", "forward/opener.go", [][2]string{
		{"\tct, ok := o.acceptNamed(named)\n", ""},
		{"\t\treturn true, 0\n\t}\n\tflow", "\t\treturn true, 0\n\t}\n\tct, ok := o.acceptNamed(named)\n\tflow"},
	}},
	{"a template is not told", "forward/opener.go", [][2]string{{"\t\t\to.templates.Assure(id)\n", ""}}},
	{"a double is freed twice", "internal/expiring/opener.go", [][2]string{
		{"\t\tt.End(id)\n\t\treturn false\n", "\t\tt.End(id)\n\t\tt.End(id)\n\t\treturn false\n"},
	}},
	{"slots are freed twice", "forward/upkeep.go", [][2]string{{"\tup.conns.Free(conns)\n", "\tup.conns.Free(conns)\n\tup.conns.Free(conns)\n"}}},
	{"a slot of 64 is never given back", "internal/expiring/expiring.go", [][2]string{
		{"\t\tt.retired = append(t.retired, i)\n", "\t\tif i%64 != 0 {\n\t\t\tt.retired = append(t.retired, i)\n\t\t}\n"},
	}},
	{"half-open for ever", "conn/changed.go", [][2]string{{"\t\t\tis &^= flagHalfOpen\n", ""}}},
}

// build builds the tests with the mistake, and returns how they are started.
func (f fault) build(t *testing.T) (test func(args ...string) (out []byte, took time.Duration)) {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip(err)
	}
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
	return func(args ...string) ([]byte, time.Duration) {
		t.Helper()
		start := time.Now()
		out, err := exec.CommandContext(t.Context(), binary, args...).CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return out, time.Since(start).Round(time.Millisecond)
	}
}

// TestWritersFaults builds the tests with a mistake in the table, one at a time, and
// has TestWriters find it, in each of its ways. A way ends when it has found it, most
// often within a second; two minutes are for a machine that is busy with something else.
func TestWritersFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the tests twice")
	}
	for _, f := range writersFaults {
		t.Run(f.name, func(t *testing.T) {
			out, took := f.build(t)("-test.run=^TestWriters$", "-test.v", "-writers=2m")
			ways := regexp.MustCompile(`(?m)^ +--- (\w+): TestWriters/.*`).FindAllSubmatch(out, -1)
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

// TestStatesFaults has TestOneTable find each mistake within a minute, so many times. How long a search takes is
// from the start of a test that is built to its end.
func TestStatesFaults(t *testing.T) {
	if *faultTimes == 0 {
		t.Skip("make faults builds the tests with each mistake")
	}
	for _, f := range statesFaults {
		t.Run(f.name, func(t *testing.T) {
			test := f.build(t)
			var took []time.Duration
			for range *faultTimes {
				out, d := test("-test.run=^TestOneTable$", "-test.v", "-test.timeout=1m", "-states=55s")
				reason := regexp.MustCompile(`round \d+: .*|was not forwarded.*|panic: .*`).Find(out)
				if reason == nil {
					t.Errorf("it was not found, in %v\n%s", d, out)
					continue
				}
				took = append(took, d)
				t.Logf("%v: %s", d, reason)
			}
			if slices.Sort(took); len(took) > 0 {
				t.Logf("found %d times of %d: median %v, worst %v", len(took), *faultTimes, took[len(took)/2], took[len(took)-1])
			}
		})
	}
}
