package xdp

import (
	"sync/atomic"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/shtab"
)

// Rings implements accel.Opener.
func (p *Plane) Rings() (conns, templates []byte, cpus int) {
	size := shtab.RingsSize(p.cpus)
	return p.ringArray.memory[:size], p.ringArray.memory[size : 2*size], p.cpus
}

// Servers implements accel.Opener.
func (p *Plane) Servers() int { return min(p.serversPerCPU, accel.Counted) }

// serverRoom is how many real servers programs know: as many as Go counts connections of or, where
// there are so many CPUs that their counters would take more than 64 MiB, fewer.
func serverRoom(cpus int) int {
	const most, least = 64 << 20, 1 << 14
	return min(max(most/(cpus*program.CountSize), least), accel.Counted)
}

// closeRings ends that programs make entries, of which it takes back what they were
// given.
func closeRings(p *Plane) error {
	p.settings.setOpening(accel.Opening{})
	atomic.StoreUint32(&p.settings.changing, 0)
	conns, templates, cpus := p.Rings()
	for _, block := range [][]byte{conns, templates} {
		if _, err := shtab.NewRings(block, cpus); err != nil {
			return err
		}
	}
	return nil
}

// SetOpening implements accel.Opener.
func (p *Plane) SetOpening(m accel.Opening) {
	if p.closed.Load() {
		return // another daemon may run by now
	}
	if m.Compared > fewCompared {
		p.more.Do(func() { go interfaces{p}.compareMore() })
	}
	p.settings.setOpening(m)
	atomic.StoreUint32(&p.settings.untold, m.Untold)
	atomic.StoreUint32(&p.settings.changing, 1)
}

func (s *settings) setOpening(m accel.Opening) {
	var bits, templates uint32
	if m.IPv4 {
		bits |= program.OpeningBit(false)
	}
	if m.IPv6 {
		bits |= program.OpeningBit(true)
	}
	if m.SloppyTCP {
		bits |= program.SloppyTCP
	}
	if m.SloppySCTP {
		bits |= program.SloppySCTP
	}
	if m.Losing {
		bits |= program.Losing
	}
	if m.Templates {
		templates = 1
	}
	atomic.StoreUint32(&s.template, templates)
	atomic.StoreUint32(&s.opening, bits)
}

// SetLimits implements accel.Opener.
func (p *Plane) SetLimits(id, limit uint32, quiescent bool) {
	if int(id) >= len(p.servers) || p.closed.Load() {
		return
	}
	word := uint32(0)
	if quiescent {
		word = 1
	}
	atomic.StoreUint32(&p.servers[id].limit, limit)
	atomic.StoreUint32(&p.servers[id].quiescent, word)
}

// SetLocals implements accel.Opener. The program knows the loopback addresses, and
// sees by a bit whether a source may be one of the host's single addresses: about those
// Go decides.
func (p *Plane) SetLocals(l *dataplane.Locals) (ipv4, ipv6 bool) {
	bits, ipv4, ipv6 := l.Filter()
	for family := range bits {
		for i, b := range bits[family] {
			atomic.StoreUint32(&p.settings.locals[family][i], b)
		}
	}
	return ipv4, ipv6
}
