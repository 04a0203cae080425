package afpacket

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// reserve takes an interface for this plane: two that share one would answer
// twice, and take each other's claims away. The lock is the name of an abstract
// unix socket: the kernel keeps those by network namespace, and drops them with
// the process. A name that was just closed may not be free yet: a program that the
// process starts at that moment has all its descriptors, until it is there.
func reserve(name string, ifindex int) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot reserve %s: %w", name, err)
	}
	for end := time.Now().Add(time.Second); ; time.Sleep(10 * time.Millisecond) {
		err = unix.Bind(fd, reservedName(ifindex))
		if !errors.Is(err, unix.EADDRINUSE) || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		if errors.Is(err, unix.EADDRINUSE) {
			return -1, fmt.Errorf("another ulvs has interface %s: stop that one, or give other interfaces", name)
		}
		return -1, fmt.Errorf("cannot reserve %s: %w", name, err)
	}
	return fd, nil
}

// reservedName is the name that the plane of an interface has.
func reservedName(ifindex int) unix.Sockaddr {
	return &unix.SockaddrUnix{Name: fmt.Sprintf("@ulvs/interface/%d", ifindex)}
}
