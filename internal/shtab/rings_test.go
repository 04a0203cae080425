//go:build !race

// What a program does beside the owner is a race to the detector, and is meant.

package shtab

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

const (
	ringsEntries = 24
	ringsKeys    = 60
)

// inserter makes entries by the protocol of Rings, as a program would; dataplane/xdp has
// one that is a program. It has no pause, which is what finds a claim or a swap that
// is not atomic.
type inserter struct {
	tab  *Table
	c    *cpuRings
	runs atomic.Uint64 // that have ended
}

func (m *inserter) run(k Key) {
	defer m.runs.Add(1)
	t, c := m.tab, m.c
	h := t.Hash(&k)
	if _, ok := t.Lookup(&k, h); ok {
		return
	}
	told := &c.completion[c.completionAt%RingCells]
	if atomic.LoadUint32(told) != 0 {
		return
	}
	i := t.homeOf(h)
	home := &t.slots[i]
	if !atomic.CompareAndSwapUint64(&t.slots[i].word, 0, limbo) {
		if i ^= 1; !atomic.CompareAndSwapUint64(&t.slots[i].word, 0, limbo) {
			v := atomic.SwapUint32(&c.fill[c.fillAt%RingCells], 0)
			if v == 0 {
				return
			}
			atomic.AddUint32(&c.fillAt, 1)
			i = v - 1
		}
	}
	s := &t.slots[i]
	s.key = k
	s.state, s.stamp, s.count = 0, 0, 0
	atomic.StoreUint64(&s.word, tagOf(h)<<ValueBits|(k[0]+1))
	if i >= t.home {
		for range 3 {
			next := atomic.LoadUint32(&home.next)
			s.next = next
			if atomic.CompareAndSwapUint32(&home.next, next, i+1) {
				break
			}
		}
	}
	atomic.CompareAndSwapUint32(told, 0, i+1)
	atomic.AddUint32(&c.completionAt, 1)
}

// all takes all that programs have told on a CPU.
func all(r *Rings, cpu int) (list []uint32) {
	var cells Cells
	for some := r.Completed(cpu, &cells); len(some) > 0; some = r.Completed(cpu, &cells) {
		list = append(list, some...)
	}
	return list
}

// TestRings has an owner and a inserter work on few keys in a small table.
func TestRings(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("the owner and the inserter need a CPU each")
	}
	block, _ := heap(Size(ringsEntries))
	tab, err := New(block, ringsEntries, 250)
	if err != nil {
		t.Fatal(err)
	}
	ringBlock, _ := heap(RingsSize(1))
	rings, err := NewRings(ringBlock, 1)
	if err != nil {
		t.Fatal(err)
	}
	m := &inserter{tab: tab, c: &rings.cpus[0]}
	m.run(Key{1, 2})
	if len(all(rings, 0)) > 0 || tab.Valid(0) {
		t.Fatal("something was made while the rings are closed")
	}
	tab.AllowConcurrentInsert()
	rings.Open()
	var stop atomic.Bool
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		rng := rand.New(rand.NewPCG(1, rand.Uint64()))
		for !stop.Load() {
			m.run(Key{rng.Uint64N(ringsKeys), 7})
		}
	}()

	type retired struct {
		slot uint32
		runs uint64
	}
	var (
		live             []uint32
		quarantine       []retired
		made, doubles, n int
		rng              = rand.New(rand.NewPCG(2, rand.Uint64()))
	)
	owned := make([]bool, tab.Slots())
	own := func(slot uint32) {
		if owned[slot] {
			t.Errorf("slot %d has two owners", slot)
		}
		owned[slot] = true
		live = append(live, slot)
	}
	remove := func(slot uint32) {
		tab.Remove(slot)
		quarantine = append(quarantine, retired{slot, m.runs.Load()})
	}
	read := func() {
		for _, v := range all(rings, 0) {
			slot := v - 1
			tab.CountOpened(slot)
			made++
			k := *tab.Key(slot)
			if tab.Value(slot) != k[0]+1 {
				t.Errorf("slot %d: key %v has value %d", slot, k, tab.Value(slot))
			}
			at, ok := tab.Lookup(&k, tab.Hash(&k))
			if !ok {
				t.Errorf("slot %d was told and is not found", slot)
			}
			if at != slot {
				doubles++
				remove(slot)
				continue
			}
			own(slot)
		}
	}
	const enough = 1000
	for begun := time.Now(); !t.Failed() && (time.Since(begun) < time.Second || made < enough && time.Since(begun) < time.Minute); n++ {
		read()
		if slot, ok := tab.Reserve(); ok && !rings.Fill(0, slot) {
			tab.Unreserve(slot)
		}
		k := Key{rng.Uint64N(ringsKeys), 7}
		h := tab.Hash(&k)
		if _, ok := tab.Lookup(&k, h); !ok {
			if slot, err := tab.Insert(&k, h, k[0]+1, 0, 0); err == nil {
				own(slot)
			}
		}
		if len(live) > 0 && len(live)+rng.IntN(20) > 15 {
			at := rng.IntN(len(live))
			slot := live[at]
			live[at] = live[len(live)-1]
			live = live[:len(live)-1]
			owned[slot] = false
			remove(slot)
		}
		// A run that began before a removal has ended when two more have.
		for len(quarantine) > 0 && m.runs.Load() >= quarantine[0].runs+2 {
			tab.Release(quarantine[0].slot)
			quarantine = quarantine[1:]
		}
	}
	stop.Store(true)
	<-stopped
	read()
	rings.Close()
	t.Logf("%d turns: %d entries made beside the owner, of them %d doubles", n, made, doubles)
	if made < enough {
		t.Error("that was not much")
	}
	tab, removed, err := Adopt(block, ringsEntries, 250)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range removed {
		tab.Release(slot)
	}
	if tab.Len() != len(live) {
		t.Errorf("%d entries, want %d", tab.Len(), len(live))
	}
	for _, slot := range live {
		if at, ok := tab.Lookup(tab.Key(slot), tab.Hash(tab.Key(slot))); !ok || tab.Value(at) != tab.Value(slot) {
			t.Errorf("slot %d is not found", slot)
		}
		tab.Remove(slot)
		tab.Release(slot)
	}
	if free, want := tab.free.len(), tab.Slots()-int(tab.home); free != want {
		t.Errorf("%d overflow slots of %d are left", free, want)
	}
}
