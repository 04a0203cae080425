package xdp

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Grace implements accel.Accelerator: it waits until every run of the program
// that has begun has ended.
func (p *Plane) Grace() error { return p.grace.wait() }

// grace waits for RCU grace periods, in either of two ways. The zero value is ready.
type grace struct {
	mu    sync.Mutex
	swaps bool // membarrier refuses
	outer *ebpf.Map
	inner *ebpf.Map
}

// wait waits for a grace period by membarrier(2), or where that refuses, which is
// so with nohz_full, by changing a map of maps, for which the kernel waits for one
// (maybe_wait_bpf_programs, kernel/bpf/syscall.c).
func (g *grace) wait() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.swaps {
		const global = 1 // MEMBARRIER_CMD_GLOBAL
		_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0)
		if errno == 0 {
			return nil
		}
		g.swaps = true
	}
	if g.outer == nil {
		if err := g.make(); err != nil {
			return fmt.Errorf("membarrier is not permitted, and maps of maps cannot replace it: %w", err)
		}
	}
	if err := g.outer.Put(uint32(0), g.inner); err != nil {
		return fmt.Errorf("cannot wait for running programs: %w", err)
	}
	return nil
}

func (g *grace) make() error {
	spec := &ebpf.MapSpec{Name: "ulvs_grace", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	inner, err := ebpf.NewMap(spec)
	if err != nil {
		return err
	}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{Name: "ulvs_graces", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4,
		MaxEntries: 1, InnerMap: spec})
	if err != nil {
		return errors.Join(err, inner.Close())
	}
	g.inner, g.outer = inner, outer
	return nil
}

func (g *grace) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.outer != nil {
		_, _ = g.outer.Close(), g.inner.Close()
		g.outer = nil
	}
}
