package xdp

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/shtab"
)

// Rings implements dataplane.Maker.
func (p *Plane) Rings() (conns, templates []byte, cpus int) {
	size := shtab.RingsSize(p.cpus)
	return p.ringArray.memory[:size], p.ringArray.memory[size : 2*size], p.cpus
}

// closeRings ends that programs make entries, of which it takes back what they were
// given.
func (p *Plane) closeRings() error {
	p.settings.setMaking(dataplane.Making{})
	conns, templates, cpus := p.Rings()
	for _, block := range [][]byte{conns, templates} {
		if _, err := shtab.NewRings(block, cpus); err != nil {
			return err
		}
	}
	return nil
}

// SetMaking implements dataplane.Maker.
func (p *Plane) SetMaking(m dataplane.Making) { p.settings.setMaking(m) }

// makingBit is a family's bit in the settings.
func makingBit(six bool) uint32 {
	if six {
		return 2
	}
	return 1
}

func (s *settings) setMaking(m dataplane.Making) {
	var bits, templates uint32
	if m.IPv4 {
		bits |= makingBit(false)
	}
	if m.IPv6 {
		bits |= makingBit(true)
	}
	if m.Templates {
		templates = 1
	}
	atomic.StoreUint32(&s.template, templates)
	atomic.StoreUint32(&s.making, bits)
}

// The program sees by a bit whether a source may be one of the host's own addresses:
// of few addresses, few others have a bit of theirs, and Go decides about those.
const (
	localBits   = 1 << 12
	localShift  = 32 - 12
	localFactor = 0x9e3779b1 // odd, near 2^32 divided by the golden ratio
)

// fold is an address as one word, as the program reads it.
func fold(a netip.Addr) (sum uint32) {
	for b := a.AsSlice(); len(b) > 0; b = b[4:] {
		sum ^= binary.NativeEndian.Uint32(b)
	}
	return sum
}

func localBit(a netip.Addr) uint32 { return fold(a) * localFactor >> localShift }

// SetLocals implements dataplane.Maker. The program knows the loopback addresses, and
// single addresses.
func (p *Plane) SetLocals(l *dataplane.Locals) (ipv4, ipv6 bool) {
	ipv4, ipv6 = true, true
	var bits [localBits / 32]uint32
	for _, prefix := range l.Prefixes {
		a := prefix.Addr()
		switch {
		case a.IsLoopback():
		case !prefix.IsSingleIP():
			ipv4, ipv6 = ipv4 && !a.Is4(), ipv6 && a.Is4()
		default:
			i := localBit(a)
			bits[i/32] |= 1 << (i % 32)
		}
	}
	for i := range bits {
		atomic.StoreUint32(&p.settings.locals[i], bits[i])
	}
	return ipv4, ipv6
}
