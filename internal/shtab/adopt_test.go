package shtab

import (
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
)

// A table is taken over with all its entries from a process that ended at any
// point of an insertion or a removal, and no slot is lost.
func TestAdopt(t *testing.T) {
	const max = 300
	rng := rand.New(rand.NewPCG(7, 8))
	block, _ := heap(Size(max))
	tab, err := New(block, max, 250)
	if err != nil {
		t.Fatal(err)
	}
	live := map[uint64]uint32{}
	interrupted := 0
	for round := range 500 {
		for range 200 {
			n := rng.Uint64N(500)
			k := key(n)
			h := tab.Hash(&k)
			slot, there := live[n]
			switch {
			case !there:
				if i, err := tab.Insert(&k, h, 1+n, 0, 0); err == nil {
					live[n] = i
				}
			case rng.IntN(4) == 0:
				tab.Detach(slot) // stays, and is not found
				tab.Remove(slot)
				tab.Release(slot)
				delete(live, n)
			case rng.IntN(2) == 0:
				tab.Remove(slot)
				tab.Release(slot)
				delete(live, n)
			}
		}
		// The end, in the middle of something.
		n := rng.Uint64N(500)
		k := key(n)
		slot, there := live[n]
		switch cut := rng.IntN(4); {
		case cut == 0 && there: // Remove has hidden it, and not unlinked it
			atomic.StoreUint64(&tab.slots[slot].word, limbo)
			delete(live, n)
			interrupted++
		case cut == 1 && there: // Remove has ended, Release has not
			tab.Remove(slot)
			delete(live, n)
			interrupted++
		case cut == 2 && !there: // Insert has published an overflow slot, and not linked it
			h := tab.Hash(&k)
			home := &tab.slots[tab.homeOf(h)]
			before := home.next
			if i, err := tab.Insert(&k, h, 1+n, 0, 0); err == nil && i >= tab.home {
				home.next = before
				interrupted++
			} else if err == nil {
				live[n] = i
			}
		}
		var removed []uint32
		if tab, removed, err = Adopt(block, max, 250); err != nil {
			t.Fatal(err)
		}
		if tab.Len() != len(live) {
			t.Fatalf("round %d: %d entries, want %d", round, tab.Len(), len(live))
		}
		for _, i := range removed {
			tab.Release(i)
		}
		inHome := 0
		for i := range tab.home {
			if tab.slots[i].word != 0 {
				inHome++
			}
		}
		if lost := len(tab.free.slots) - tab.free.len() - (len(live) - inHome); lost != 0 {
			t.Fatalf("round %d: %d overflow slots are lost", round, lost)
		}
		for n, i := range live {
			k := key(n)
			if at, ok := tab.Lookup(&k, tab.Hash(&k)); !ok || at != i || tab.Value(i) != 1+n {
				t.Fatalf("round %d: entry %d: slot %d %v, want %d", round, n, at, ok, i)
			}
		}
	}
	if interrupted < 100 {
		t.Errorf("%d interruptions", interrupted)
	}
}

func TestAdoptForeign(t *testing.T) {
	block, _ := heap(Size(100))
	if _, _, err := Adopt(block, 100, 250); !errors.Is(err, ErrLayout) {
		t.Errorf("nothing: %v", err)
	}
	if _, err := New(block, 100, 250); err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func() error{
		"another size": func() error { _, _, err := Adopt(block, 99, 250); return err },
		"other ticks":  func() error { _, _, err := Adopt(block, 100, 1000); return err },
		"another layout": func() error {
			h, _, err := layOver(block, 1)
			if err != nil {
				return err
			}
			h.slot++
			_, _, err = Adopt(block, 100, 250)
			h.slot--
			return err
		},
	} {
		if err := f(); !errors.Is(err, ErrLayout) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
