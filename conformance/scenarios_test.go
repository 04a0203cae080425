package conformance

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
)

// together is how many scenarios play at once. They mostly sleep, but too many
// would make one another late.
const together = 6

// TestScenarios plays recorded scenarios against the daemon and wants the
// kernel's answers, once with the VIP on the director's interface, and once
// with the VIP nowhere, where the daemon has to answer ARP for it.
func TestScenarios(t *testing.T) {
	binary := buildUlvs(t)
	type round struct {
		name, file string
		opt        Options
		got        []string
		err        error
		done       chan struct{}
	}
	// The longest first.
	var rounds []*round
	for _, name := range []string{
		"persist-controlled", "persist-expiry", "seed-pcc", "rr-basic", "seed-ppc", "seed-fwm",
	} {
		rounds = append(rounds,
			&round{name: name + "/vip-on-interface", file: name + ".txt"},
			&round{name: name + "/vip-nowhere", file: name + ".txt", opt: Options{NoVIP: true}})
	}
	// It sends nothing. Nor does save-restore, which joins when ulvs has sh, mh
	// and the SIP engine.
	rounds = append(rounds, &round{name: "cli-errors", file: "cli-errors.txt"})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tokens := make(chan struct{}, together)
	for _, r := range rounds {
		r.done = make(chan struct{})
	}
	go func() { // t.Parallel would only play as many at once as there are CPUs
		for _, r := range rounds {
			tokens <- struct{}{}
			go func() {
				defer func() { <-tokens; close(r.done) }()
				r.got, r.err = playFile(ctx, r.file, Ulvs{Binary: binary}, r.opt)
			}()
		}
	}()
	for _, r := range rounds {
		t.Run(r.name, func(t *testing.T) {
			<-r.done
			if errors.Is(r.err, lab.ErrPrivileges) {
				t.Skipf("%v: run as root, or allow user namespaces", r.err)
			}
			if r.err != nil {
				t.Fatal(r.err)
			}
			if diff := Compare(readRecording(t, r.file).Answers, r.got); diff != "" {
				t.Errorf("ulvs (+) and the kernel (-) differ:\n%s", diff)
			}
		})
	}
}

func playFile(ctx context.Context, file string, s Subject, opt Options) ([]string, error) {
	r, err := loadRecording(file)
	if err != nil {
		return nil, err
	}
	sc, err := ParseScenario(r.Source)
	if err != nil {
		return nil, err
	}
	return Play(ctx, sc, s, opt)
}

// buildUlvs builds the program. It looks at the module's folders itself first,
// or go test would repeat a cached result after the program has changed: it
// knows only what the test's own process has read.
func buildUlvs(t *testing.T) string {
	t.Helper()
	err := filepath.WalkDir("..", func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == ".git" {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "ulvs")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/ulvs")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build ulvs: %v\n%s", err, out)
	}
	return binary
}
