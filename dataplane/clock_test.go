package dataplane

import (
	"testing"
	"time"
)

// What the kernel says of a time namespace is understood: seconds and nanoseconds, of
// which only the seconds are negative; the clock by its name or, as it was first, by number.
func TestMonotonicOffset(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"monotonic           0         0\nboottime            0         0\n": 0,
		"monotonic      100000         5\nboottime            7         0\n": 100000*time.Second + 5,
		"monotonic          -2 500000000\nboottime            7         0\n": -1500 * time.Millisecond,
		"1 3 0\n7 4 0\n":                   3 * time.Second,
		"boottime 9 0\nmonotonic -9 0\n":   -9 * time.Second,
		"":                                 0,
		"monotonic\n":                      0,
		"monotonic many 0\nboottime 1 0\n": 0,
	} {
		if got := monotonicOffset(text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
