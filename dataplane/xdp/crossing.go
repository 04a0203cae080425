package xdp

import "github.com/ulvs/ulvs/internal/accel"

var _ accel.Crosser = (*Plane)(nil)

// crossings is the array in which programs count what they hand over. It is nobody's but this process's: who hands
// over to another process has programs of that count anew.
type crossings struct {
	counts *array
	over   bool
}

const crossingsSize = 1 << accel.CrossingBits

func (c *crossings) open() (err error) {
	if c.counts == nil {
		c.counts, err = newArray("ulvs_crossings", crossingsSize*accel.CrossingSize)
	}
	return err
}

// Crossings implements accel.Crosser.
func (c *crossings) Crossings() []accel.Crossing {
	if c.counts == nil {
		return nil
	}
	return elements[accel.Crossing](c.counts.memory, crossingsSize)
}

// close gives back the array. Where it was there is memory still, as a frame that is parked may be sent later.
func (c *crossings) close() {
	if c.counts != nil && !c.over {
		c.over = true
		abandon(c.counts.memory)
		_ = c.counts.Map.Close()
	}
}
