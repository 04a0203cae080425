package ulvs

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"time"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/persist"
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
	Scheduler  string      `json:"scheduler,omitempty"`
	SchedFlags sched.Flags `json:"sched_flags,omitempty"`
	// Persistence is set for a persistent service; its timeout is then given.
	Persistence Persistence `json:"persistence,omitzero"`
	// OnePacket schedules each UDP packet by itself (ipvsadm -o).
	OnePacket bool `json:"one_packet,omitempty"`
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
	Addr netip.Addr `json:"addr"`
	// Port is the service's own port in direct routing, 0 for a mark.
	Port    uint16        `json:"port"`
	Forward ForwardMethod `json:"forward,omitempty"`
	// Weight is 0 (quiescent) to 2^31-1. The zero value is quiescent, so set
	// it: ipvsadm's default is 1.
	Weight int32 `json:"weight"`
	// UpperThreshold and LowerThreshold bound the connections; 0 is none.
	UpperThreshold uint32      `json:"upper_threshold,omitempty"`
	LowerThreshold uint32      `json:"lower_threshold,omitempty"`
	TunnelType     TunnelType  `json:"tunnel_type,omitempty"`
	TunnelPort     uint16      `json:"tunnel_port,omitempty"`
	TunnelFlags    TunnelFlags `json:"tunnel_flags,omitempty"`
}

// AddrPort is the destination's name within its service.
func (d Destination) AddrPort() netip.AddrPort { return netip.AddrPortFrom(d.Addr, d.Port) }

// check fills in and verifies a service (ip_vs_ctl.c, ip_vs_add_service).
func (s *Service) check() error {
	if s.Scheduler == "" {
		s.Scheduler = sched.Default
	}
	p := &s.Persistence
	switch {
	case !sched.Known(s.Scheduler):
		return fmt.Errorf("%w: scheduler %q, known are %v", ErrNoScheduler, s.Scheduler, sched.Names())
	case p.Engine != "" && !persist.KnownEngine(p.Engine):
		return fmt.Errorf("%w: persistence engine %q", ErrNoScheduler, p.Engine)
	case s.Mark == 0 && !s.Addr.IsValid():
		return fmt.Errorf("%w: a service has an address or a firewall mark", ErrInvalid)
	case s.Mark != 0 && (s.Addr.IsValid() || s.Port != 0):
		return fmt.Errorf("%w: a firewall mark's service has no address or port", ErrInvalid)
	case s.Mark == 0 && s.Protocol != TCP && s.Protocol != UDP && s.Protocol != SCTP:
		return fmt.Errorf("%w: protocol %v: use TCP, UDP or SCTP", ErrInvalid, s.Protocol)
	case p.Timeout < 0 || p.Timeout%time.Second != 0 || p.Timeout > maxPersistence:
		return fmt.Errorf("%w: persistent timeout %v: use whole seconds up to %v", ErrInvalid, p.Timeout, maxPersistence)
	case p.Netmask.IsValid() && p.Netmask.Is6() != s.Is6():
		return fmt.Errorf("%w: persistence netmask %v is of the other family", ErrInvalid, p.Netmask)
	case p.Netmask.IsValid() && p.Netmask.Is6() && !isPrefix(p.Netmask):
		return fmt.Errorf("%w: persistence netmask %v is not that of a prefix of 1 to 128 bits", ErrInvalid, p.Netmask)
	case s.Addr.Zone() != "":
		return fmt.Errorf("%w: address %v: without a zone", ErrInvalid, s.Addr)
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

// checkNumbers verifies a destination of a service, and checkAddr that its
// address is one that a real server can have (ip_vs_add_dest, ip_vs_new_dest,
// ip_vs_genl_set_cmd).
func (c *Destination) checkNumbers(k ServiceKey) error {
	c.Addr = c.Addr.Unmap()
	switch {
	case c.Weight < 0:
		return fmt.Errorf("%w: weight %d", ErrRange, c.Weight)
	case c.LowerThreshold > c.UpperThreshold:
		return fmt.Errorf("%w: lower threshold %d above upper threshold %d", ErrRange, c.LowerThreshold, c.UpperThreshold)
	case c.TunnelType == GUE && c.Forward == Tunnel && c.TunnelPort == 0:
		return fmt.Errorf("%w: a gue tunnel needs a port", ErrInvalid)
	case c.Forward > Masquerade:
		return fmt.Errorf("%w: forwarding method %v", ErrInvalid, c.Forward)
	case c.Addr.Is6() != k.Is6() && c.Forward != Tunnel:
		return fmt.Errorf("%w: real server %v is of another family than the service", ErrInvalid, c.Addr)
	}
	return nil
}

func (c *Destination) checkAddr() error {
	a := c.Addr
	if !a.IsValid() || a.Zone() != "" || a.IsMulticast() || a.IsUnspecified() ||
		a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240) || a.Is6() && a.IsLinkLocalUnicast() {
		return fmt.Errorf("%w: real server %v is no unicast address", ErrInvalid, a)
	}
	return nil
}

// Fact is something that an operator should know, in words.
type Fact = dataplane.Fact

// Control is everything that an operator can say to a director. Director has
// these methods, and so has the client of a running daemon: what speaks to one
// speaks to the other.
//
// All methods may be called from any goroutine. An error leaves everything as
// it was.
type Control interface {
	// Version is IPVS's version line without its size: "1.2.1", and the size
	// of the connection table.
	Version() (version string, size int, err error)

	AddService(Service) error       // ipvsadm -A: ErrServiceExists, ErrNoScheduler, ErrInvalid
	EditService(Service) error      // ipvsadm -E: ErrNoService, ErrNoScheduler, ErrInvalid
	DeleteService(ServiceKey) error // ipvsadm -D: ErrNoService
	Clear() error                   // ipvsadm -C

	AddDestination(ServiceKey, Destination) error       // ipvsadm -a: ErrNoService, ErrDestinationExists, ErrInvalid, ErrRange
	EditDestination(ServiceKey, Destination) error      // ipvsadm -e: ErrNoService, ErrNoDestination, ErrRange
	DeleteDestination(ServiceKey, netip.AddrPort) error // ipvsadm -d: ErrNoService, ErrNoDestination

	// Services lists all services in the kernel's order; Service one of them.
	Services() ([]ServiceStatus, error)
	Service(ServiceKey) (ServiceStatus, error)
	// Conns calls yield for each connection and template until it returns
	// false. The table goes on changing meanwhile.
	Conns(yield func(ConnStatus) bool) error

	Zero(ServiceKey) error // ipvsadm -Z of one service: ErrNoService
	ZeroAll() error        // ipvsadm -Z

	Timeouts() (Timeouts, error)
	SetTimeouts(Timeouts) error

	// MarkCommand carries out the words of an iptables (or, when ipv6 is
	// set, ip6tables) command after the program's name and returns what
	// iptables would print. MarkSave and MarkRestore are iptables-save and
	// iptables-restore of the mangle table.
	MarkCommand(ipv6 bool, args []string) (string, error)
	MarkSave(ipv6 bool) (string, error)
	MarkRestore(ipv6 bool, text string) error

	// Sysctl and SetSysctl read and write net.ipv4.vs.NAME; name is the last
	// part. Sysctls lists all of them, sorted.
	Sysctl(name string) (int, error)
	SetSysctl(name string, value int) error
	Sysctls() (map[string]int, error)

	// Facts say how packets are carried, in words.
	Facts() ([]Fact, error)

	// Counters are the director's and its plane's counters by name: drops by
	// cause, table occupancy.
	Counters() (map[string]uint64, error)
}

// The errors of the control verbs. ipvsadm prints a text of its own for each,
// which depends on the verb too (libipvs, ipvs_strerror). Test with errors.Is;
// what a Director returns wraps them with what was wrong.
var (
	ErrServiceExists     = errors.New("service already exists")
	ErrNoService         = errors.New("no such service")
	ErrDestinationExists = errors.New("destination already exists")
	ErrNoDestination     = errors.New("no such destination")
	ErrNoScheduler       = errors.New("scheduler or persistence engine not found")
	// ErrInvalid is the kernel's EINVAL: a value that no command line of
	// ipvsadm's would produce, or an address that cannot be a real server's.
	ErrInvalid = errors.New("invalid argument")
	// ErrRange is the kernel's ERANGE: a negative weight, or a lower threshold
	// above the upper one.
	ErrRange = errors.New("numerical result out of range")
	// ErrUnsupported is for what ulvs does not have (yet), as a sync daemon.
	ErrUnsupported = errors.New("not supported")
	// ErrUnreachable says that no daemon answered.
	ErrUnreachable = errors.New("no ulvs daemon")
	// ErrPermission says that the caller may not do this.
	ErrPermission = errors.New("permission denied")
)
