package neigh

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// subscribe opens the socket of the kernel's notifications.
func subscribe() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	// Binding would end memberships that are there already.
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	for _, group := range []int{unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE} {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group))
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	// A burst of changes should not overflow it; without the privilege to force it,
	// net.core.rmem_max bounds it, and overflows are resynced.
	setReceiveBuffer(fd, 4<<20)
	return newSocket(fd, "rtnetlink")
}

// notice is one notification about a neighbour.
type notice struct {
	key     key
	state   state
	removed bool
}

// batch is what receive read at one go.
type batch struct {
	notices []notice
	other   bool // something else than a neighbour changed
	address bool // it is an address of the host's
}

// batchLimit bounds how many notifications are collected before they are carried out.
const batchLimit = 64

// receive passes notifications on until the socket is closed.
func (r *Resolver) receive(out chan<- batch, overflow chan<- struct{}, end <-chan struct{}) error {
	buf := make([]byte, 64<<10)
	for {
		var b batch
		for n := 0; n < batchLimit; n++ {
			read, _, from, err := r.events.receive(buf, nil, n == 0)
			switch {
			case errors.Is(err, unix.ENOBUFS):
				select {
				case overflow <- struct{}{}:
				default:
				}
				continue
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.EAGAIN):
				n = batchLimit
				continue
			case err != nil:
				return fmt.Errorf("rtnetlink notifications ended: %w", err)
			}
			if kernel, ok := from.(*unix.SockaddrNetlink); ok && kernel.Pid == 0 {
				b.add(buf[:read])
			}
		}
		if len(b.notices) == 0 && !b.other {
			continue
		}
		select {
		case out <- b:
		case <-end:
			return nil
		}
	}
}

// add takes in what one message says.
func (b *batch) add(message []byte) {
	list, err := syscall.ParseNetlinkMessage(message)
	if err != nil {
		b.other = true // whatever it was: look at everything
		return
	}
	for i := range list {
		m := &list[i]
		removed := m.Header.Type == unix.RTM_DELNEIGH
		if m.Header.Type != unix.RTM_NEWNEIGH && !removed {
			b.other = true
			b.address = b.address || m.Header.Type == unix.RTM_NEWADDR || m.Header.Type == unix.RTM_DELADDR
			continue
		}
		if k, s, ok := decodeMessage(m.Data); ok {
			b.notices = append(b.notices, notice{k, s, removed})
		}
	}
}
