package dataplanetest

import (
	"github.com/ulvs/ulvs/dataplane"
)

// Keeper is a dataplane.Accelerator in memory that forwards nothing by itself, and
// whose memory stays when a director ends: a second one on the same Keeper goes on
// with it. Make it with NewKeeper.
type Keeper struct {
	*Plane
	blocks map[string][]byte
}

var _ dataplane.Accelerator = (*Keeper)(nil)

// NewKeeper makes a Keeper that hands everything to the handler, as p does.
func NewKeeper(p *Plane) *Keeper { return &Keeper{p, map[string][]byte{}} }

// Memory implements dataplane.Accelerator.
func (k *Keeper) Memory(parts []dataplane.Part) (kept bool, err error) {
	kept = true
	for _, p := range parts {
		kept = kept && len(k.blocks[p.Name]) == p.Size
	}
	for i, p := range parts {
		if !kept {
			k.blocks[p.Name] = aligned(p.Size)
		}
		parts[i].Block = k.blocks[p.Name]
	}
	return kept, nil
}

// Accelerate implements dataplane.Accelerator.
func (k *Keeper) Accelerate(dataplane.Acceleration) error { return nil }

// SetGeneration implements dataplane.Accelerator.
func (k *Keeper) SetGeneration(uint32) {}

// Heartbeat implements dataplane.Accelerator.
func (k *Keeper) Heartbeat(uint32) {}

// SetServer implements dataplane.Accelerator.
func (k *Keeper) SetServer(uint32, dataplane.Server) bool { return true }

// Grace implements dataplane.Accelerator.
func (k *Keeper) Grace() error { return nil }

// Release implements dataplane.Accelerator: the memory is kept.
func (k *Keeper) Release() {}

// Served implements dataplane.Accelerator.
func (k *Keeper) Served(uint32) (packets, bytes uint64) { return 0, 0 }
