package xsk

import (
	"os"
	"sync/atomic"
	"testing"
)

// A ring's indexes wrap around 2^32 while it is in use.
func TestRingWraps(t *testing.T) {
	var producer, consumer, flags atomic.Uint32
	const start = 1<<32 - 5
	producer.Store(start)
	consumer.Store(start)
	slots := make([]uint64, 8)
	ours := ring[uint64]{producer: &producer, consumer: &consumer, flags: &flags, slots: slots, head: start}
	kernel := ours
	next, read := uint64(0), uint64(0)
	for range 10 {
		n := ours.room()
		for i := range n {
			*ours.slot(i) = next
			next++
		}
		ours.publish(n)
		if ours.room() != 0 || ours.used() != 8 || kernel.ready() != 8 {
			t.Fatal(ours.room(), ours.used(), kernel.ready())
		}
		for i := range 3 {
			if *kernel.slot(i) != read {
				t.Fatalf("slot %d holds %d, not %d", i, *kernel.slot(i), read)
			}
			read++
		}
		kernel.release(3)
	}
}

func TestOffset(t *testing.T) {
	page := make([]byte, os.Getpagesize())
	chunk := page[100:200:200]
	for _, x := range []struct {
		data   []byte
		at     int
		inside bool
	}{
		{page[100:200], 0, true}, {page[110:120], 10, true}, {page[199:200], 99, true},
		{page[99:200], 0, false}, {page[100:201], 0, false}, {page[200:210], 0, false}, {make([]byte, 10), 0, false},
	} {
		if at, inside := offset(chunk, x.data); inside != x.inside || inside && at != x.at {
			t.Errorf("offset is %d, %v, not %d, %v", at, inside, x.at, x.inside)
		}
	}
}
