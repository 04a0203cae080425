// Package lab makes small networks out of network namespaces: hosts joined by
// one Ethernet bridge, each a namespace of its own, with the addresses,
// routes, sysctls and neighbours that it was asked for. The demo, the
// conformance runner and tests use it.
//
// The process itself holds the namespaces, through file descriptors and one
// locked thread each, so nothing needs to be mounted: it works as root, and
// without root inside a user namespace (Unshare). When the process ends, the
// kernel takes everything away, children included.
package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// ErrPrivileges is wrapped by errors that say that this process may not make
// network namespaces. Unshare is the remedy.
var ErrPrivileges = errors.New("making network namespaces needs root, or a user namespace")

// Config describes a Lab. The zero value is an anonymous lab.
type Config struct {
	// Name, if not "", makes the lab visible to other programs: host h is
	// bound to /run/netns/Name-h, so that `ip netns exec Name-h …` works, also
	// after this process has ended without Close. It needs real root.
	Name string
}

// Lab is one Ethernet segment and the hosts on it. Its methods may be called
// from one goroutine at a time; those of its hosts from any.
type Lab struct {
	name   string
	bridge *namespace
	nl     *netlink.Handle
	index  int // of the bridge device
	cables int // that were laid by Cable
	hosts  []*Host
}

// New makes a lab that has a bridge and no hosts. Errors wrap ErrPrivileges
// when the process lacks the right to make namespaces.
func New(c Config) (*Lab, error) {
	l := &Lab{name: c.Name}
	if err := l.start(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *Lab) start() (err error) {
	if l.bridge, err = newNamespace(l.netnsName("bridge")); err != nil {
		return err
	}
	// The bridge takes no part in layer 3: no addresses of its own, so no
	// neighbour discovery to disturb the hosts'.
	if err := l.bridge.sysctl("-net.ipv6.conf.default.disable_ipv6", "1"); err != nil {
		return err
	}
	if l.nl, err = l.bridge.netlink(); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	// Snooping would keep multicast from hosts that have not joined yet.
	snoop := false
	br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snoop}
	if err := l.nl.LinkAdd(br); err != nil {
		return fmt.Errorf("add bridge: %w (the kernel needs the module bridge)", err)
	}
	link, err := l.nl.LinkByName("br0")
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	l.index = link.Attrs().Index
	if err := l.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set the bridge up: %w", err)
	}
	return nil
}

func (l *Lab) netnsName(host string) string {
	if l.name == "" {
		return ""
	}
	return l.name + "-" + host
}

// Hosts are the lab's hosts in the order in which they were added.
func (l *Lab) Hosts() []*Host { return l.hosts }

// Close kills the processes that still run in the hosts, by id, and gives the
// namespaces back. It may be called twice. Sockets that were opened in a host
// keep its namespace alive until they are closed too.
func (l *Lab) Close() error {
	var errs []error
	for _, h := range l.hosts {
		errs = append(errs, h.close())
	}
	l.hosts = nil
	if l.nl != nil {
		l.nl.Close()
		l.nl = nil
	}
	if l.bridge != nil {
		errs = append(errs, l.bridge.close())
		l.bridge = nil
	}
	return errors.Join(errs...)
}

// Do runs f on a thread that is in the bridge's network namespace. Its ports have the names of
// the hosts, or cable1 and so on (Cable).
func (l *Lab) Do(f func() error) error { return l.bridge.do(f) }

// Route is a route of a host. Without Via, Dst is on the link.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr
}

// Neighbor is a permanent neighbour entry.
type Neighbor struct {
	Addr netip.Addr
	MAC  net.HardwareAddr
}

// MAC is a locally administered address that ends in n: 02:00:00:00:…
func MAC(n uint32) net.HardwareAddr {
	return net.HardwareAddr{2, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
