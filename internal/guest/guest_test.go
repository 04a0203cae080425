package guest

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var guests = flag.Bool("guests", false, "boot other kernels in qemu, and fetch them from Debian's mirror if need be (TestKernels, TestRun)")

var only = flag.String("only", ".", "which tests are played in guests (TestKernels)")

// series are the kernels that ulvs is tested on besides the machine's own.
var series = []string{"6.1", "6.12"}

func image(t *testing.T, series string) *Image {
	t.Helper()
	if !*guests {
		t.Skip("without -guests, no other kernel is asked")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	k, err := Kernel(ctx, series)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(k)
	return k
}

// compile builds the tests of a package for a guest.
func compile(t *testing.T, pkg string) (binary string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "test")
	build := exec.Command("go", "test", "-c", "-o", binary, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// skips are the tests that need not run in a guest, by name, and why not.
var skips = map[string]string{
	"TestDoubles":         "a guest has one CPU",
	"TestMadeEdits":       "a guest has one CPU",
	"TestMadeInterrupted": "a guest has one CPU",
	"TestMadeTwice":       "a guest has one CPU",
	"TestManyServices":    "a guest takes minutes, and has not the memory",
	"TestJumbosUnderWay":  "a guest has one CPU",
	"TestLines":           "a guest has one CPU",
	"TestOneTable":        "a guest has one CPU",
	"TestOrderUnderWay":   "a guest has one CPU",
	"TestStates":          "a guest has one CPU",
	"TestStatesFaults":    "a guest has no Go to build with",
	"TestWriters":         "a guest has one CPU",
	"TestWritersFaults":   "a guest has no Go to build with",
}

// plays are the packages whose tests are played in guests.
var plays = []struct {
	folder  string
	memory  int
	args    []string
	modules []string // what the tests need besides veth, bridge and nf_tables
	every   bool     // no part of a test may be skipped
}{
	{folder: "dataplane/xdp", memory: 1536, args: []string{"-pairs=3"}}, // two directors, and what outlives a third
	{folder: "dataplane/auto", memory: 768, modules: []string{"8021q", "bonding", "dummy", "sch_ingress", "cls_bpf"}, every: true},
}

// TestKernels has the XDP plane's own tests pass on other kernels: their verifiers
// accept its program, which then does what it does here; and those of VLANs and bonds,
// which the kernel of a builder may not have.
func TestKernels(t *testing.T) {
	if !*guests {
		t.Skip("without -guests, no other kernel is asked")
	}
	for _, p := range plays {
		folder := filepath.Join("../..", p.folder)
		binary := compile(t, folder)
		for _, s := range series {
			t.Run(s+" "+p.folder, func(t *testing.T) {
				t.Parallel() // a guest has one CPU
				kernel := image(t, s)
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
				defer cancel()
				var out bytes.Buffer
				o := Options{
					Kernel: kernel, Binary: binary, Memory: p.memory, Stdout: io.MultiWriter(&out, t.Output()),
					Args:    append([]string{"-test.v", "-test.run=" + *only, "-test.timeout=25m"}, p.args...),
					Modules: append([]string{"veth", "bridge", "nf_tables"}, p.modules...),
				}
				if data := filepath.Join(folder, "testdata"); exists(data) {
					o.Files = map[string]string{"testdata": data}
				}
				code, err := Run(ctx, o)
				if err != nil {
					t.Fatal(err)
				}
				if code != 0 {
					t.Errorf("exit %d", code)
				}
				verdicts := verdicts(out.String())
				for _, name := range testsIn(t, folder) {
					v := verdicts[name]
					if v != "PASS" && (v != "SKIP" || skips[name] == "") && (v != "" || *only == ".") {
						t.Errorf("%s: %q", name, v)
					}
				}
				for name, v := range verdicts {
					if p.every && v != "PASS" && skips[name] == "" {
						t.Errorf("%s: %q", name, v)
					}
				}
			})
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// testsIn returns the names of the tests in a folder, as they are written there: so
// a guest that ran none of them does not pass.
func testsIn(t *testing.T, folder string) (names []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Test[A-Z]\w*)\(\w+ \*testing\.T\)`).FindAllSubmatch(text, -1) {
			names = append(names, string(m[1]))
		}
	}
	if len(names) == 0 {
		t.Fatalf("no tests in %s", folder)
	}
	return names
}

// verdicts returns what became of each test, by what -test.v says.
func verdicts(output string) map[string]string {
	by := make(map[string]string)
	for _, m := range regexp.MustCompile(`(?m)^\s*--- (\w+): (\S+) \(`).FindAllStringSubmatch(output, -1) {
		by[m[2]] = m[1]
	}
	return by
}

// TestInside is what TestRun runs in a guest.
func TestInside(t *testing.T) {
	switch os.Getenv("GUEST_INSIDE") {
	case "":
		t.Skip("TestRun runs it, in a guest")
	case "hang":
		time.Sleep(time.Hour)
	case "die":
		if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
			t.Fatal(err)
		}
	case "signal":
		p, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = p.Kill()
		}
		t.Fatal(err)
	}
	text, err := os.ReadFile("sub/file")
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := os.ReadFile("/proc/modules")
	if err != nil {
		t.Fatal(err)
	}
	bits, err := os.ReadFile("/sys/module/ip_vs/parameters/conn_tab_bits")
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("file: " + string(text) + "\nbits: " + string(bits) + "modules:\n" + string(loaded))
	os.Exit(7)
}

// A guest hands over files, modules, output and status, and says what went wrong.
func TestRun(t *testing.T) {
	kernels := make(map[string]*Image)
	for _, s := range series {
		kernels[s] = image(t, s)
	}
	binary := compile(t, ".")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x\ty"), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(ctx context.Context, series, what string) (int, string, error) {
		var out bytes.Buffer
		code, err := Run(ctx, Options{
			Kernel: kernels[series], Binary: binary, Args: []string{"-test.run=^TestInside$"}, Env: []string{"GUEST_INSIDE=" + what},
			Files: map[string]string{"sub": dir}, Modules: []string{"nft-ct", "veth", "ip_vs"}, Parameters: map[string]string{"ip-vs": "conn_tab_bits=9"}, Stdout: &out, Icount: what == "icount",
		})
		return code, out.String(), err
	}
	// The modules of 6.1 are as they are, those of 6.12 are compressed.
	for series, what := range map[string]string{"6.1": "plain", "6.12": "icount"} {
		code, out, err := run(t.Context(), series, what)
		if err != nil || code != 7 {
			t.Errorf("%s: exit %d, %v", what, code, err)
		}
		for _, want := range []string{"file: x\ty\nbits: 9\nmodules:\n", "\nnfnetlink ", "\nnf_tables ", "\nnf_conntrack ", "\nnft_ct ", "\nveth "} {
			if !strings.Contains("\n"+out, want) {
				t.Errorf("%s: no %q in\n%s", what, want, out)
			}
		}
	}
	if code, _, err := run(t.Context(), "6.1", "signal"); err != nil || code != 128+9 {
		t.Errorf("killed: exit %d, %v", code, err)
	}
	if _, _, err := run(t.Context(), "6.1", "die"); err == nil || !strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("a kernel that dies: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	if _, _, err := run(ctx, "6.1", "hang"); err == nil || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
		t.Errorf("a program that hangs: %v", err)
	}
}
