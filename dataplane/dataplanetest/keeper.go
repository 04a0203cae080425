package dataplanetest

import "github.com/ulvs/ulvs/internal/accel"

// Keeper is a accel.Accelerator in memory that forwards nothing by itself, and
// whose memory stays when a director ends: a second one on the same Keeper goes on
// with it. Make it with NewKeeper.
type Keeper struct {
	*Plane
	blocks map[string][]byte
}

var _ accel.Accelerator = (*Keeper)(nil)

// NewKeeper makes a Keeper that hands everything to the handler, as p does.
func NewKeeper(p *Plane) *Keeper { return &Keeper{p, map[string][]byte{}} }

// Memory implements accel.Accelerator.
func (k *Keeper) Memory(parts []accel.Part) (kept bool, err error) {
	kept = true
	for _, p := range parts {
		n := len(k.blocks[p.Name])
		kept = kept && (n == p.Size || p.Journal && n > p.Size)
	}
	for i, p := range parts {
		if !kept {
			k.blocks[p.Name] = aligned(p.Size)
		}
		parts[i].Block = k.blocks[p.Name]
	}
	return kept, nil
}

// Replace implements accel.Accelerator.
func (k *Keeper) Replace(part string, size int, fill func([]byte) error) error {
	block := aligned(size)
	if err := fill(block); err != nil {
		return err
	}
	k.blocks[part] = block
	return nil
}

// Clone makes a Keeper with what another process would find if this one were killed now.
func (k *Keeper) Clone(p *Plane) *Keeper {
	c := NewKeeper(p)
	for name, block := range k.blocks {
		c.blocks[name] = aligned(len(block))
		copy(c.blocks[name], block)
	}
	return c
}

// Accelerate implements accel.Accelerator.
func (k *Keeper) Accelerate(accel.Acceleration) error { return nil }

// SetGeneration implements accel.Accelerator.
func (k *Keeper) SetGeneration(uint32) {}

// Heartbeat implements accel.Accelerator.
func (k *Keeper) Heartbeat(uint32) {}

// SetContents implements accel.Accelerator.
func (k *Keeper) SetContents(services, connections int) {}

// SetServer implements accel.Accelerator.
func (k *Keeper) SetServer(uint32, accel.Server) bool { return true }

// Grace implements accel.Accelerator.
func (k *Keeper) Grace() error { return nil }

// Release implements accel.Accelerator: the memory is kept.
func (k *Keeper) Release() {}

// Served implements accel.Accelerator.
func (k *Keeper) Served(uint32) accel.Served { return accel.Served{} }
