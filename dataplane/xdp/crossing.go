package xdp

import "github.com/ulvs/ulvs/internal/accel"

var _ accel.Crosser = (*Plane)(nil)

// crossings is the array in which programs count what they hand over. It is nobody's but this process's: who hands
// over to another process has programs of that count anew.
type crossings struct {
	counts *array
	over   bool
	lost   func() uint64
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

// Lost implements accel.Crosser.
func (c *crossings) Lost() uint64 { return c.lost() }

// lost is what the slow plane and sockets have lost.
func (p interfaces) lost() (n uint64) {
	if slow, counts := p.Plane.Plane.(interface{ Lost() uint64 }); counts {
		n = slow.Lost()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sockets == nil {
		return n
	}
	n += p.sockets.past["af_xdp_rx_dropped"] + p.sockets.past["af_xdp_rx_ring_full"]
	for _, at := range p.attached {
		for _, q := range at.queues {
			n += q.s.Lost()
		}
	}
	return n
}

// close gives back the array. Where it was there is memory still, as a frame that is parked may be sent later.
func (c *crossings) close() {
	if c.counts != nil && !c.over {
		c.over = true
		abandon(c.counts.memory)
		_ = c.counts.Map.Close()
	}
}
