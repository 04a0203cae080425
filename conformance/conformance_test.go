package conformance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
)

var (
	kernelFlag = flag.Bool("kernel", false, "boot user-mode Linux and ask the kernel again (TestKernel)")
	recordFlag = flag.Bool("record", false, "with -kernel: write what the kernel answered, if it is the recorded release")
)

// Recordings come in two kinds: long ones, each about one thing, and quick
// ones, most of them generated.
const (
	referenceDir = "testdata/reference"
	scenarioDir  = "testdata/scenarios"
	// differenceDir has what ulvs answers to scenarios of which DIFFERENCES.md says that it
	// answers otherwise than the kernel.
	differenceDir = "testdata/differences"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if code, ran, _ := lab.Unshare(); ran {
		os.Exit(code)
	}
	os.Exit(m.Run()) // where namespaces are forbidden, tests that need them skip and say so
}

func loadRecording(dir, name string) (Recording, error) {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return Recording{}, err
	}
	r, err := ParseRecording(string(text))
	if err != nil {
		return Recording{}, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

func readRecording(t *testing.T, name string) Recording {
	t.Helper()
	r, err := loadRecording(referenceDir, name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// recordings are all of them by the names that the guest gets.
func recordings(t *testing.T) map[string]Recording {
	t.Helper()
	all := make(map[string]Recording)
	for dir, suffix := range map[string]string{referenceDir: "", scenarioDir: QuickSuffix} {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			r, err := loadRecording(dir, f.Name())
			if err != nil {
				t.Fatal(err)
			}
			all[f.Name()+suffix] = r
		}
	}
	return all
}

// recordingPath is where the recording of that name is kept.
func recordingPath(name string) string {
	if file, ok := strings.CutSuffix(name, QuickSuffix); ok {
		return filepath.Join(scenarioDir, file)
	}
	return filepath.Join(referenceDir, name)
}

// bootGuest boots a kernel that ends with the test.
func bootGuest(ctx context.Context, t *testing.T) *Running {
	t.Helper()
	guest := startGuest(ctx, t)
	t.Cleanup(func() {
		if err := guest.Close(); err != nil {
			t.Error(err)
		}
	})
	return guest
}

// startGuest boots a kernel that the caller closes, maybe in a cleanup, which comes
// after the end of ctx.
func startGuest(ctx context.Context, t *testing.T) *Running {
	t.Helper()
	guest, err := Guest{Module: ".."}.Boot(context.WithoutCancel(ctx))
	if errors.Is(err, ErrNoGuest) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return guest
}

// TestKernel asks the real kernel all scenarios again and compares its answers
// with the recorded ones. Scenarios without answers get theirs with -record.
// The guest keeps the host's time, many scenarios at once: what differs is asked
// again, alone, before it counts.
func TestKernel(t *testing.T) {
	if !*kernelFlag {
		t.Skip("the kernel is asked by: go test ./conformance -run TestKernel -kernel [-record]")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	recorded := recordings(t)
	scenarios := make(map[string]string)
	for name, r := range recorded {
		scenarios[name] = r.Source
	}
	guest := bootGuest(ctx, t)
	answers, err := guest.AskAll(ctx, scenarios)
	if err != nil {
		t.Error(err)
	}
	for name, got := range answers {
		t.Run(name, func(t *testing.T) {
			r := recorded[name]
			compare := Compare
			if strings.HasSuffix(name, QuickSuffix) {
				compare = CompareNear
			}
			diff := compare(r.Answers, got)
			for n := 1; n <= alone && diff != "" && r.Kernel != "" && err == nil; n++ {
				t.Logf("it differs; asked again alone:\n%s", diff)
				// The ending says how it is played.
				got, err = guest.Ask(ctx, fmt.Sprintf("again-%d-%s", n, name), r.Source)
				diff = compare(r.Answers, got)
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff == "" {
				return
			}
			if *recordFlag && (r.Kernel == "" || r.Kernel == guest.Kernel) {
				r.Kernel, r.Answers = guest.Kernel, got
				if err := os.WriteFile(recordingPath(name), []byte(r.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				t.Logf("recorded:\n%s", diff)
				return
			}
			t.Errorf("kernel %s answers otherwise than the recorded %q (-record keeps answers of the same release only):\n%s",
				guest.Kernel, r.Kernel, diff)
		})
	}
}
