package tcx

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// A card that merges segments by itself (LRO) makes frames that must not be forwarded: they do not say how to cut
// them again (include/linux/skbuff.h, skb_warn_if_lro). The kernel switches that off where it forwards, and for
// bridges and generic XDP, but not for programs at an ingress (net/core/dev.c, dev_disable_lro).

// Requests of ethtool's, and the flag that they are about (include/uapi/linux/ethtool.h).
const (
	getFlags = 0x25    // ETHTOOL_GFLAGS
	setFlags = 0x26    // ETHTOOL_SFLAGS
	lro      = 1 << 15 // ETH_FLAG_LRO
)

// disableLRO has an interface, and those below it, merge nothing. It stays so. What does not say whether it does is
// left alone.
func (h *Hook) disableLRO(ifindex int) error {
	all, err := h.nl.LinkList()
	if err != nil {
		return fmt.Errorf("rtnetlink: %w", err)
	}
	for _, l := range below(all, ifindex) {
		name := l.Attrs().Name
		flags, err := h.ask(name, getFlags, 0)
		if err != nil || flags&lro == 0 {
			continue
		}
		if _, err = h.ask(name, setFlags, flags&^lro); err == nil {
			flags, err = h.ask(name, getFlags, 0)
		}
		if err == nil && flags&lro != 0 {
			err = errors.New("its driver keeps that on")
		}
		if err != nil {
			return fmt.Errorf("interface %s merges packets in its card and does not stop that (ethtool -K %s lro off); "+
				"so merged nobody may forward them: %w", name, name, err)
		}
	}
	return nil
}

// below returns an interface and all by which its frames come, as far as they are in this namespace: a VLAN device's
// or a macvlan's lower one, and the ports of a bond or a bridge.
func below(all []netlink.Link, ifindex int) (list []netlink.Link) {
	seen := map[int]bool{}
	var add func(index int)
	add = func(index int) {
		for _, l := range all {
			a := l.Attrs()
			switch {
			case a.MasterIndex == index && index != 0 && !seen[a.Index]:
				add(a.Index)
			case a.Index != index || seen[index]:
			default:
				seen[index] = true
				list = append(list, l)
				switch l.Type() {
				case "vlan", "macvlan", "ipvlan":
					if a.NetNsID < 0 { // its lower interface is here
						add(a.ParentIndex)
					}
				}
			}
		}
	}
	add(ifindex)
	return list
}
