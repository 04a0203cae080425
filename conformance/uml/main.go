// Command uml is process 1 of the conformance guest: user-mode Linux on the
// host's files. It plays the scenarios in its own folder against the kernel's
// IPVS, writes the answers next to them, and switches the guest off. Package
// conformance starts it (Guest); it refuses to be anything but process 1.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/ulvs/ulvs/conformance"
	"golang.org/x/sys/unix"
)

// parallel is how many scenarios play at once. They mostly sleep, and each has
// a stage of its own.
const parallel = 4

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "this is the first process of a user-mode Linux guest; "+
			"run `go test ./conformance -run TestKernel -kernel` instead")
		os.Exit(2)
	}
	if err := serve(filepath.Dir(os.Args[0])); err != nil {
		fmt.Println("guest:", err)
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("guest: power off:", err)
	}
}

func serve(dir string) error {
	if err := prepare(dir); err != nil {
		return err
	}
	names, err := os.ReadDir(filepath.Join(dir, conformance.ScenarioDir))
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	tokens := make(chan struct{}, parallel)
	for _, name := range names {
		tokens <- struct{}{}
		wg.Go(func() {
			defer func() { <-tokens }()
			play(dir, name.Name())
		})
	}
	wg.Wait()
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	release := unix.ByteSliceToString(uts.Release[:])
	return os.WriteFile(filepath.Join(dir, conformance.KernelFile), []byte(release+"\n"), 0o644)
}

// play plays one scenario and leaves its answers, or why there are none.
func play(dir, name string) {
	answers, err := func() ([]string, error) {
		text, err := os.ReadFile(filepath.Join(dir, conformance.ScenarioDir, name))
		if err != nil {
			return nil, err
		}
		sc, err := conformance.ParseScenario(string(text))
		if err != nil {
			return nil, err
		}
		return conformance.Play(context.Background(), sc, conformance.Kernel{}, conformance.Options{})
	}()
	to, text := conformance.AnswerDir, strings.Join(answers, "\n")+"\n"
	if err != nil {
		to, text = conformance.ErrorDir, err.Error()
	}
	if err := os.WriteFile(filepath.Join(dir, to, name), []byte(text), 0o644); err != nil {
		fmt.Println("guest:", err)
	}
}
