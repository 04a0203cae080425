package xdp

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/internal/accel"
)

// Release unmaps and closes all that Memory made, before Close or after it.
func TestReleases(t *testing.T) {
	for _, order := range []string{"close, release, release", "release, close, release"} {
		p, err := New(Options{Interfaces: []string{"lo"}, Slow: dataplanetest.New(), Servers: 63})
		if errors.Is(err, ErrNotPermitted) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		mapped, open := arrays(t)
		if _, err := p.Memory([]accel.Part{{Name: accel.PartConns, Size: conn.MemorySize(1000)}, {Name: "other", Size: 5000}}); err != nil {
			t.Fatal(err)
		}
		if m, o := arrays(t); m < mapped+6 || o < open+6 {
			t.Errorf("%d arrays are mapped and %d open, after %d and %d", m, o, mapped, open)
		}
		for _, step := range strings.Split(order, ", ") {
			if step == "release" {
				p.Release()
			} else if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
		if m, o := arrays(t); m > mapped || o > open {
			t.Errorf("%s: %d arrays are mapped and %d open, and were %d and %d before", order, m, o, mapped, open)
		}
		if n := p.Counters()["xdp_frames"]; n != 0 {
			t.Errorf("%s: %d frames are counted", order, n)
		}
	}
}

// arrays counts this process's BPF maps: those mapped and those open.
func arrays(t *testing.T) (mapped, open int) {
	t.Helper()
	const what = "anon_inode:bpf-map"
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && to == what {
			open++
		}
	}
	return strings.Count(string(maps), what), open
}

// Where there are many CPUs, their counters take no more memory than with few, as long as there is
// room for some servers.
func TestServerRoom(t *testing.T) {
	for cpus, want := range map[int]int{1: accel.Counted, 2: accel.Counted, 32: accel.Counted, 64: 1 << 16, 128: 1 << 15, 256: 1 << 14, 1024: 1 << 14} {
		if got := serverRoom(cpus); got != want {
			t.Errorf("with %d CPUs there is room for %d real servers, want %d", cpus, got, want)
		}
	}
}
