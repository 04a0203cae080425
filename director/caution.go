package director

import (
	"fmt"

	"github.com/ulvs/ulvs"
)

const unreached = "packets for real server %v are dropped: it is this host, which takes none by way of lo; " +
	"set lo up, and the sysctls net.ipv4.conf.all.rp_filter and net.ipv4.conf.lo.rp_filter to 0 or 2, and start ulvs anew"

// Caution says why packets would not reach a real server; "" if nothing is known that keeps
// them: it is the director itself, and the plane has no way to the host's own stack.
func (d *Director) Caution(c ulvs.Destination) string {
	if c.Forward != ulvs.DirectRoute || !d.plane.Withholds() || d.plane.Injects() || !d.resolver.Local(c.Addr) {
		return ""
	}
	return fmt.Sprintf(unreached, c.AddrPort())
}
