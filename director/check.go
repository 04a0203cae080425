package director

import (
	"fmt"
	"math/bits"
	"net/netip"
	"strings"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/persist"
	"github.com/ulvs/ulvs/sched"
)

// checkService fills in and verifies a service (ip_vs_ctl.c, ip_vs_add_service).
func checkService(s *ulvs.Service) error {
	if s.Scheduler == "" {
		s.Scheduler = sched.Default
	}
	p := &s.Persistence
	switch {
	case !sched.Known(s.Scheduler):
		return fmt.Errorf("%w: scheduler %q, known are %s", ulvs.ErrNoScheduler, s.Scheduler, strings.Join(sched.Names(), ", "))
	case p.Engine != "" && !persist.KnownEngine(p.Engine):
		return fmt.Errorf("%w: persistence engine %q, known is sip", ulvs.ErrNoScheduler, p.Engine)
	case s.Mark == 0 && !s.Addr.IsValid():
		return fmt.Errorf("%w: a service needs an address or a firewall mark", ulvs.ErrInvalid)
	case s.Mark != 0 && (s.Addr.IsValid() || s.Port != 0):
		return fmt.Errorf("%w: a firewall mark's service has no address or port", ulvs.ErrInvalid)
	case s.Mark == 0 && s.Protocol != ulvs.TCP && s.Protocol != ulvs.UDP && s.Protocol != ulvs.SCTP:
		return fmt.Errorf("%w: protocol %v: use TCP, UDP or SCTP", ulvs.ErrInvalid, s.Protocol)
	case p.Timeout < 0 || p.Timeout%time.Second != 0 || p.Timeout > maxPersistence:
		return fmt.Errorf("%w: persistent timeout %v: use whole seconds up to %d", ulvs.ErrInvalid, p.Timeout, maxPersistence/time.Second)
	case p.Netmask.IsValid() && p.Netmask.Is6() != s.Is6():
		return fmt.Errorf("%w: persistence netmask %v is of the other family", ulvs.ErrInvalid, p.Netmask)
	case p.Netmask.IsValid() && p.Netmask.Is6() && !isPrefix(p.Netmask):
		return fmt.Errorf("%w: persistence netmask %v is not that of a prefix of 1 to 128 bits", ulvs.ErrInvalid, p.Netmask)
	case s.Addr.Zone() != "":
		return fmt.Errorf("%w: address %v: give it without a zone", ulvs.ErrInvalid, s.Addr)
	}
	if s.Mark != 0 {
		s.Protocol = 0
	}
	return nil
}

// isPrefix reports an IPv6 mask that is ones and then zeros, but not only zeros.
func isPrefix(mask netip.Addr) bool {
	b := mask.As16()
	ones := 0
	for _, x := range b {
		n := bits.LeadingZeros8(^x)
		ones += n
		if n < 8 {
			break
		}
	}
	all := [16]byte{}
	for i := range ones {
		all[i/8] |= 0x80 >> (i % 8)
	}
	return ones > 0 && all == b
}

// checkNumbers verifies a destination of a service (ip_vs_add_dest, ip_vs_genl_set_cmd).
func checkNumbers(c *ulvs.Destination, k ulvs.ServiceKey) error {
	switch {
	case c.Weight < 0:
		return fmt.Errorf("%w: weight %d: use 0 or more", ulvs.ErrRange, c.Weight)
	case c.LowerThreshold > c.UpperThreshold:
		return fmt.Errorf("%w: lower threshold %d above upper threshold %d: give it no higher", ulvs.ErrRange, c.LowerThreshold, c.UpperThreshold)
	case c.TunnelType == ulvs.GUE && c.Forward == ulvs.Tunnel && c.TunnelPort == 0:
		return fmt.Errorf("%w: a gue tunnel needs a port: give --tun-port", ulvs.ErrInvalid)
	case c.Forward > ulvs.Masquerade:
		return fmt.Errorf("%w: forwarding method %v: there are -g, -i and -m", ulvs.ErrInvalid, c.Forward)
	case c.Addr.Is6() != k.Is6() && c.Forward != ulvs.Tunnel:
		return fmt.Errorf("%w: real server %v is of another family than the service: only a tunnel goes there", ulvs.ErrInvalid, c.Addr)
	}
	return nil
}

// checkAddr verifies that an address is one that a real server can have: unicast, or in
// IPv6 the host's own (ip_vs_new_dest; inet_addr_type, ipv6_addr_type). Of IPv4, what
// is no broadcast and no multicast is unicast, 240.0.0.0/4 too.
func checkAddr(a netip.Addr, host dataplane.Resolver) error {
	limited := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	what := ""
	switch {
	case !a.IsValid():
		return fmt.Errorf("%w: a real server needs an address", ulvs.ErrInvalid)
	case a.Zone() != "":
		return fmt.Errorf("%w: real server %v: give its address without a zone", ulvs.ErrInvalid, a)
	case a == limited || a.Is4() && (a.IsUnspecified() || host.Broadcast(a)):
		what = "a broadcast address"
	case a.Is4() && a.IsMulticast():
		what = "a multicast address"
	case a.Is4() || host.Local(a):
	case a.IsUnspecified():
		what = "no address of a host"
	case a.IsMulticast():
		what = "a multicast address"
	case a.IsLinkLocalUnicast():
		what = "a link-local address of another host"
	case a.Is4In6():
		what = "an IPv4-mapped address"
	}
	if what != "" {
		return fmt.Errorf("%w: real server %v is %s: use a unicast address", ulvs.ErrInvalid, a, what)
	}
	return nil
}
