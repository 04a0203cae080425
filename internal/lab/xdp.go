package lab

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TakeXDP has the bridge's ends of a host's cables, those to come too, do what XDP programs in the
// drivers of the host's ends need: take the frames that those send, by a program of their own that passes
// all, and send whole ones, with their checksums and VLAN tags. It needs the rights that BPF does.
func (l *Lab) TakeXDP(h *Host) error {
	if h.byXDP {
		return nil
	}
	h.byXDP = true
	for _, port := range h.ports {
		if err := l.takeXDP(port); err != nil {
			return fmt.Errorf("host %s: %w", h.name, err)
		}
	}
	return nil
}

func (l *Lab) takeXDP(port string) error {
	if _, err := l.nl.LinkByName(port); err != nil {
		return nil // a cable that was taken away
	}
	return l.Do(func() error { return takeXDP(l.nl, port) })
}

// TakeXDP has an interface of a host's do so, whose other end is another host's.
func (h *Host) TakeXDP(name string) error {
	return h.Do(func() error { return takeXDP(h.nl, name) })
}

// takeXDP does so in the calling thread's network namespace.
func takeXDP(nl *netlink.Handle, name string) error {
	at, err := nl.LinkByName(name)
	if err != nil {
		return err
	}
	pass, err := passing()
	if err != nil {
		return fmt.Errorf("no program that passes all: %w", err)
	}
	defer unix.Close(pass)
	const drvMode = 1 << 2 // XDP_FLAGS_DRV_MODE
	if err := netlink.LinkSetXdpFdWithFlags(at, pass, drvMode); err != nil {
		return fmt.Errorf("a program that passes all, at %s: %w", name, err)
	}
	// The program has switched GRO on, which would hold segments back.
	return errors.Join(GRO.Set(name, false), Checksums.Set(name, false), TagsSent.Set(name, false))
}
