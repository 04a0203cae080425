package afpacket

import (
	"fmt"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/hostlimit"
)

var _ dataplane.Limiting = (*Plane)(nil)

// ErrorLimits implements dataplane.Limiting: what the sysctls of the plane's network
// namespace say.
func (p *Plane) ErrorLimits() (l dataplane.ErrorLimits, err error) {
	err = p.ns.do(func() (err error) {
		l, err = hostlimit.Read(hostlimit.Root)
		return err
	})
	if err != nil {
		return l, fmt.Errorf("cannot read the host's limits for ICMP errors: %w", err)
	}
	return l, nil
}
