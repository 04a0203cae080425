//go:build !race

package shtab

import "testing"

// Programs that have taken all slots that they were given wanted more, until they have others; who
// lies in a home slot needed none.
func TestWanting(t *testing.T) {
	const entries = 512
	block, _ := heap(Size(entries))
	tab, err := New(block, entries, 250)
	if err != nil {
		t.Fatal(err)
	}
	ringBlock, _ := heap(RingsSize(1))
	pool, err := NewSlotPool(tab, ringBlock, 1, func(uint32) uint32 { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	pool.Open()
	m := &inserter{tab: tab, c: &pool.rings.cpus[0]}
	left := func() bool { return m.c.fill[m.c.fillAt%RingCells] != 0 }
	wanting := func(what string, want bool) {
		t.Helper()
		pool.Drain(func(slot uint32, _ bool) { tab.CountOpened(slot) })
		if pool.Wanting(tab.Homes()) != want || pool.Wanting(tab.Homes()-1) {
			t.Errorf("%s: wanting %v, and in a home slot %v", what, !want, pool.Wanting(tab.Homes()-1))
		}
	}
	wanting("at first", false)
	m.run(Key{0, 7})
	wanting("with one entry", false)
	k := uint64(1)
	for ; left() && k < 2*entries; k++ {
		m.run(Key{k, 7})
	}
	if left() {
		t.Fatalf("%d entries took no %d overflow slots", k, pool.share)
	}
	wanting("with all slots taken", true)
	wanting("with others", false)
}
