package shtab

import (
	"math/rand/v2"
	"testing"
)

// TestFirst has several entries of a key, which programs leave that insert them at the same time. What is behind one
// is what a look-up finds without those before it.
func TestFirst(t *testing.T) {
	const entries, keys, mine = 16, 12, 1 << 3
	rng := rand.New(rand.NewPCG(1, 1))
	found, hides := 0, 0
	for range 400 {
		block, free, err := Memory(Size(entries))
		if err != nil {
			t.Fatal(err)
		}
		tab, err := New(block, entries, 100)
		if err != nil {
			t.Fatal(err)
		}
		for range entries {
			k := Key{uint64(rng.IntN(keys))}
			if _, err := tab.Insert(&k, tab.Hash(&k), 1, 0, uint32(rng.IntN(2)*mine)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range uint32(tab.Slots()) {
			if !tab.Valid(i) {
				continue
			}
			k := *tab.Key(i)
			if at, ok := tab.Lookup(&k, tab.Hash(&k)); !ok || at != i {
				if tab.First(i, mine) {
					t.Fatalf("slot %d of %d homes is not found, but first", i, tab.Homes())
				}
				continue
			}
			found++
			var hidden []uint32
			want := false
			for at, ok := i, true; ok; at, ok = tab.Lookup(&k, tab.Hash(&k)) {
				want = want || at != i && tab.State(at)&mine == 0
				hidden = append(hidden, at)
				tab.Detach(at)
			}
			for _, at := range hidden {
				store64(&tab.slots[at].word, tagOf(tab.Hash(&k))<<ValueBits|1)
			}
			if tab.First(i, mine) == want {
				t.Fatalf("slot %d of %d homes: it hides another: %v, want %v", i, tab.Homes(), !want, want)
			}
			if want {
				hides++
			}
		}
		free()
	}
	if hides < 100 || hides > found*9/10 {
		t.Errorf("of %d entries that are found %d hide another", found, hides)
	}
}
