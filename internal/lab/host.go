package lab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// HostConfig describes a host: a namespace with lo, and eth0 on the bridge.
type HostConfig struct {
	// Name is the host's name in the lab: at most 15 bytes, since its end of
	// the cable on the bridge has it too.
	Name string
	// MAC is eth0's address; nil lets the kernel choose.
	MAC net.HardwareAddr
	// MTU is eth0's; 0 is 1500.
	MTU int
	// Queues is how many queues the cable has each way; 0 is one.
	Queues int
	// Addrs are eth0's addresses, Loopback those of lo besides its own.
	Addrs    []netip.Prefix
	Loopback []netip.Prefix
	Routes   []Route
	// Neighbors are permanent neighbour entries of eth0.
	Neighbors []Neighbor
	// Sysctls are name and value, written in this order before eth0 comes up.
	// A name that starts with "-" may be missing.
	Sysctls [][2]string
}

// Host is one network stack of a Lab. Its methods may be called from any
// goroutine, until the lab is closed.
type Host struct {
	name  string
	ns    *namespace
	nl    *netlink.Handle
	mac   net.HardwareAddr
	index int
	ports []string // the bridge's ends of its cables
	byXDP bool     // those take what XDP programs of its send

	mu       sync.Mutex
	children map[*os.Process]struct{}
}

// Add makes a host and joins it to the bridge. All of its addresses are usable
// at once: duplicate address detection is off.
func (l *Lab) Add(c HostConfig) (*Host, error) {
	h := &Host{name: c.Name, children: make(map[*os.Process]struct{})}
	var err error
	if h.ns, err = newNamespace(l.netnsName(c.Name)); err != nil {
		return nil, fmt.Errorf("host %s: %w", c.Name, err)
	}
	l.hosts = append(l.hosts, h) // from here on, Close cleans it up
	if err := h.configure(l, c); err != nil {
		return nil, fmt.Errorf("host %s: %w", c.Name, err)
	}
	return h, nil
}

func (h *Host) configure(l *Lab, c HostConfig) (err error) {
	if h.nl, err = h.ns.netlink(); err != nil {
		return err
	}
	sysctls := [][2]string{
		{"-net.ipv6.conf.default.accept_dad", "0"},
		{"-net.ipv6.conf.default.accept_ra", "0"},
	}
	for _, s := range append(sysctls, c.Sysctls...) {
		if err := h.ns.sysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	if err := h.plug(l, c); err != nil {
		return err
	}
	lo, err := h.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	eth, err := h.nl.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0: %w", err)
	}
	h.index, h.mac = eth.Attrs().Index, eth.Attrs().HardwareAddr
	for _, link := range []netlink.Link{lo, eth} {
		if err := h.nl.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", link.Attrs().Name, err)
		}
	}
	for _, p := range c.Loopback {
		if err := h.addAddr(lo, p); err != nil {
			return err
		}
	}
	for _, p := range c.Addrs {
		if err := h.addAddr(eth, p); err != nil {
			return err
		}
	}
	for _, r := range c.Routes {
		if err := h.AddRoute(r); err != nil {
			return err
		}
	}
	for _, n := range c.Neighbors {
		if err := h.SetNeighbor(n); err != nil {
			return err
		}
	}
	return nil
}

// plug lays the cable: a veth pair from the bridge to the host.
func (h *Host) plug(l *Lab, c HostConfig) error { return h.cable(l, c.Name, "eth0", c) }

// Cable lays one more cable from a host to the bridge, or anew one that was taken away: an
// interface of that name, which is down and has no address.
func (l *Lab) Cable(h *Host, name string, mac net.HardwareAddr) error {
	l.cables++
	if err := h.cable(l, fmt.Sprint("cable", l.cables), name, HostConfig{MAC: mac}); err != nil {
		return fmt.Errorf("host %s: %w", h.name, err)
	}
	return nil
}

func (h *Host) cable(l *Lab, portName, name string, c HostConfig) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = portName
	attrs.MTU = c.MTU
	attrs.MasterIndex = l.index
	veth := &netlink.Veth{
		LinkAttrs:        attrs,
		PeerName:         name,
		PeerHardwareAddr: c.MAC,
		PeerNamespace:    netlink.NsFd(h.ns.fd),
	}
	if c.MTU != 0 {
		veth.PeerMTU = uint32(c.MTU)
	}
	if n := c.Queues; n > 0 {
		veth.NumTxQueues, veth.NumRxQueues, veth.PeerNumTxQueues, veth.PeerNumRxQueues = n, n, uint32(n), uint32(n)
	}
	if err := l.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth pair: %w (the kernel needs the module veth)", err)
	}
	port, err := l.nl.LinkByName(portName)
	if err != nil {
		return fmt.Errorf("find its port on the bridge: %w", err)
	}
	if err := l.nl.LinkSetUp(port); err != nil {
		return fmt.Errorf("set a bridge port up: %w", err)
	}
	if h.ports = append(h.ports, portName); h.byXDP {
		return l.takeXDP(portName)
	}
	return nil
}

func (h *Host) addAddr(link netlink.Link, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := h.nl.AddrAdd(link, a); err != nil {
		return fmt.Errorf("add address %v to %s: %w", p, link.Attrs().Name, err)
	}
	return nil
}

// AddRoute adds a route through eth0.
func (h *Host) AddRoute(r Route) error {
	route := &netlink.Route{LinkIndex: h.index, Dst: ipNet(r.Dst.Masked())}
	if r.Via.IsValid() {
		route.Gw = r.Via.AsSlice()
	} else {
		route.Scope = netlink.SCOPE_LINK
	}
	if err := h.nl.RouteAdd(route); err != nil {
		return fmt.Errorf("add route %v via %v: %w", r.Dst, r.Via, err)
	}
	return nil
}

// SetNeighbor adds a permanent neighbour entry to eth0, or replaces one.
func (h *Host) SetNeighbor(n Neighbor) error {
	err := h.nl.NeighSet(&netlink.Neigh{
		LinkIndex: h.index, State: netlink.NUD_PERMANENT,
		IP: n.Addr.AsSlice(), HardwareAddr: n.MAC,
	})
	if err != nil {
		return fmt.Errorf("set neighbour %v at %v: %w", n.Addr, n.MAC, err)
	}
	return nil
}

// Name is the host's name in the lab.
func (h *Host) Name() string { return h.name }

// MAC is eth0's address.
func (h *Host) MAC() net.HardwareAddr { return slices.Clone(h.mac) }

// Index is the kernel's index of eth0 in this host.
func (h *Host) Index() int { return h.index }

// Namespace is the descriptor of the host's network namespace, to move interfaces there. It is
// the host's: do not close it.
func (h *Host) Namespace() int { return int(h.ns.fd) }

// Netlink is a route netlink handle in this host, for what has no method here.
// It is the host's: do not close it.
func (h *Host) Netlink() *netlink.Handle { return h.nl }

// Sysctl writes a sysctl in this host, by its dotted name.
func (h *Host) Sysctl(name, value string) error {
	if err := h.ns.sysctl(name, value); err != nil {
		return fmt.Errorf("host %s: %w", h.name, err)
	}
	return nil
}

// Do runs f on a thread that is in this host's network namespace, and returns
// f's error. Sockets that f opens belong to the host for good and can be used
// anywhere. Goroutines that f starts are not in the host.
func (h *Host) Do(f func() error) error { return h.ns.do(f) }

func (h *Host) close() error {
	h.mu.Lock()
	for p := range h.children {
		_ = p.Kill() // it may have ended by itself
	}
	h.mu.Unlock()
	if h.nl != nil {
		h.nl.Close()
	}
	if err := h.ns.close(); err != nil {
		return fmt.Errorf("close host %s: %w", h.name, err)
	}
	return nil
}

// Unattached returns an interface when it has no XDP program any more, which the kernel takes
// away a moment after the last who had it (kernel/bpf/syscall.c, bpf_link_put). It is an error
// if that takes too long.
func (h *Host) Unattached(name string, within time.Duration) (netlink.Link, error) {
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		l, err := h.Netlink().LinkByName(name)
		if err != nil {
			return nil, err
		}
		if x := l.Attrs().Xdp; x == nil || !x.Attached {
			return l, nil
		}
		if time.Since(begin) > within {
			return nil, fmt.Errorf("%s still has an XDP program", name)
		}
	}
}
