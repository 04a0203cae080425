// Package hostlink says which of the host's interfaces are those that were given by name, and
// follows them: an interface is the one that it was when it was taken, by its number, also
// under another name. When it is gone, the next one of the given name takes its place.
package hostlink

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// Link and User are the border's.
type (
	Link = dataplane.Link
	User = dataplane.LinkUser
)

// Find returns the interface of a name, in the calling thread's network namespace. The error
// names it.
func Find(name string) (Link, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return Link{}, fmt.Errorf("rtnetlink: %w", err)
	}
	defer h.Close()
	found, err := h.LinkByName(name)
	if err != nil {
		return Link{}, missing(name, err)
	}
	return linkOf(name, found), nil
}

// Resolve looks for the interfaces of some names, in the calling thread's network namespace.
// Where nothing has a name, it is the one that an earlier process had by that name, whose
// number earlier has. It is an error if none is there, unless there was one earlier.
func Resolve(names []string, earlier map[string]int) ([]Link, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	defer h.Close()
	return resolve(h, names, earlier)
}

func resolve(h *netlink.Handle, names []string, earlier map[string]int) (links []Link, err error) {
	var not []string
	for _, name := range unique(names) {
		found, err := h.LinkByName(name)
		switch {
		case err == nil && has(links, found.Attrs().Index):
			return nil, fmt.Errorf("%s is another name of interface %s, which is given too: give it once",
				name, found.Attrs().Name)
		case err == nil:
			links = append(links, linkOf(name, found))
		case errors.As(err, new(netlink.LinkNotFoundError)):
			links, not = append(links, Link{Given: name}), append(not, name)
		default:
			return nil, missing(name, err)
		}
	}
	waits := false
	for i, l := range links {
		index, had := earlier[l.Given]
		if waits = waits || had || l.There(); l.There() || index == 0 || has(links, index) {
			continue
		}
		if found, err := h.LinkByIndex(index); err == nil {
			links[i] = linkOf(l.Given, found)
		}
	}
	if !waits {
		return nil, fmt.Errorf("there is no interface %s (ip link lists them)", strings.Join(not, ", "))
	}
	return links, nil
}

func has(links []Link, index int) bool {
	return slices.ContainsFunc(links, func(l Link) bool { return l.Index == index })
}

// missing says in one way that there is no interface of a name.
func missing(name string, err error) error {
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return fmt.Errorf("there is no interface %s (ip link lists them)", name)
	}
	return fmt.Errorf("cannot find interface %s: %w", name, err)
}

func linkOf(given string, found netlink.Link) Link {
	a := found.Attrs()
	l := Link{Given: given, Name: a.Name, Index: a.Index, MTU: a.MTU, Master: a.MasterIndex,
		Up: a.RawFlags&unix.IFF_UP != 0, Loopback: a.RawFlags&unix.IFF_LOOPBACK != 0}
	if len(a.HardwareAddr) == len(l.MAC) && !l.Loopback {
		l.Ethernet, l.MAC = true, dataplane.MAC(a.HardwareAddr)
	}
	return l
}

// Names are the names that interfaces have, of those that are there.
func Names(links []Link) (names []string) {
	for _, l := range links {
		if l.There() {
			names = append(names, l.Name)
		}
	}
	return names
}

// Facts describes interfaces to an operator: how each is served, by its number.
func Facts(links []Link, served map[int]string) (facts []dataplane.Fact) {
	for _, l := range links {
		switch how := served[l.Index]; {
		case !l.There():
			facts = append(facts, dataplane.Fact{Name: l.Given, Value: "not there; it is taken when it comes"})
		case how == "":
			facts = append(facts, dataplane.Fact{Name: l.Name, Value: "cannot be taken; it is tried again each second"})
		case l.Name != l.Given:
			facts = append(facts, dataplane.Fact{Name: l.Name, Value: how + ", given as " + l.Given})
		default:
			facts = append(facts, dataplane.Fact{Name: l.Name, Value: how})
		}
	}
	return facts
}

// unique returns names in their order, each once.
func unique(names []string) (list []string) {
	for _, name := range names {
		if !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}
