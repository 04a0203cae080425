package dataplane

import "time"

// ErrorLimits are how often a host sends ICMP errors, and other ICMP messages that its
// masks name: what its sysctls say. The director holds to them where it answers in the
// host's place or in that of IPVS.
type ErrorLimits struct {
	// Interval is the time between two messages to one IPv4 address, in the long run:
	// six may be sent at once (net.ipv4.icmp_ratelimit). 0 is no limit of this kind.
	Interval time.Duration
	// Mask has a bit for each ICMP type that is limited (net.ipv4.icmp_ratemask).
	// Fragmentation needed never is.
	Mask uint32
	// Interval6 and Mask6 are the same for IPv6 (net.ipv6.icmp.ratelimit, .ratemask).
	Interval6 time.Duration
	Mask6     [4]uint64
	// PerSecond is how many of the limited messages, of both families, are sent a second,
	// and Burst how many at once (net.ipv4.icmp_msgs_per_sec, icmp_msgs_burst).
	PerSecond, Burst int
}

// DefaultErrorLimits returns the kernel's defaults (net/ipv4/icmp.c, icmp_sk_init;
// net/ipv6/af_inet6.c, inet6_net_init).
func DefaultErrorLimits() ErrorLimits {
	const (
		types4     = 1<<3 | 1<<4 | 1<<11 | 1<<12 // what is no error is not limited
		packetBig6 = 2
	)
	return ErrorLimits{
		Interval: time.Second, Mask: types4,
		Interval6: time.Second, Mask6: [4]uint64{^uint64(1 << packetBig6), ^uint64(0)},
		PerSecond: 1000, Burst: 50,
	}
}

// Limiting is a Plane that knows how often its host sends ICMP errors.
type Limiting interface {
	// ErrorLimits reads what the host's sysctls say now; what the host does not say is
	// the kernel's default. The error says that nothing could be read. It may wait for
	// the system, and is not called for a packet.
	ErrorLimits() (ErrorLimits, error)
}
