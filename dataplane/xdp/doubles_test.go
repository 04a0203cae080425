package xdp

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/ulvs/ulvs/packet"
)

// TestDoubles has two CPUs open the same connections, and change them, at the same time: one of
// each is kept, and nothing that is counted. (In what state that is depends on which of the two
// a packet has found.)
func TestDoubles(t *testing.T) {
	c := newContest(t, 80, 83, 84)
	c.doubles = true
	for began := time.Now(); time.Since(began) < *statesFor && !t.Failed(); c.rounds++ {
		c.double()
		if c.rounds%32 == 31 {
			c.end()
		}
	}
	c.end()
}

// double has two CPUs open the same connections.
func (c *contest) double() {
	for i := range c.frames {
		c.frames[i] = c.syn(c.serial)
		c.serial++
	}
	var at [2]atomic.Int32
	part := func(mine, others *atomic.Int32) func() {
		return func() {
			defer mine.Store(statesBatch)
			for i, frame := range c.frames {
				mine.Store(int32(i + 1))
				for others.Load() <= int32(i) {
				}
				c.run(frame, packet.SYN) // which is Go's where both want the same slot
				if i%2 == 0 {
					c.alone(frame, packet.ACK)
					c.alone(frame, packet.FIN|packet.ACK)
				}
			}
		}
	}
	c.together(part(&at[0], &at[1]), part(&at[1], &at[0]))
	for _, frame := range c.frames {
		c.run(frame, packet.ACK)
		c.run(frame, packet.RST)
	}
	c.audit(func(int) string { return "CLOSE" })
}
