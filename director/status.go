package director

import (
	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
)

// Facts implements Control.
func (d *Director) Facts() ([]ulvs.Fact, error) {
	facts := []ulvs.Fact{{Name: "plane", Value: d.plane.Name()}}
	if p, ok := d.plane.(dataplane.Described); ok {
		facts = append(facts, p.Facts()...)
	}
	return facts, nil
}

// Services implements Control.
func (d *Director) Services() ([]ulvs.ServiceStatus, error) { return d.path.Listing.Services() }

// Service implements Control.
func (d *Director) Service(k ulvs.ServiceKey) (ulvs.ServiceStatus, error) {
	return d.path.Listing.Service(clean(k))
}

// Conns implements Control.
func (d *Director) Conns(yield func(ulvs.ConnStatus) bool) error { return d.path.Listing.Conns(yield) }

// Counters implements Control.
func (d *Director) Counters() (map[string]uint64, error) { return d.path.Listing.Counters() }
