package dataplane

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Monotonic reads the host's CLOCK_MONOTONIC, by which a plane stamps its batches and a
// director its connections. A time namespace (time_namespaces(7)) shifts what its
// processes read, and not what the kernel's programs do: that is taken back, so that
// daemons of two namespaces agree about what one left to the other.
func Monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return time.Duration(ts.Nano()) - namespaceOffset()
}

// namespaceOffset is how far the process's time namespace shifts CLOCK_MONOTONIC.
var namespaceOffset = sync.OnceValue(func() time.Duration {
	// The file is about the namespace of children, which has no processes yet where only
	// unshare(2) was called.
	own, err := os.Readlink("/proc/self/ns/time")
	if err != nil {
		return 0 // a kernel without them
	}
	if children, err := os.Readlink("/proc/self/ns/time_for_children"); err != nil || own != children {
		return 0
	}
	text, err := os.ReadFile("/proc/self/timens_offsets")
	if err != nil {
		return 0
	}
	return monotonicOffset(string(text))
})

// monotonicOffset reads /proc/PID/timens_offsets (kernel/time/namespace.c,
// proc_timens_show_offsets).
func monotonicOffset(text string) time.Duration {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) != 3 || words[0] != "monotonic" && words[0] != "1" {
			continue
		}
		seconds, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			return 0
		}
		nanoseconds, err := strconv.ParseInt(words[2], 10, 64)
		if err != nil {
			return 0
		}
		return time.Duration(seconds)*time.Second + time.Duration(nanoseconds)
	}
	return 0
}
