package xdp

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/shtab"
)

// ringBed is a table, a program that makes entries in it, and their owner.
type ringBed struct {
	*Plane
	t     *testing.T
	block []byte
	tab   *shtab.Table
	rings *shtab.Rings
	prog  *ebpf.Program

	live                       []uint32 // the owner's entries
	retired                    []uint32
	made, doubles, own, chains int
}

const ringEntries = 600

func newRingBed(t *testing.T) *ringBed {
	r := &ringBed{Plane: &Plane{}, t: t}
	table, err := newArray("ulvs_table", shtab.Size(ringEntries))
	if errors.Is(err, ErrNotPermitted) {
		t.Skip(err)
	}
	r.must(err)
	t.Cleanup(table.close)
	r.block = table.memory
	r.tab, err = shtab.New(r.block, ringEntries, hz)
	r.must(err)
	cpus, err := ebpf.PossibleCPU()
	r.must(err)
	rings, err := newArray("ulvs_rings", shtab.RingsSize(cpus))
	r.must(err)
	t.Cleanup(rings.close)
	r.rings, err = shtab.NewRings(rings.memory, cpus)
	r.must(err)
	settings, err := newArray("ulvs_settings", program.SettingsSize)
	r.must(err)
	t.Cleanup(settings.close)
	p := &program.Config{
		Acceleration: accel.Acceleration{TableShape: accel.TableShape{Seed: r.tab.Seed(), Homes: r.tab.Homes(), Slots: uint32(r.tab.Slots())}, Hz: hz},
		Conns:        table.FD(), Rings: rings.FD(), Settings: settings.FD(), CPUs: cpus,
	}
	r.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: p.Inserter()})
	r.must(err)
	t.Cleanup(func() { r.prog.Close() })
	return r
}

func (r *ringBed) must(err error) {
	if err != nil {
		r.t.Helper()
		r.t.Fatal(err)
	}
}

// run has the program run so often; the last result is returned.
func (r *ringBed) run(times int) uint32 {
	action, _, err := r.prog.Benchmark(make([]byte, 64), times, nil)
	if err != nil {
		r.t.Error(err)
	}
	return action
}

// told is all that programs have told on a CPU.
func (r *ringBed) told(cpu int) (list []uint32) {
	var cells shtab.Cells
	for some := r.rings.Completed(cpu, &cells); len(some) > 0; some = r.rings.Completed(cpu, &cells) {
		list = append(list, some...)
	}
	return list
}

// turn does what a table's owner does, once.
func (r *ringBed) turn(rng *rand.Rand) {
	for cpu := range runtime.NumCPU() {
		for _, v := range r.told(cpu) {
			slot := v - 1
			r.tab.CountOpened(slot)
			r.made++
			k := *r.tab.Key(slot)
			if k[1] != program.InserterPorts || r.tab.Value(slot) != k[0]+1 {
				r.t.Fatalf("slot %d: key %x has value %d", slot, k, r.tab.Value(slot))
			}
			if slot >= r.tab.Homes() {
				r.chains++
			}
			at, ok := r.tab.Lookup(&k, r.tab.Hash(&k))
			if !ok {
				r.t.Errorf("slot %d was told and is not found", slot)
			}
			if at != slot {
				r.doubles++
				r.remove(slot)
				continue
			}
			r.live = append(r.live, slot)
		}
		for range 20 {
			if slot, ok := r.tab.Reserve(); ok && !r.rings.Fill(cpu, slot) {
				r.tab.Unreserve(slot)
				break
			}
		}
	}
	for range 3 {
		k := shtab.Key{rng.Uint64N(program.InserterKeys), program.InserterPorts}
		h := r.tab.Hash(&k)
		if _, ok := r.tab.Lookup(&k, h); ok {
			continue
		}
		if slot, err := r.tab.Insert(&k, h, k[0]+1, 0, 0); err == nil {
			r.own++
			r.live = append(r.live, slot)
		}
	}
	for range min(len(r.live), 10) {
		at := rng.IntN(len(r.live))
		slot := r.live[at]
		r.live[at] = r.live[len(r.live)-1]
		r.live = r.live[:len(r.live)-1]
		r.remove(slot)
	}
}

func (r *ringBed) remove(slot uint32) {
	r.tab.Remove(slot)
	r.retired = append(r.retired, slot)
}

func (r *ringBed) release() {
	r.must(r.Grace())
	for _, slot := range r.retired {
		r.tab.Release(slot)
	}
	r.retired = r.retired[:0]
}

// TestRings has a program make entries, by the protocol of shtab.Rings, while their
// owner makes some too, and ends them all. No slot may be lost or belong to two, and
// the next owner finds what there was.
func TestRings(t *testing.T) {
	r := newRingBed(t)
	if got := r.run(100); got != program.InserterBusy {
		t.Errorf("rings are closed, and the program did %d", got)
	}
	r.tab.AllowConcurrentInsert()
	r.rings.Open()
	stopped, stop := make(chan struct{}), make(chan struct{})
	end := sync.OnceFunc(func() {
		close(stop)
		<-stopped
	})
	defer end()
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				r.run(100_000)
			}
		}
	}()
	rng := rand.New(rand.NewPCG(rand.Uint64(), 1))
	enough := func() bool { return r.made >= 1000 && r.chains >= 10 && r.own >= 100 }
	for begun := time.Now(); time.Since(begun) < time.Second || !enough() && time.Since(begun) < time.Minute; {
		for range 100 {
			r.turn(rng)
		}
		r.release()
	}
	r.rings.Close()
	end()
	t.Logf("%d made by the program, of them %d in chains and %d doubles; %d by Go", r.made, r.chains, r.doubles, r.own)
	if !enough() {
		t.Error("that was not much")
	}
	if got := r.run(100); got != program.InserterBusy && got != program.InserterFound {
		t.Errorf("rings are closed, and the program did %d", got)
	}

	tab, removed, err := shtab.Adopt(r.block, ringEntries, hz)
	r.must(err)
	for _, slot := range removed {
		tab.Release(slot)
	}
	found := make(map[uint32]bool)
	for i := range uint64(program.InserterKeys) {
		k := shtab.Key{i, program.InserterPorts}
		if slot, ok := tab.Lookup(&k, tab.Hash(&k)); ok {
			if tab.Value(slot) != i+1 || found[slot] {
				t.Errorf("slot %d: key %d has value %d", slot, i, tab.Value(slot))
			}
			found[slot] = true
		}
	}
	for _, slot := range r.live {
		if !tab.Valid(slot) {
			t.Errorf("slot %d of the first owner's is not there", slot)
		}
	}
	// All that is there can be removed, and then all slots can be used again.
	for slot := range uint32(tab.Slots()) {
		if tab.Valid(slot) {
			tab.Remove(slot)
			tab.Release(slot)
		}
	}
	free := 0
	for _, ok := tab.Reserve(); ok; _, ok = tab.Reserve() {
		free++
	}
	if want := tab.Slots() - int(tab.Homes()); free != want || tab.Len() != 0 {
		t.Errorf("%d overflow slots of %d are left, and %d entries", free, want, tab.Len())
	}
}
