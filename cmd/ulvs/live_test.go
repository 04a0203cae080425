package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// The MAC address of an interface that is there again.
var liveMAC = net.HardwareAddr{2, 0, 0, 0, 0x77, 1}

// One of two interfaces is removed: connections by the other one go on. When it is there
// again, its client is served again.
func TestInterfaceRemoved(t *testing.T) {
	onLivePlanes(t, func(s *liveSite) {
		s.addFar()
		s.cableFar()
		s.begin("eth0,eth1")
		c := s.open(s.client)
		s.forwards(s.open(s.far))
		s.remove("eth1")
		s.once("WARN", "interface was removed: going on without, and with the next one of the name that was given")
		s.shows("eth1", "not there")
		s.forwards(c)
		s.open(s.client)
		s.cableFar()
		s.once("INFO", "interface is there, and taken")
		s.forwards(s.open(s.far))
		s.forwards(c)
		s.quiet("interface was removed")
	})
}

// The only interface is removed, and made anew with another number and address: the
// connection of before goes on, and the host is kept from it.
func TestInterfaceRecreated(t *testing.T) {
	onLivePlanes(t, func(s *liveSite) {
		s.begin("eth0")
		c := s.open(s.client)
		s.forwards(c)
		s.remove("eth0")
		s.once("WARN", "interface was removed")
		s.shows("eth0", "not there")
		s.must(s.lab.Cable(s.director, "eth0", liveMAC))
		s.up("eth0")
		s.once("INFO", "interface is there, and taken")
		if s.plane != "afpacket" {
			s.once("INFO", "the program is in front of an interface that was not there")
		}
		s.forwards(c)
		s.forwards(s.open(s.client))
		if out := s.tables(); out != s.tablesFor("eth0") {
			t.Errorf("the tables: %s", out)
		}
		s.quiet("interface was removed", "interface is down")
	})
}

// An interface is renamed: it is the one that it was. Another one that gets its name is left
// alone, until the first is gone.
func TestInterfaceRenamed(t *testing.T) {
	onLivePlanes(t, func(s *liveSite) {
		s.begin("eth0")
		c := s.open(s.client)
		nl := s.director.Netlink()
		s.must(nl.LinkSetName(s.link("eth0"), "front0"))
		s.once("WARN", "interface was renamed")
		s.shows("front0", "given as eth0")
		s.forwards(c)
		s.forwards(s.open(s.client))
		if out := s.tables(); out != s.tablesFor("front0") {
			t.Errorf("the tables after it was renamed: %s", out)
		}
		s.must(s.lab.Cable(s.director, "eth0", liveMAC))
		s.forwards(c)
		s.shows("front0", "given as eth0")
		s.remove("front0")
		s.once("WARN", "interface was removed")
		s.up("eth0")
		s.once("INFO", "interface is there, and taken")
		s.forwards(c)
		s.forwards(s.open(s.client))
		s.quiet("interface was re", "interface is down") // renamed, removed
	})
}

// Another MTU, smaller and larger: the plane goes on, without AF_XDP sockets where their frames
// have no room for so large packets.
func TestInterfaceMTU(t *testing.T) {
	onLivePlanes(t, func(s *liveSite) {
		s.begin("eth0")
		c := s.open(s.client)
		large := 9000
		if strings.HasPrefix(s.plane, "xdp") {
			large = 3000 // a driver that has a program takes no more
		}
		for _, mtu := range []int{1400, large, 1500} {
			s.must(s.director.Netlink().LinkSetMTU(s.link("eth0"), mtu))
			s.once("WARN", fmt.Sprint("to=", mtu))
			how := map[string]string{"afpacket": "AF_PACKET", "tcx": "tcx", "xdp": "AF_XDP is off", "xdp, af-xdp": "AF_XDP copy on"}[s.plane]
			if mtu == large && s.plane == "xdp, af-xdp" {
				how = "no AF_XDP (its frames have room for an MTU of 1778, not 3000)"
			}
			s.shows("eth0", how)
			s.forwards(c)
			s.forwards(s.open(s.client))
		}
		s.quiet("the MTU of an interface has changed")
	})
}

// An interface becomes the port of a bridge or a bond, which takes its address over, and is
// freed again.
func TestInterfaceMaster(t *testing.T) {
	onLivePlanes(t, func(s *liveSite) {
		s.begin("eth0")
		c := s.open(s.client)
		nl := s.director.Netlink()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = "master0", s.director.MAC()
		bond := netlink.NewLinkBond(attrs)
		bond.Mode, bond.Miimon = netlink.BOND_MODE_ACTIVE_BACKUP, 10
		for i, master := range []netlink.Link{&netlink.Bridge{LinkAttrs: attrs}, bond} {
			kind := master.Type()
			if err := nl.LinkAdd(master); errors.Is(err, unix.EOPNOTSUPP) {
				t.Logf("this kernel has no %s", kind)
				continue
			} else {
				s.must(err)
			}
			addr, err := netlink.ParseAddr(liveAddrs["eth0"])
			s.must(err)
			s.must(nl.AddrDel(s.link("eth0"), addr))
			if kind == "bond" {
				s.must(nl.LinkSetDown(s.link("eth0")))
			}
			s.must(nl.LinkSetMaster(s.link("eth0"), s.link("master0")))
			s.address(s.director, "master0", liveAddrs["eth0"])
			s.knows(s.director, "master0", "192.168.10.200", s.server.MAC())
			s.once("WARN", `master="master0 (`+kind+`)"`)
			s.times(i+1, "interface was given a master: its packets are still taken from itself, before the master has them; if clients' frames go to the master's address, give --interface that instead")
			s.open(s.client)
			s.must(echoed(c))
			s.remove("master0")
			s.up("eth0")
			s.times(i+1, "interface has no master any more")
			s.forwards(c)
			s.forwards(s.open(s.client))
		}
		s.quiet("master", "the address of an interface", "interface is down")
	})
}

// An interface is moved to another network namespace, where no program of ulvs goes on, and
// back.
func TestInterfaceNamespace(t *testing.T) {
	onLivePlanes(t, func(s *liveSite) {
		elsewhere, err := s.lab.Add(lab.HostConfig{Name: "elsewhere", Addrs: prefixes("192.168.10.9/24")})
		s.must(err)
		s.begin("eth0")
		c := s.open(s.client)
		for range 2 {
			s.must(s.director.Netlink().LinkSetName(s.link("eth0"), "moving0"))
			s.must(s.director.Netlink().LinkSetNsFd(s.link("moving0"), elsewhere.Namespace()))
			s.shows("eth0", "not there")
			moved, err := elsewhere.Unattached("moving0", patience)
			s.must(err)
			s.must(elsewhere.Netlink().LinkSetName(moved, "eth7"))
			s.must(elsewhere.Netlink().LinkSetNsFd(moved, s.director.Namespace()))
			s.must(s.director.Netlink().LinkSetName(s.link("eth7"), "eth0"))
			s.up("eth0")
			s.forwards(c)
			s.forwards(s.open(s.client))
		}
		s.log.await(t, "interface was moved to another network namespace")
		s.quiet("interface was moved", "interface was renamed", "interface is down")
	})
}
