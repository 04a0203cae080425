package bridge

import "golang.org/x/sys/unix"

// socket makes one of generic netlink, as the program would, in its window. Where that is full,
// it is the kernel's.
func (c *call) socket() (value int64, errno unix.Errno, ours bool) {
	netns, err := c.netns()
	if err != nil {
		return 0, 0, false
	}
	defer unix.Close(netns)
	typ, fd := int(int32(c.args[1])), -1
	err = within(netns, func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, typ|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
		return err
	})
	if err != nil {
		return 0, 0, false // the kernel says what is wrong
	}
	defer unix.Close(fd)
	c.opening.Lock()
	defer c.opening.Unlock()
	at := c.free(c.window)
	if at < 0 {
		return 0, 0, false
	}
	flags := uint32(0)
	if typ&unix.SOCK_CLOEXEC != 0 {
		flags = unix.O_CLOEXEC
	}
	value, errno = c.addFD(addedFD{id: c.id, flags: unix.SECCOMP_ADDFD_FLAG_SETFD, from: uint32(fd), to: uint32(at),
		toFlags: flags})
	return value, 0, errno == 0
}

// kernelSocket is a socket of generic netlink of a program's.
type kernelSocket struct {
	fd     int
	cookie uint64 // its number, as long as it is there
	netns  uint64 // of its network namespace
	port   uint32 // its own
	capAck bool
}

// socketOf looks at what a descriptor is. The error is ENOTSOCK for anything else.
func socketOf(fd int) (k kernelSocket, err error) {
	k.fd = fd
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || domain != unix.AF_NETLINK {
		return k, unix.ENOTSOCK
	}
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil || protocol != unix.NETLINK_GENERIC {
		return k, unix.ENOTSOCK
	}
	if k.cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		return k, err
	}
	k.netns, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return k, err
}

// ready learns what an answer needs. A socket that has no port yet is given one, as the kernel
// does when it sends first (netlink_autobind).
func (k *kernelSocket) ready() error {
	for {
		name, err := unix.Getsockname(k.fd)
		if err != nil {
			return err
		}
		if nl, is := name.(*unix.SockaddrNetlink); is && nl.Pid != 0 {
			k.port = nl.Pid
			break
		}
		if err := unix.Bind(k.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
	}
	capAck, _ := unix.GetsockoptInt(k.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK)
	k.capAck = capAck != 0
	return nil
}

// namespaceOf is the network namespace of a socket. The caller closes it.
func namespaceOf(fd int) (int, error) { return unix.IoctlRetInt(fd, unix.SIOCGSKNS) }
