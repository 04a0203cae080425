package kernel

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// work is for how long the only processor was not idle since the guest began: user
// space, kernel and interrupts alike, which no clock of a thread or process counts
// together. In the guest it is a number of instructions.
func work() (time.Duration, error) {
	// Idle time to the nanosecond is only here; /proc/stat has it in ticks.
	text, err := os.ReadFile("/proc/timer_list")
	if err != nil {
		return 0, err
	}
	idle, err := idleIn(string(text))
	if err != nil {
		return 0, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, err
	}
	return time.Duration(now.Nano()) - idle, nil
}

// idleIn finds the idle time of the processor in what /proc/timer_list says
// (kernel/time/timer_list.c, print_cpu).
func idleIn(list string) (time.Duration, error) {
	const name = ".idle_sleeptime"
	switch n := strings.Count(list, name); n {
	case 1:
	case 0:
		return 0, fmt.Errorf("/proc/timer_list has no %s: the kernel does not stop its tick", name)
	default:
		return 0, fmt.Errorf("there are %d processors: the guest is to have one", n)
	}
	_, after, _ := strings.Cut(list, name)
	text, _, ok := strings.Cut(strings.TrimLeft(after, " :"), " nsecs")
	n, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil {
		return 0, fmt.Errorf("/proc/timer_list: %s is not understood: %.20q", name, after)
	}
	return time.Duration(n), nil
}

// settle waits until what earlier work has left to the kernel is done, such as
// clearing namespaces away, and returns for which share of the time the processor is not
// idle then, as who waits to take a turn has timers. Waiting takes no time outside of the
// guest.
func settle() (busy float64, err error) {
	const step, quiet, enough = 100 * time.Millisecond, 2 * time.Millisecond, 5
	var calm []float64
	for range 600 {
		took, err := during(func() { time.Sleep(step) })
		if err != nil {
			return 0, err
		}
		asking, err := during(func() {})
		if err != nil {
			return 0, err
		}
		if calm = append(calm, float64(took-asking)/float64(step)); took > quiet {
			calm = nil
		}
		if len(calm) == enough {
			return median(calm), nil // what comes once in a while is not in each round either
		}
	}
	return 0, fmt.Errorf("the guest did not come to rest in a minute of its time")
}

// during is how much work there was while f ran, and for asking once.
func during(f func()) (time.Duration, error) {
	before, err := work()
	if err != nil {
		return 0, err
	}
	f()
	after, err := work()
	return after - before, err
}

// slacken has the Go runtime's monitor look round each ten milliseconds, and not each 20
// microseconds. It does that after each system call that takes long, as all of the
// generator's do: 20 to 50 times a call, as it happens, of 5,000 instructions each, which
// were in some rounds and not in others.
func slacken() error {
	list, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	// The monitor is the first thread that the runtime makes, after the first of all.
	var first, monitor int
	for _, e := range list {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			return err
		}
		switch {
		case first == 0 || id < first:
			first, monitor = id, first
		case monitor == 0 || id < monitor:
			monitor = id
		}
	}
	slack := fmt.Sprint(int64(10 * time.Millisecond))
	return os.WriteFile(fmt.Sprintf("/proc/%d/timerslack_ns", monitor), []byte(slack), 0)
}

func TestIdle(t *testing.T) {
	list := "cpu: 0\n  .nohz_mode      : 2\n  .idle_exittime  : 12 nsecs\n  .idle_sleeptime : 29183726554 nsecs\n  .iowait_sleeptime: 7 nsecs\n"
	if idle, err := idleIn(list); err != nil || idle != 29183726554 {
		t.Error(idle, err)
	}
	for what, list := range map[string]string{
		"does not stop":  "cpu: 0\n",
		"2 processors":   list + list,
		"not understood": "  .idle_sleeptime : x nsecs\n",
	} {
		if _, err := idleIn(list); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%q: %v", what, err)
		}
	}
}
