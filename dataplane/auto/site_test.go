package auto_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/auto"
	"github.com/ulvs/ulvs/dataplane/xdp"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/internal/lab"
)

// patience is how long is waited for what must come.
const patience = 2 * time.Minute

// tag is a VLAN of a wire.
type tag struct {
	id       int
	protocol netlink.VlanProtocol
}

// shape is how hosts are on the wire, and what of it the director is given.
type shape struct {
	tags    []tag // the outermost first
	without bool  // the director has no VLAN devices: its address is on what the tags come by
	upper   bool  // it is given the VLAN device that has its address
	bond    bool  // it has a bond of two interfaces
	inside  bool  // 802.1Q tags are in frames, as without a card's help, and checksums finished
	driver  bool  // the bond leaves tags where they are, as drivers must that run programs
	queues  int   // of each host's cable; 0 is one
	standby bool  // nftables keep the host away on any plane
	plane   string
	sockets xdp.SocketUse
}

// site is a client, a director and two real servers on a bridge.
type site struct {
	*testing.T
	shape
	lab              *lab.Lab
	client, director *lab.Host
	top              netlink.Link // the client's, where its addresses are
	d                *director.Director
	facts            map[string]string
	ports            int           // the client's last one
	closed           chan struct{} // a real server takes from it before it answers late
}

// The numbers of hosts in their addresses.
const (
	numClient   = 1
	numDirector = 100
	numServer   = 201
)

// The ports of services: the program opens the connections of fast and datagrams, and Go those of slow.
const (
	portFast      = 80
	portSlow      = 81
	portDatagrams = 82
)

func addr(six bool, n byte) netip.Addr {
	if six {
		return netip.AddrFrom16([16]byte{0: 0xfd, 15: n})
	}
	return netip.AddrFrom4([4]byte{192, 168, 10, n})
}

func vip(six bool) netip.Addr {
	if six {
		return netip.AddrFrom16([16]byte{0: 0xfd, 1: 1, 15: 101})
	}
	return netip.AddrFrom4([4]byte{192, 168, 20, 101})
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func newSite(t *testing.T, of shape) *site {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("BPF needs root")
	}
	s := &site{T: t, shape: of, closed: make(chan struct{}), ports: 10_000}
	var err error
	s.lab, err = lab.New(lab.Config{})
	s.must(err)
	t.Cleanup(func() { _ = s.lab.Close() })
	s.client = s.host("client", numClient)
	s.director = s.host("director", numDirector)
	s.top = s.join(s.client, "eth0", of.tags, numClient)
	for i := range 2 {
		h := s.host(fmt.Sprint("server", i), byte(numServer+i))
		s.join(h, "eth0", of.tags, byte(numServer+i))
		s.serve(h, byte(i))
	}
	base, tags := "eth0", of.tags
	if of.bond {
		base = "bond0"
		s.bind()
	}
	if of.without {
		tags = nil
	}
	at := s.join(s.director, base, tags, numDirector)
	for _, six := range []bool{false, true} {
		way := addr(six, numDirector)
		s.must(s.client.Netlink().RouteAdd(&netlink.Route{LinkIndex: s.top.Attrs().Index, Gw: way.AsSlice(),
			Dst: &net.IPNet{IP: vip(six).AsSlice(), Mask: net.CIDRMask(vip(six).BitLen(), vip(six).BitLen())}}))
		if of.without { // it hears nothing in a VLAN
			s.knows(s.client, s.top, way, at.Attrs().HardwareAddr)
			for i := range 2 {
				s.knows(s.director, at, addr(six, byte(numServer+i)), lab.MAC(uint32(numServer+i)))
			}
		}
	}
	if of.inside {
		s.plain()
	}
	given := base
	if of.upper {
		given = at.Attrs().Name
	}
	s.run(given)
	return s
}

func (s *site) host(name string, n byte) *lab.Host {
	s.Helper()
	c := lab.HostConfig{Name: name, MAC: lab.MAC(uint32(n)), Queues: s.queues,
		Sysctls: [][2]string{{"net.ipv4.conf.all.arp_ignore", "1"}, {"net.ipv4.conf.all.arp_announce", "2"}}}
	if n >= numServer {
		for _, six := range []bool{false, true} {
			c.Loopback = append(c.Loopback, netip.PrefixFrom(vip(six), vip(six).BitLen()))
		}
	}
	h, err := s.lab.Add(c)
	s.must(err)
	return h
}

// join gives a host its addresses, in VLANs over an interface.
func (s *site) join(h *lab.Host, base string, tags []tag, n byte) netlink.Link {
	s.Helper()
	at, err := h.Netlink().LinkByName(base)
	s.must(err)
	for _, t := range tags {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = fmt.Sprint("vlan", t.id), at.Attrs().Index
		s.add(h, &netlink.Vlan{LinkAttrs: attrs, VlanId: t.id, VlanProtocol: t.protocol})
		at, err = h.Netlink().LinkByName(attrs.Name)
		s.must(err)
		// Two tags are longer than interfaces have room for.
		s.must(h.Netlink().LinkSetMTU(at, 1400))
		s.must(h.Netlink().LinkSetUp(at))
	}
	for _, six := range []bool{false, true} {
		a := addr(six, n)
		bits := map[bool]int{false: 24, true: 64}[six]
		of := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}}
		if six {
			of.Flags = unix.IFA_F_NODAD
		}
		s.must(h.Netlink().AddrAdd(at, of))
	}
	return at
}

// add adds a link, of a kind that kernels may not have.
func (s *site) add(h *lab.Host, l netlink.Link) {
	s.Helper()
	err := h.Netlink().LinkAdd(l)
	if errors.Is(err, unix.EOPNOTSUPP) {
		s.Skipf("this kernel has no %s: make guests plays it on those that do", l.Type())
	}
	s.must(err)
}

func (s *site) knows(h *lab.Host, at netlink.Link, a netip.Addr, mac net.HardwareAddr) {
	s.Helper()
	s.must(h.Netlink().NeighSet(&netlink.Neigh{LinkIndex: at.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: a.AsSlice(), HardwareAddr: mac}))
}

// bind makes a bond of two of the director's interfaces, of which one works at a time.
func (s *site) bind() {
	s.Helper()
	s.must(s.lab.Cable(s.director, "eth1", lab.MAC(numDirector+1)))
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "bond0", lab.MAC(numDirector)
	bond := netlink.NewLinkBond(attrs)
	bond.Mode, bond.Miimon = netlink.BOND_MODE_ACTIVE_BACKUP, 10
	s.add(s.director, bond)
	nl := s.director.Netlink()
	for _, name := range []string{"eth0", "eth1"} {
		slave, err := nl.LinkByName(name)
		s.must(err)
		s.must(nl.LinkSetDown(slave))
		s.must(nl.LinkSetMasterByIndex(slave, bond.Index))
		s.must(nl.LinkSetUp(slave))
	}
	s.must(nl.LinkSetUp(bond))
	if s.driver {
		s.must(s.director.Do(func() error { return lab.TagsReceived.Set("bond0", false) }))
	}
}

// plain has tags be in the frames of all cables, and checksums finished.
func (s *site) plain() {
	s.Helper()
	off := func(name string) error {
		return errors.Join(lab.TagsSent.Set(name, false), lab.TagsReceived.Set(name, false), lab.Checksums.Set(name, false))
	}
	for _, h := range s.lab.Hosts() {
		s.must(h.Do(func() error { return off("eth0") }))
		s.must(s.lab.Do(func() error { return off(h.Name()) }))
	}
	if s.bond {
		s.must(s.director.Do(func() error { return off("eth1") }))
		s.must(s.lab.Do(func() error { return off("cable1") }))
	}
}

// run has a director serve on an interface.
func (s *site) run(given string) {
	s.Helper()
	log := slog.New(slog.NewTextHandler(s.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	var opened *auto.Opened
	s.must(s.director.Do(func() (err error) {
		opened, err = auto.Open(auto.Options{Interfaces: []string{given}, Plane: s.plane, Sockets: s.sockets, Logger: log,
			Standby: s.standby},
			func(p auto.Plane) (err error) {
				s.d, err = director.New(director.Options{Plane: p, Connections: 4096, Templates: 4096, Logger: log})
				return err
			})
		return err
	}))
	s.facts = make(map[string]string)
	s.must(s.director.Do(func() error {
		if d, is := opened.Plane.(dataplane.Described); is {
			for _, f := range d.Facts() {
				s.facts[f.Name] = f.Value
			}
		}
		return nil
	}))
	s.Logf("%s: %s", given, s.facts[given])
	for _, six := range []bool{false, true} {
		for port, scheduler := range map[uint16]string{portFast: "rr", portSlow: "lblc", portDatagrams: "rr"} {
			k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: vip(six), Port: port}
			if port == portDatagrams {
				k.Protocol = ulvs.UDP
			}
			s.must(s.d.AddService(ulvs.Service{ServiceKey: k, Scheduler: scheduler}))
			for i := range 2 {
				s.must(s.d.AddDestination(k, ulvs.Destination{Addr: addr(six, byte(numServer+i)), Port: port, Weight: 1}))
			}
		}
	}
	ctx, end := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.d.Run(ctx) }()
	s.Cleanup(func() {
		end()
		if err := <-done; err != nil {
			s.Error(err)
		}
		s.d.Close()
	})
}

// until waits for what must come.
func (s *site) until(what string, f func() bool) {
	s.Helper()
	for began := time.Now(); !f(); time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			s.Fatalf("%s: not after %v", what, patience)
		}
	}
}

// counts returns by how much the director's counters grow meanwhile.
func (s *site) counts(f func()) map[string]int {
	s.Helper()
	before, err := s.d.Counters()
	s.must(err)
	f()
	after, err := s.d.Counters()
	s.must(err)
	grown := make(map[string]int)
	for name, n := range after {
		if n != before[name] {
			grown[name] = int(n - before[name])
		}
	}
	return grown
}
