package xdp

import (
	"github.com/ulvs/ulvs/internal/accel"
)

var _ accel.Crosser = (*Plane)(nil)

// makeCrossings makes the array in which programs count what they hand over. Who hands it over to another process has
// programs of that count anew.
func (p *Plane) makeCrossings() (err error) {
	if p.crossings == nil {
		p.crossings, err = newArray("ulvs_crossings", crossings*8)
	}
	return err
}

const crossings = 1 << accel.CrossingBits

// Crossings implements accel.Crosser.
func (p *Plane) Crossings() []accel.Crossing {
	if p.crossings == nil {
		return nil
	}
	return elements[accel.Crossing](p.crossings.memory, crossings)
}

// closeCrossings ends that. The memory stays: a frame that is parked may be sent later.
func (p *Plane) closeCrossings() {
	if p.crossings != nil {
		_ = p.crossings.Map.Close()
	}
}
