package xdp

import (
	"context"
	"net"
	"time"

	"github.com/ulvs/ulvs/dataplane"
)

// addressInterval is how long a program may have an address that its interface has not any
// more: its packets go another way meanwhile, and are not lost.
const addressInterval = 250 * time.Millisecond

// macs are the addresses to which a program takes frames: the interface's own and, unless it
// is zero, another one.
func macs(own, other dataplane.MAC) []dataplane.MAC {
	if other == (dataplane.MAC{}) {
		return []dataplane.MAC{own}
	}
	return []dataplane.MAC{own, other}
}

// addresses keeps programs at the addresses of their interfaces.
type addresses struct{ *Plane }

// follow puts another program in the place of one whose interface has got another address:
// an operator changes it, or a bond whose first member leaves.
func (p addresses) follow(ctx context.Context) {
	links := p.Resolver()
	if links == nil {
		return
	}
	every := time.NewTicker(addressInterval)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		p.mu.Lock()
		for _, at := range p.attached {
			if mac, known := links.LinkAddr(at.ifindex); known && mac != at.mac {
				p.replace(at, mac)
			}
		}
		p.mu.Unlock()
	}
}

// replace replaces an interface's program. The caller holds mu.
func (p addresses) replace(at *attachment, mac dataplane.MAC) {
	was := at.mac
	at.mac = mac // said once, whatever becomes of it
	before := at.prog
	prog, err := p.load(p.acceleration, p.ticks, at.ifindex, macs(mac, p.mac), at.socketMap)
	if err == nil {
		err = at.link.Update(prog)
	}
	if err != nil {
		p.log.Error("the address of an interface has changed, and its program cannot be replaced: its packets are "+
			"the daemon's; start that anew with --takeover", "interface", at.name,
			"from", net.HardwareAddr(was[:]).String(), "to", net.HardwareAddr(mac[:]).String(), "err", err)
		return
	}
	at.prog = prog
	for i, old := range p.progs {
		if old == before {
			p.progs = append(p.progs[:i], p.progs[i+1:]...)
			break
		}
	}
	_ = before.Close()
	p.log.Warn("the address of an interface has changed, and the program follows", "interface", at.name,
		"from", net.HardwareAddr(was[:]).String(), "to", net.HardwareAddr(mac[:]).String())
}
