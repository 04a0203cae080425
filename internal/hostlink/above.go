package hostlink

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Above returns the interfaces of the host over some of its interfaces, in the calling
// thread's network namespace: what comes to them comes by those. They are macvlans, VLANs and
// the like, and bridges and bonds.
func Above(links []Link) (list []Link, err error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	defer h.Close()
	all, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	under := map[int]bool{}
	for _, l := range links {
		under[l.Index], under[l.Master] = l.There(), true
	}
	delete(under, 0)
	for range all { // as many levels as there can be
		before := len(under)
		for _, found := range all {
			a := found.Attrs()
			switch {
			case under[a.Index]:
				if a.MasterIndex != 0 {
					under[a.MasterIndex] = true
				}
			case under[a.ParentIndex] && a.NetNsID < 0:
				under[a.Index] = true
			}
		}
		if len(under) == before {
			break
		}
	}
	for _, found := range all {
		l := linkOf("", found)
		given := slices.ContainsFunc(links, func(o Link) bool { return o.Index == l.Index })
		if under[l.Index] && !given && l.Ethernet && l.Up {
			list = append(list, l)
		}
	}
	return list, nil
}

// Generation is another number after each change of any of the host's interfaces.
func (l *Links) Generation() uint64 { return l.generation.Load() }
