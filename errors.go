package ulvs

import "errors"

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
	// ErrNoAnswer says that there is a daemon, which did not answer in time.
	ErrNoAnswer = errors.New("the daemon did not answer")
	// ErrPermission says that the caller may not do this.
	ErrPermission = errors.New("permission denied")
)
