// Command uml is process 1 of the conformance guest: user-mode Linux on the
// host's files. It plays the scenarios in its own folder against the kernel's
// IPVS, writes the answers next to them, and switches the guest off. Package
// conformance starts it (Guest); it refuses to be anything but process 1.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ulvs/ulvs/conformance"
	"golang.org/x/sys/unix"
)

// parallel is how many scenarios play at once. They mostly sleep, and each has
// a stage of its own.
const parallel = 8

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
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	release := unix.ByteSliceToString(uts.Release[:])
	if err := leave(dir, conformance.KernelFile, release+"\n"); err != nil {
		return err
	}
	if words, err := os.ReadFile(filepath.Join(dir, conformance.ProgramFile)); err == nil {
		return program(strings.Split(string(words), "\n"))
	}
	work := make(chan string)
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() { worker(dir, work) })
	}
	defer wg.Wait()
	defer close(work)
	seen := make(map[string]bool)
	for {
		// Looked for first, so that what was there before is played.
		_, stop := os.Stat(filepath.Join(dir, conformance.StopFile))
		names, err := os.ReadDir(filepath.Join(dir, conformance.ScenarioDir))
		if err != nil {
			return err
		}
		for _, n := range names {
			if !seen[n.Name()] {
				seen[n.Name()] = true
				work <- n.Name()
			}
		}
		if stop == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// program runs one in place of scenarios.
func program(words []string) error {
	c := exec.Command(words[0], words[1:]...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	return c.Run()
}

// worker plays scenarios on a stage of its own.
func worker(dir string, work <-chan string) {
	quick := conformance.Theatre{
		Subject: conformance.Kernel{Quick: true}, Options: conformance.Options{NoResolve: true},
	}
	plain := conformance.Theatre{Subject: conformance.Kernel{}}
	for name := range work {
		t := &plain
		if strings.HasSuffix(name, conformance.QuickSuffix) {
			t = &quick
		}
		play(dir, name, t)
	}
	if err := errors.Join(quick.Close(), plain.Close()); err != nil {
		fmt.Println("guest:", err)
	}
}

// play plays one scenario and leaves its answers, or why there are none.
func play(dir, name string, t *conformance.Theatre) {
	path := filepath.Join(dir, conformance.ScenarioDir, name)
	answers, err := func() ([]string, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		sc, err := conformance.ParseScenario(string(text))
		if err != nil {
			return nil, err
		}
		return t.Play(context.Background(), sc)
	}()
	to, text := conformance.AnswerDir, strings.Join(answers, "\n")+"\n"
	if err != nil {
		to, text = conformance.ErrorDir, err.Error()
	}
	if err := errors.Join(leave(dir, filepath.Join(to, name), text), os.Remove(path)); err != nil {
		fmt.Println("guest:", err)
	}
}

// leave leaves a file for the host, which sees it when it is whole.
func leave(dir, name, text string) error {
	part := filepath.Join(dir, filepath.Base(name)+".left")
	if err := os.WriteFile(part, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(part, filepath.Join(dir, name))
}
