// Package hostlimit reads how often a host sends ICMP errors.
package hostlimit

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ulvs/ulvs/dataplane"
)

// Root is where the sysctls are of the network namespace that the calling thread is in.
const Root = "/proc/sys/net"

// Read reads the sysctls below root. One that is not there is the kernel's default:
// without IPv6, or where icmp_msgs_per_sec is the system's and not a namespace's (before
// Linux 6.12), which shows it in the first namespace only. The error says what could not be
// understood, or that there is nothing.
func Read(root string) (dataplane.ErrorLimits, error) {
	l := dataplane.DefaultErrorLimits()
	found := 0
	for _, s := range []struct {
		name string
		take func(text string) error
	}{
		{"ipv4/icmp_ratelimit", duration(&l.Interval)},
		{"ipv4/icmp_ratemask", func(text string) error {
			n, err := strconv.ParseInt(text, 10, 64)
			if err == nil {
				l.Mask = uint32(n)
			}
			return err
		}},
		{"ipv4/icmp_msgs_per_sec", number(&l.PerSecond)},
		{"ipv4/icmp_msgs_burst", number(&l.Burst)},
		{"ipv6/icmp/ratelimit", duration(&l.Interval6)},
		{"ipv6/icmp/ratemask", func(text string) (err error) {
			l.Mask6, err = bitmap(text)
			return err
		}},
	} {
		text, err := os.ReadFile(filepath.Join(root, s.name))
		if err != nil {
			continue
		}
		found++
		if err := s.take(strings.TrimSpace(string(text))); err != nil {
			return l, fmt.Errorf("%s/%s: %q: %w", root, s.name, text, err)
		}
	}
	if found == 0 {
		return l, fmt.Errorf("no sysctls of ICMP in %s: is /proc mounted?", root)
	}
	return l, nil
}

func number(to *int) func(string) error {
	return func(text string) error {
		n, err := strconv.Atoi(text)
		if err == nil {
			*to = max(n, 0)
		}
		return err
	}
}

// duration takes milliseconds.
func duration(to *time.Duration) func(string) error {
	return func(text string) error {
		var ms int
		err := number(&ms)(text)
		if err == nil {
			*to = time.Duration(ms) * time.Millisecond
		}
		return err
	}
}

// bitmap reads numbers and ranges of them, as in 0-1,3-127 (lib/bitmap.c,
// proc_do_large_bitmap).
func bitmap(text string) (bits [4]uint64, err error) {
	for part := range strings.SplitSeq(text, ",") {
		if part == "" {
			continue
		}
		low, high, ranged := strings.Cut(part, "-")
		if !ranged {
			high = low
		}
		from, err := strconv.ParseUint(low, 10, 8)
		if err != nil {
			return bits, err
		}
		to, err := strconv.ParseUint(high, 10, 8)
		if err != nil {
			return bits, err
		}
		for n := from; n <= to; n++ {
			bits[n/64] |= 1 << (n % 64)
		}
	}
	return bits, nil
}
