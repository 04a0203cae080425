package conformance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
)

var (
	kernelFlag = flag.Bool("kernel", false, "boot user-mode Linux and ask the kernel again (TestKernel)")
	recordFlag = flag.Bool("record", false, "with -kernel: write what the kernel answered, if it is the recorded release")
)

const referenceDir = "testdata/reference"

func TestMain(m *testing.M) {
	flag.Parse()
	if code, ran, _ := lab.Unshare(); ran {
		os.Exit(code)
	}
	os.Exit(m.Run()) // where namespaces are forbidden, tests that need them skip and say so
}

func loadRecording(name string) (Recording, error) {
	text, err := os.ReadFile(filepath.Join(referenceDir, name))
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
	r, err := loadRecording(name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func recordings(t *testing.T) map[string]Recording {
	t.Helper()
	files, err := os.ReadDir(referenceDir)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]Recording)
	for _, f := range files {
		all[f.Name()] = readRecording(t, f.Name())
	}
	return all
}

// TestKernel asks the real kernel all scenarios again and compares its answers
// with the recorded ones. Scenarios without answers get theirs with -record.
func TestKernel(t *testing.T) {
	if !*kernelFlag {
		t.Skip("the kernel is asked by: go test ./conformance -run TestKernel -kernel [-record]")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	recorded := recordings(t)
	scenarios := make(map[string]string)
	for name, r := range recorded {
		scenarios[name] = r.Source
	}
	guest := Guest{Module: "..", Log: func(console string) { t.Logf("console:\n%s", console) }}
	kernel, answers, err := guest.Play(ctx, scenarios)
	if errors.Is(err, ErrNoGuest) {
		t.Skip(err)
	}
	if err != nil {
		t.Error(err)
	}
	for name, got := range answers {
		t.Run(name, func(t *testing.T) {
			r := recorded[name]
			diff := Compare(r.Answers, got)
			if diff == "" {
				return
			}
			if *recordFlag && (r.Kernel == "" || r.Kernel == kernel) {
				r.Kernel, r.Answers = kernel, got
				if err := os.WriteFile(filepath.Join(referenceDir, name), []byte(r.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				t.Logf("recorded:\n%s", diff)
				return
			}
			t.Errorf("kernel %s answers otherwise than the recorded %q (-record keeps answers of the same release only):\n%s",
				kernel, r.Kernel, diff)
		})
	}
}
