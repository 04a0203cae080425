package xdp

import (
	"bytes"
	"maps"
	"runtime"
	"slices"
	"testing"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/shtab"
)

// TestLines has a flow on each of two CPUs, and compares which cache lines of the
// arrays each has changed: two CPUs that write to one line would wait for each other.
func TestLines(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("it takes two CPUs")
	}
	bothWays(t, 1000, func(t *testing.T, b *bench) {
		var lines [2]map[line]bool
		for cpu := range lines {
			frame := shape{proto: layers.IPProtocolTCP, port: uint16(1000 + cpu), flags: "A"}.frame(t)
			id := b.open(shape{proto: layers.IPProtocolTCP, port: uint16(1000 + cpu), flags: "S"}.frame(t), 1)
			b.tell(id, frame)
			b.run(frame) // which tells the program that a daemon is there
			before := b.snapshot()
			b.on(cpu, func() {
				for range 10 {
					if action, _, err := b.prog.Benchmark(frame, 1, nil); err != nil || action != program.ActionTX {
						t.Errorf("CPU %d: action %d, %v", cpu, action, err)
					}
				}
			})
			lines[cpu] = changed(before, b.snapshot())
			if len(lines[cpu]) != 2 {
				t.Errorf("CPU %d changed %v: not its flow's line and its counters'", cpu, slices.Collect(maps.Keys(lines[cpu])))
			}
		}
		for l := range lines[0] {
			if lines[1][l] {
				t.Errorf("both CPUs changed %v", l)
			}
		}
	})
}

// line is a cache line of an array.
type line struct{ array, number int }

// arrays are all that programs may write to.
func (b *bench) arrays() []*array {
	return []*array{b.Plane.conns, b.serverArray, b.countArray, b.settingsArray}
}

func (b *bench) snapshot() (list [][]byte) {
	for _, a := range b.arrays() {
		list = append(list, bytes.Clone(a.memory))
	}
	return list
}

func changed(before, after [][]byte) map[line]bool {
	const size = shtab.SlotSize // which is a line
	lines := make(map[line]bool)
	for i := range before {
		for at := 0; at < len(before[i]); at += size {
			if !bytes.Equal(before[i][at:at+size], after[i][at:at+size]) {
				lines[line{i, at / size}] = true
			}
		}
	}
	return lines
}

// on runs f on a CPU.
func (b *bench) on(cpu int, f func()) {
	b.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	b.must(unix.SchedGetaffinity(0, &before))
	one.Set(cpu)
	b.must(unix.SchedSetaffinity(0, &one))
	defer func() { b.must(unix.SchedSetaffinity(0, &before)) }()
	f()
}
