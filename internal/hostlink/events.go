package hostlink

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// deleted are the numbers of interfaces that the kernel has taken away, and whether they have
// gone to another network namespace.
type deleted map[int]bool

// subscribe opens the socket of the kernel's notifications, in the calling thread's network
// namespace.
func subscribe() (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, err
	}
	if err := c.JoinGroup(unix.RTNLGRP_LINK); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	_ = c.SetReadBuffer(1 << 20) // what overflows is looked up
	return c, nil
}

// receive passes on what was deleted whenever something has changed, until ctx ends.
func (l *Links) receive(ctx context.Context, out chan<- deleted) error {
	for {
		messages, err := l.events.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
		case err != nil:
			return fmt.Errorf("rtnetlink notifications ended: %w", err)
		}
		l.generation.Add(1)
		gone := deleted{}
		for _, m := range messages {
			gone.add(m)
		}
		select {
		case out <- gone:
		case <-ctx.Done():
			return nil
		}
	}
}

// add notes what a message says. One of family AF_BRIDGE says that an interface has left a
// bridge (net/bridge/br_netlink.c, br_info_notify), and no more.
func (d deleted) add(m netlink.Message) {
	if m.Header.Type != unix.RTM_DELLINK || len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_UNSPEC {
		return
	}
	moved := false
	if attributes, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofIfInfomsg:]); err == nil {
		for attributes.Next() {
			moved = moved || attributes.Type() == unix.IFLA_NEW_IFINDEX
		}
	}
	d[int(binary.NativeEndian.Uint32(m.Data[4:]))] = moved
}
