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
	at, err := l.nl.LinkByName(port)
	if err != nil {
		return nil // a cable that was taken away
	}
	pass, err := passing()
	if err != nil {
		return fmt.Errorf("no program that passes all: %w", err)
	}
	defer unix.Close(pass)
	const drvMode = 1 << 2 // XDP_FLAGS_DRV_MODE
	return l.Do(func() error {
		if err := netlink.LinkSetXdpFdWithFlags(at, pass, drvMode); err != nil {
			return fmt.Errorf("a program that passes all, at %s: %w", port, err)
		}
		// The program has switched GRO on, which would hold segments back.
		return errors.Join(GRO.Set(port, false), Checksums.Set(port, false), TagsSent.Set(port, false))
	})
}
