package ulvs

import (
	"net/netip"

	"github.com/ulvs/ulvs/dataplane"
)

// Fact is something that an operator should know, in words.
type Fact = dataplane.Fact

// Control is everything that an operator can say to a director. director.Director has
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
