package dataplane_test

import (
	"testing"

	"github.com/ulvs/ulvs/dataplane"
)

// Frames that the kernel has merged are large: what waits for a real server has a bound
// in bytes too. One frame waits whatever its size.
func TestParkBytes(t *testing.T) {
	for _, tt := range []struct {
		sizes []int // in turns
		waits int
	}{
		{[]int{65_549}, 3},
		{[]int{dataplane.ParkBytes / 4}, 4},
		{[]int{dataplane.ParkBytes/4 + 1}, 3},
		{[]int{dataplane.ParkBytes + 1}, 1},
		{[]int{1514}, dataplane.ParkLimit},
		{[]int{60, 65_549}, 6},
	} {
		const all = 300
		var sent []*dataplane.Frame
		h := dataplane.NewNextHop(server, nil)
		h.Set(resolving)
		for i := range all {
			f := numbered(i)
			f.Data = append(f.Data, make([]byte, tt.sizes[i%len(tt.sizes)]-len(f.Data))...)
			if !h.Park(f, func(f *dataplane.Frame) { sent = append(sent, f) }) {
				t.Fatal("not parked")
			}
		}
		h.Set(reachable)
		if len(sent) != tt.waits || h.Lost() != uint64(all-tt.waits) {
			t.Errorf("%v bytes: %d of %d waited, want %d; %d lost", tt.sizes, len(sent), all, tt.waits, h.Lost())
		}
		for i, f := range sent {
			if number(f) != all-len(sent)+i {
				t.Errorf("%v bytes: number %d is frame %d", tt.sizes, i, number(f))
			}
		}
		// What was sent makes room for what comes next.
		sent = nil
		h.Set(resolving)
		for i := range tt.waits {
			f := numbered(i)
			f.Data = append(f.Data, make([]byte, tt.sizes[i%len(tt.sizes)]-len(f.Data))...)
			h.Park(f, func(f *dataplane.Frame) { sent = append(sent, f) })
		}
		h.Set(reachable)
		if len(sent) != tt.waits {
			t.Errorf("%v bytes: %d of %d waited afterwards", tt.sizes, len(sent), tt.waits)
		}
	}
}
