package latency

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

var (
	rounds     = flag.Int("rounds", 5, "how many rounds there are, after one to warm up")
	roundTrips = flag.Int("round-trips", 40_000, "how many round trips each contender makes in a round")
	connects   = flag.Int("connects", 1_000, "how many connections each contender opens in a round")
	only       = flag.String("only", "", "a regular expression: who takes part, as native/rr; who has no services always does")
)

// probeCPU in the environment is the CPU that this process and its children leave alone, but
// for the probe's thread.
const probeCPU = "ULVS_PROBE_CPU"

// TestMain moves the process to all CPUs but the last, before it has threads and children that
// would be elsewhere: they inherit that.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(probeCPU) == "" {
		if err := again(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	// Goroutines that wait in system calls, and the probe's, keep nobody else from running.
	runtime.GOMAXPROCS(8)
	os.Exit(m.Run())
}

// again starts this program anew in its own place, on all CPUs but the last.
func again() error {
	runtime.LockOSThread()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return fmt.Errorf("cannot read which CPUs there are: %w", err)
	}
	last := 0
	for cpu := range 8 * len(all) * strconv.IntSize / 8 {
		if all.IsSet(cpu) {
			last = cpu
		}
	}
	if all.Count() > 1 {
		all.Clear(last)
	}
	if err := unix.SchedSetaffinity(0, &all); err != nil {
		return fmt.Errorf("cannot leave CPU %d to the probe: %w", last, err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	err = unix.Exec(self, os.Args, append(os.Environ(), fmt.Sprint(probeCPU, "=", last)))
	return fmt.Errorf("cannot start anew: %w", err)
}

// pin moves the calling goroutine's thread, to which it is locked, to the probe's CPU, and back.
func pin() (back func(), err error) {
	cpu, err := strconv.Atoi(os.Getenv(probeCPU))
	if err != nil {
		return nil, err
	}
	var was, is unix.CPUSet
	if err := unix.SchedGetaffinity(0, &was); err != nil {
		return nil, err
	}
	is.Set(cpu)
	if err := unix.SchedSetaffinity(0, &is); err != nil {
		return nil, fmt.Errorf("cannot move to CPU %d: %w", cpu, err)
	}
	return func() { _ = unix.SchedSetaffinity(0, &was) }, nil
}
