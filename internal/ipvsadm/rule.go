package ipvsadm

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/sched"
)

// rules prints a service and its real servers as the options that make them
// (-S).
func (r *runner) rules(s *ulvs.ServiceStatus, f format) {
	var name string
	switch {
	case s.Mark != 0 && s.IPv6:
		name = fmt.Sprintf("-f %d -6", int32(s.Mark)) // signed, as in the original
	case s.Mark != 0:
		name = fmt.Sprintf("-f %d", int32(s.Mark))
	default:
		opt := "--xxx-service" // the original's word for a protocol that it does not know
		switch s.Protocol {
		case ulvs.TCP:
			opt = "-t"
		case ulvs.UDP:
			opt = "-u"
		case ulvs.SCTP:
			opt = "--sctp-service"
		}
		name = opt + " " + r.name(addrPort(s), s.Protocol, f.has(formatNumeric))
	}
	fmt.Fprintf(r.out, "-A %s -s %s", name, s.Scheduler)
	if p := s.Persistence; p.Timeout != 0 {
		fmt.Fprintf(r.out, " -p %d", int64(p.Timeout.Seconds()))
		if m := maskName(p); m != "" {
			fmt.Fprintf(r.out, " -M %s", m)
		}
	}
	if s.Persistence.Engine != "" {
		fmt.Fprintf(r.out, " --pe %s", s.Persistence.Engine)
	}
	if s.OnePacket {
		r.out.WriteString(" -o")
	}
	if s.SchedFlags != 0 {
		fmt.Fprintf(r.out, " -b %s", flagNames(s.Scheduler, s.SchedFlags))
	}
	r.out.WriteString("\n")
	for _, d := range sorted(s.Destinations, f) {
		fmt.Fprintf(r.out, "-a %s -r %s %s -w %d%s\n", name,
			r.name(d.AddrPort(), s.Protocol, f.has(formatNumeric)),
			forwardOption(d.Forward), d.Weight, tunnelOptions(&d))
	}
}

func addrPort(s *ulvs.ServiceStatus) netip.AddrPort { return netip.AddrPortFrom(s.Addr, s.Port) }

func forwardOption(m ulvs.ForwardMethod) string {
	switch m {
	case ulvs.Masquerade:
		return "-m"
	case ulvs.Tunnel:
		return "-i"
	}
	return "-g"
}

// maskName is a persistence mask as it is printed, or "" for one host.
func maskName(p ulvs.Persistence) string {
	m := p.Netmask
	switch {
	case !m.IsValid(), m == addr4(hostMask4), m == prefixMask(hostMask6):
		return ""
	case m.Is4():
		return m.String()
	}
	return decimal(uint64(prefixLength(m)))
}

// flagNames are the names of scheduler flags, with commas. A scheduler that has
// names of its own shows no others.
func flagNames(scheduler string, flags sched.Flags) string {
	owner := ""
	if scheduler == "sh" || scheduler == "mh" {
		owner = scheduler
	}
	var names []string
	for _, f := range schedFlags {
		if f.scheduler == owner && flags&f.flag != 0 {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, ",")
}

// checksum is an index into names for the checksum flags of a tunnel.
func checksum(flags ulvs.TunnelFlags) int {
	switch {
	case flags&ulvs.TunnelRemoteChecksum != 0:
		return 2
	case flags&ulvs.TunnelChecksum != 0:
		return 1
	}
	return 0
}

// tunnelOptions are the options of a tunnel in a rule.
func tunnelOptions(d *ulvs.DestinationStatus) string {
	if d.Forward != ulvs.Tunnel {
		return ""
	}
	opt := [...]string{"--tun-nocsum", "--tun-csum", "--tun-remcsum"}[checksum(d.TunnelFlags)]
	switch d.TunnelType {
	case ulvs.IPIP:
		return " --tun-type ipip"
	case ulvs.GUE:
		return fmt.Sprintf(" --tun-type gue --tun-port %d %s", d.TunnelPort, opt)
	case ulvs.GRE:
		return " --tun-type gre " + opt
	}
	return ""
}

// tunnelInfo is the column of --tun-info.
func tunnelInfo(d *ulvs.DestinationStatus) string {
	if d.Forward != ulvs.Tunnel {
		return "n/a"
	}
	sum := [...]string{"-c", "+c", "r+c"}[checksum(d.TunnelFlags)]
	switch d.TunnelType {
	case ulvs.IPIP:
		return "ipip"
	case ulvs.GUE:
		// In 15 characters, as the original: a port of five digits fits.
		return cut(fmt.Sprintf("gue:%d:%s", d.TunnelPort, sum), 15)
	case ulvs.GRE:
		return "gre:" + sum
	}
	return "n/a"
}
