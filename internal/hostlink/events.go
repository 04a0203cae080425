package hostlink

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	events "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// deleted are the interfaces that the kernel has taken away, by their numbers.
type deleted map[int]departure

// departure is how an interface went: to another network namespace, or not, and its link address, if it had one.
type departure struct {
	moved bool
	mac   dataplane.MAC
}

// others reports whether a departure was another interface's, whose number one has now that is there: what is
// heard of that may be late.
func (d departure) others(is Link, found netlink.Link) bool {
	none := dataplane.MAC{}
	return d.mac != none && d.mac != is.MAC && linkOf(is.Given, found).MAC == is.MAC
}

// subscribe opens the socket of the kernel's notifications, in the calling thread's network
// namespace.
func subscribe() (*events.Conn, error) {
	c, err := events.Dial(unix.NETLINK_ROUTE, nil)
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
func (d deleted) add(m events.Message) {
	if m.Header.Type != unix.RTM_DELLINK || len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_UNSPEC {
		return
	}
	var gone departure
	if attributes, err := events.NewAttributeDecoder(m.Data[unix.SizeofIfInfomsg:]); err == nil {
		for attributes.Next() {
			switch mac := attributes.Bytes(); {
			case attributes.Type() == unix.IFLA_NEW_IFINDEX:
				gone.moved = true
			case attributes.Type() == unix.IFLA_ADDRESS && len(mac) == len(gone.mac):
				gone.mac = dataplane.MAC(mac)
			}
		}
	}
	d[int(binary.NativeEndian.Uint32(m.Data[4:]))] = gone
}
