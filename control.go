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
	// Version is IPVS's version line without its size, "1.2.1", and the size of the
	// connection table that goes with it.
	Version() (version string, size int, err error)

	// AddService adds a virtual service (ipvsadm -A). The error is ErrServiceExists,
	// ErrNoScheduler or ErrInvalid.
	AddService(Service) error
	// EditService gives a service another configuration (ipvsadm -E): what is zero is
	// set to zero. Its connections, templates and counters stay. The error is
	// ErrNoService, ErrNoScheduler or ErrInvalid.
	EditService(Service) error
	// DeleteService takes a service out (ipvsadm -D). Its connections go on to be
	// dropped until they expire. The error is ErrNoService.
	DeleteService(ServiceKey) error
	// Clear takes all services out (ipvsadm -C).
	Clear() error

	// AddDestination adds a real server to a service (ipvsadm -a). One that was removed
	// a short time ago gets its connections and counters back. The error is
	// ErrNoService, ErrDestinationExists, ErrInvalid or ErrRange.
	AddDestination(ServiceKey, Destination) error
	// EditDestination gives a real server, which is found by its address and port,
	// another configuration (ipvsadm -e). The error is ErrNoService, ErrNoDestination,
	// ErrInvalid or ErrRange.
	EditDestination(ServiceKey, Destination) error
	// DeleteDestination takes a real server out (ipvsadm -d). The error is ErrNoService
	// or ErrNoDestination.
	DeleteDestination(ServiceKey, netip.AddrPort) error

	// Services lists all services, in the kernel's order (ipvsadm -L).
	Services() ([]ServiceStatus, error)
	// Total is what /proc/net/ip_vs_stats shows.
	Total() (Total, error)
	// Service is one of them. The error is ErrNoService.
	Service(ServiceKey) (ServiceStatus, error)
	// Conns calls yield for each connection, and then for each template, until it
	// returns false (ipvsadm -Lc). The tables go on changing meanwhile: an entry that
	// comes or goes may be missed.
	Conns(yield func(ConnStatus) bool) error

	// Zero sets a service's counters to zero, and those of its real servers (ipvsadm -Z
	// with a service). The error is ErrNoService.
	Zero(ServiceKey) error
	// ZeroAll is Zero for all services (ipvsadm -Z).
	ZeroAll() error

	// Timeouts are those that ipvsadm -L --timeout shows.
	Timeouts() (Timeouts, error)
	// SetTimeouts sets them (ipvsadm --set): whole seconds up to 31 days, 0 keeps. A
	// connection has its new timeout from its next packet on. The error is ErrInvalid.
	SetTimeouts(Timeouts) error

	// MarkCommand carries out the words of an iptables command after the program's name,
	// or of an ip6tables command with ipv6, and returns what iptables would print. The
	// error says what iptables would, and is ErrInvalid where the words are wrong.
	MarkCommand(ipv6 bool, args []string) (string, error)
	// MarkSave is iptables-save of the mangle table.
	MarkSave(ipv6 bool) (string, error)
	// MarkRestore is iptables-restore of the mangle table: the text as a whole, or an
	// error that names its line.
	MarkRestore(ipv6 bool, text string) error

	// Sysctl reads net.ipv4.vs.NAME; name is the last part. The error is
	// ErrUnsupported.
	Sysctl(name string) (int, error)
	// SetSysctl sets it, in the kernel's units and within its bounds. The error is
	// ErrUnsupported or ErrInvalid.
	SetSysctl(name string, value int) error
	// Sysctls are all of them, by name.
	Sysctls() (map[string]int, error)

	// Batch carries out changes one after the other, as the method of each would, and calls
	// answer for each as it is done, by its place among them, until answer returns false.
	// What is in common is done once: a batch of thousands takes little longer than its
	// changes. The error says why the rest were not carried out, or that nobody knows
	// whether they were.
	Batch(changes []Change, answer func(n int, err error) (more bool)) error

	// Facts say how packets are carried, in words.
	Facts() ([]Fact, error)
	// Counters are the director's and its plane's counters since the start, by name:
	// frames, drops by cause; and how full the tables are.
	Counters() (map[string]uint64, error)
}
