package rounds

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ulvs/ulvs/bench/wire"
)

// softThreads are the kernel's threads that go on with a CPU's packets when there
// are too many for the thread that sent them: ksoftirqd, by CPU.
var softThreads = sync.OnceValue(func() map[int]string {
	all := map[int]string{}
	paths, _ := filepath.Glob("/proc/[0-9]*/comm") // the pattern is right
	for _, path := range paths {
		name, err := os.ReadFile(path)
		var cpu int
		if n, _ := fmt.Sscanf(strings.TrimSpace(string(name)), "ksoftirqd/%d", &cpu); err == nil && n == 1 {
			all[cpu] = filepath.Join(filepath.Dir(path), "schedstat")
		}
	}
	return all
})

// softTime is the processor time of those on the generators' CPUs. It is 0 where the
// kernel has no statistics of it (CONFIG_SCHED_INFO), or hides its threads.
func softTime(list []*wire.Generator) (sum time.Duration) {
	for _, g := range list {
		text, err := os.ReadFile(softThreads()[g.CPU()])
		var t int64
		if n, _ := fmt.Sscan(string(text), &t); err == nil && n == 1 {
			sum += time.Duration(t)
		}
	}
	return sum
}
