package ulvs

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/ulvs/ulvs/sched"
)

// Protocol is the IP protocol of a virtual service.
type Protocol uint8

// The protocols that IPVS balances in direct routing.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String is the name that ipvsadm prints: TCP, UDP, SCTP, or a number.
func (p Protocol) String() string {
	switch p {
	case 0:
		return "IP"
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("IP_%d", uint8(p))
}

// ServiceKey names a virtual service: by protocol, address and port, or by
// firewall mark and family, never by both. It is comparable. The zero value
// names nothing.
type ServiceKey struct {
	// Protocol, Addr and Port name a service by address. Port 0 is every
	// port, and is legal only with persistence.
	Protocol Protocol   `json:"protocol,omitempty"`
	Addr     netip.Addr `json:"addr,omitzero"`
	Port     uint16     `json:"port,omitempty"`
	// Mark, not 0, names a firewall-mark service; IPv6 says which family it
	// serves (ipvsadm -6).
	Mark uint32 `json:"mark,omitempty"`
	IPv6 bool   `json:"ipv6,omitempty"`
}

// AnyPort reports whether the key is that of a port-zero service.
func (k ServiceKey) AnyPort() bool { return k.Mark == 0 && k.Port == 0 }

// Is6 reports whether the service serves IPv6.
func (k ServiceKey) Is6() bool {
	if k.Mark != 0 {
		return k.IPv6
	}
	return k.Addr.Is6()
}

// String is the key as ipvsadm -S prints it: "-t 192.0.2.1:80", "-f 10 -6".
func (k ServiceKey) String() string {
	if k.Mark != 0 {
		if k.IPv6 {
			return fmt.Sprintf("-f %d -6", k.Mark)
		}
		return fmt.Sprintf("-f %d", k.Mark)
	}
	opt := "-t"
	switch k.Protocol {
	case UDP:
		opt = "-u"
	case SCTP:
		opt = "--sctp-service"
	}
	return opt + " " + netip.AddrPortFrom(k.Addr, k.Port).String()
}

// Persistence says how long and how closely a client stays with one real
// server. The zero value is a service without persistence.
type Persistence struct {
	// Timeout is how long a template lives after the last connection that it
	// gave, in whole seconds up to 31 days; 0 is no persistence.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Netmask is applied to the client's address only. An IPv4 mask need not
	// be contiguous. For IPv6 it is a prefix's mask. The zero Addr is one host.
	Netmask netip.Addr `json:"netmask,omitzero"`
	// Engine is a persistence engine's name ("sip"), or "".
	Engine string `json:"engine,omitempty"`
}

// Service is the configuration of a virtual service.
type Service struct {
	ServiceKey
	// Scheduler is ipvsadm's name of it; "" is wlc.
	Scheduler string `json:"scheduler,omitempty"`
	// SchedFlags are ipvsadm's -b; what they mean is the scheduler's.
	SchedFlags sched.Flags `json:"sched_flags,omitempty"`
	// Persistence is set for a persistent service; its timeout is then given.
	Persistence Persistence `json:"persistence,omitzero"`
	// OnePacket schedules each UDP packet by itself (ipvsadm -o).
	OnePacket bool `json:"one_packet,omitempty"`
}

// String is everything, in the words of ipvsadm -S: "-t 192.0.2.1:80 -s rr -p 300". Where
// the scheduler is not said, neither is it here.
func (s Service) String() string {
	words := []string{s.ServiceKey.String()}
	add := func(given bool, format string, args ...any) {
		if given {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	p := s.Persistence
	add(s.Scheduler != "", "-s %s", s.Scheduler)
	add(p.Timeout != 0, "-p %d", p.Timeout/time.Second)
	add(p.Netmask.IsValid(), "-M %v", p.Netmask)
	add(p.Engine != "", "--pe %s", p.Engine)
	add(s.OnePacket, "-o")
	for i, flag := range []sched.Flags{sched.Flag1, sched.Flag2, sched.Flag3} {
		add(s.SchedFlags&flag != 0, "-b flag-%d", i+1)
	}
	return strings.Join(words, " ")
}

// LogValue is what slog logs: everything, by name.
func (s Service) LogValue() slog.Value {
	return slog.GroupValue(slog.String("key", s.ServiceKey.String()), slog.String("scheduler", s.Scheduler),
		slog.Int("sched_flags", int(s.SchedFlags)),
		slog.Duration("timeout", s.Persistence.Timeout), slog.String("netmask", addrText(s.Persistence.Netmask)),
		slog.String("engine", s.Persistence.Engine),
		slog.Bool("one_packet", s.OnePacket))
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// ForwardMethod is how packets reach a real server. The zero value is direct
// routing, ipvsadm's default.
type ForwardMethod uint8

// The forwarding methods, by ipvsadm's option. Only packets of DirectRoute
// (and of real servers that are the director itself) are forwarded; the others
// are accepted and listed, and their packets are counted drops.
const (
	DirectRoute ForwardMethod = iota // -g
	Tunnel                           // -i
	Masquerade                       // -m
	Local                            // ipvsadm's name for a method that Linux 6.1 lists no more
)

// String is the name in ipvsadm's listing: Route, Tunnel, Masq, Local.
func (m ForwardMethod) String() string {
	switch m {
	case DirectRoute:
		return "Route"
	case Tunnel:
		return "Tunnel"
	case Masquerade:
		return "Masq"
	case Local:
		return "Local"
	}
	return "unknown"
}

// TunnelType is the encapsulation of a Tunnel destination.
type TunnelType uint8

// ipvsadm's --tun-type.
const (
	IPIP TunnelType = iota
	GUE
	GRE
)

// TunnelFlags are ipvsadm's --tun-nocsum (0), --tun-csum and --tun-remcsum
// (include/uapi/linux/ip_vs.h, IP_VS_TUNNEL_ENCAP_FLAG_*).
type TunnelFlags uint16

// The tunnel checksum flags.
const (
	TunnelChecksum       TunnelFlags = 1
	TunnelRemoteChecksum TunnelFlags = 2
)

// Destination is the configuration of one real server of a service.
type Destination struct {
	// Addr is the real server's address.
	Addr netip.Addr `json:"addr"`
	// Port is the service's own port in direct routing, 0 for a mark.
	Port uint16 `json:"port"`
	// Forward is how packets reach it.
	Forward ForwardMethod `json:"forward,omitempty"`
	// Weight is 0 (quiescent) to 2^31-1. The zero value is quiescent, so set
	// it: ipvsadm's default is 1.
	Weight int32 `json:"weight"`
	// From UpperThreshold connections on it is given no new ones, until there are fewer
	// than LowerThreshold, or than three quarters of the upper one if that is 0. An upper
	// one of 0 is none.
	UpperThreshold uint32 `json:"upper_threshold,omitempty"`
	LowerThreshold uint32 `json:"lower_threshold,omitempty"`
	// TunnelType, TunnelPort and TunnelFlags are for Tunnel; they are listed.
	TunnelType  TunnelType  `json:"tunnel_type,omitempty"`
	TunnelPort  uint16      `json:"tunnel_port,omitempty"`
	TunnelFlags TunnelFlags `json:"tunnel_flags,omitempty"`
}

// AddrPort is the destination's name within its service.
func (d Destination) AddrPort() netip.AddrPort { return netip.AddrPortFrom(d.Addr, d.Port) }
