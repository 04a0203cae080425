package tcx

import (
	"errors"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// make makes a private interface, or finds it: a dummy or, where the kernel has none, a pair of which the
// other end does nothing.
func (h *Hook) make(d *device) error {
	found, err := h.nl.LinkByName(d.name)
	if err == nil && found.Attrs().Alias != alias {
		return errors.New("an interface of that name is somebody else's")
	}
	if err != nil {
		if err = h.add(d.name); err != nil {
			return err
		}
		d.made = true
		if found, err = h.nl.LinkByName(d.name); err != nil {
			return err
		}
	}
	d.index = found.Attrs().Index
	return errors.Join(
		h.nl.LinkSetAlias(found, alias),
		h.nl.LinkSetARPOff(found),
		h.nl.LinkSetMTU(found, MTU),
		h.mute(found),
		h.nl.LinkSetUp(found),
		h.raisePeer(found),
	)
}

// mute has the host give an interface no address of IPv6, if it has that (ipv6.disable=1).
func (h *Hook) mute(l netlink.Link) error {
	if err := h.nl.LinkSetIP6AddrGenMode(l, noAddress); !errors.Is(err, unix.EAFNOSUPPORT) {
		return err
	}
	return nil
}

func (h *Hook) add(name string) error {
	err := h.nl.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: name}})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return h.nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-"})
	}
	return err
}

// raisePeer sets the other end of a pair up, without which this one has no carrier.
func (h *Hook) raisePeer(l netlink.Link) error {
	if l.Type() != "veth" {
		return nil
	}
	peer, err := h.nl.LinkByName(l.Attrs().Name + "-")
	if err != nil {
		return err
	}
	return errors.Join(
		h.nl.LinkSetARPOff(peer),
		h.mute(peer),
		h.nl.LinkSetUp(peer),
	)
}
