package accel

import "sync/atomic"

// Crossing counts the packets of some flows. Those that a program counts have dataplane.Frame.Handed.
type Crossing struct {
	// Handed is how many programs have handed to the director, which each counts before it looks at how the connection
	// is; and Left how many of those the plane has ended with: they were sent, or dropped.
	Handed, Left atomic.Uint32
}

// Waiting is how many are with the director or on their way to it; or were lost there. Left is read first, so
// that it is never less than that.
func (c *Crossing) Waiting() int32 {
	left := c.Left.Load()
	return int32(c.Handed.Load() - left)
}

// CrossingOf says which Crossing has a flow's packets: by its client's address, as much of it as four bytes have,
// and its ports.
func CrossingOf(f *[5]uint64) uint32 {
	client := uint32(f[0])
	if f[2]|f[3]|f[4] != 0 {
		client = uint32(f[2] >> 32)
	}
	return (client*CrossingFirst + uint32(f[1])) * CrossingSecond >> (32 - CrossingBits)
}

// CrossingBits is of how many bits the number of a Crossing is, and the others are factors.
const (
	CrossingBits   = 13
	CrossingFirst  = 0x9e3779b1
	CrossingSecond = 0x85ebca6b
)
