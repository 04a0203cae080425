package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The memory that docs/limits.md says a daemon takes at its defaults, within a quarter.
func TestDaemonMemory(t *testing.T) {
	if raced() {
		t.Skip("the race detector takes memory of its own")
	}
	text, err := os.ReadFile("../../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	for plane, args := range map[string][]string{
		"AF_PACKET": {"--plane", "afpacket"}, "XDP": {"--plane", *fast, "--af-xdp", "off"}, "XDP, with AF_XDP": {"--plane", *fast, "--af-xdp", "on"},
	} {
		t.Run(plane, func(t *testing.T) {
			if args[1] == "xdp" && os.Getuid() != 0 {
				t.Skip("BPF needs root")
			}
			want := regexp.MustCompile(`\| ` + plane + ` \| (\d+) MB \| (\d+) MB \|`).FindSubmatch(text)
			if want == nil {
				t.Fatalf("docs/limits.md has no line for %s", plane)
			}
			s := newSite(t)
			d := s.start(append([]string{"--interface", "eth0", "--connections", "1048576"}, args...)...)
			resident, maps := memoryOf(t, d.Process.Pid)
			t.Logf("%d MB resident, %d MB in BPF maps", resident/1e6, maps/1e6)
			for i, got := range []int{resident, maps} {
				n, _ := strconv.Atoi(string(want[i+1]))
				if mb := got / 1e6; mb < n*3/4 || mb > n*5/4 {
					t.Errorf("%d MB resident, %d MB in BPF maps; docs/limits.md says %s and %s", resident/1e6, maps/1e6, want[1], want[2])
				}
			}
		})
	}
}

// memoryOf is what a process has resident, and what its BPF maps take, in bytes.
func memoryOf(t *testing.T, pid int) (resident, maps int) {
	t.Helper()
	field := func(text, name string) int {
		for line := range strings.Lines(text) {
			if value, ok := strings.CutPrefix(line, name); ok {
				n, err := strconv.Atoi(strings.Fields(value)[0])
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
		return 0
	}
	read := func(name string) string {
		text, _ := os.ReadFile(name) // a file that was closed has none
		return string(text)
	}
	at := fmt.Sprintf("/proc/%d/", pid)
	seen := map[int]bool{}
	files, err := filepath.Glob(at + "fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		info := read(name)
		if id := field(info, "map_id:"); id > 0 && !seen[id] {
			seen[id] = true
			maps += field(info, "memlock:")
		}
	}
	return field(read(at+"status"), "VmRSS:") << 10, maps
}

// raced reports whether this is the race detector's program, in which a daemon takes seconds
// to start.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}
