package main

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ulvs/ulvs/internal/lab"
)

const router = "00:00:5e:00:01:33"

// keepalived's use_vmac: the virtual address is on a macvlan over the interface, whose MAC is
// the virtual router's, and the daemon is told of that (--mac). The host does not answer what
// goes to a real server, though the frames are not to the interface's own address.
func TestVirtualRouterMAC(t *testing.T) {
	for _, plane := range []string{"afpacket", *fast} {
		t.Run(plane, func(t *testing.T) {
			s := newRouterSite(t, router)
			s.start("--interface", "eth0", "--plane", plane, "--mac", router)
			s.serveLoad()
			for range 4 {
				c, err := s.dial(patience)
				if err == nil {
					err = echoed(c)
					c.Close()
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// newRouterSite is a site whose director has the virtual address on a macvlan over its
// interface, with a virtual router's address, by which the client knows it.
func newRouterSite(t *testing.T, router string) *site {
	t.Helper()
	s := newSite(t)
	vip := netip.MustParseAddr(loadVIP)
	mac, err := net.ParseMAC(router)
	if err != nil {
		t.Fatal(err)
	}
	nl := s.director.Netlink()
	over := &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "vrrp51", ParentIndex: s.director.Index(), HardwareAddr: mac},
		Mode: netlink.MACVLAN_MODE_PRIVATE}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(nl.LinkAdd(over))
	for _, set := range [][2]string{
		{"net.ipv4.conf.vrrp51.arp_ignore", "1"}, {"net.ipv4.conf.vrrp51.accept_local", "1"},
		{"net.ipv4.conf.eth0.arp_ignore", "1"}, {"net.ipv4.conf.eth0.arp_filter", "1"},
	} {
		must(s.director.Sysctl(set[0], set[1]))
	}
	must(nl.LinkSetUp(over))
	must(nl.AddrAdd(over, &netlink.Addr{IPNet: &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(32, 32)}}))
	must(s.client.SetNeighbor(lab.Neighbor{Addr: vip, MAC: mac}))
	must(s.director.SetNeighbor(lab.Neighbor{Addr: netip.MustParseAddr("192.168.10.200"), MAC: s.server.MAC()}))
	must(s.server.SetNeighbor(lab.Neighbor{Addr: netip.MustParseAddr("192.168.10.1"), MAC: s.client.MAC()}))
	answers(t, s.server, vip)
	return s
}

// Without --mac, the packets go past ulvs: the log says once where they come, and what to do.
func TestForeignMAC(t *testing.T) {
	t.Parallel()
	for _, plane := range []string{"afpacket", *fast} {
		t.Run(plane, func(t *testing.T) {
			t.Parallel()
			s := newRouterSite(t, router)
			log := s.start("--interface", "eth0", "--plane", plane).Stderr.(*said)
			const text = "packets to a service come to the host by another MAC address"
			s.serveLoad()
			for began := time.Now(); !strings.Contains(log.String(), text); time.Sleep(50 * time.Millisecond) {
				if c, err := s.dial(time.Second); err == nil {
					c.Close()
					t.Fatal("the host has something at the service's port")
				}
				if time.Since(began) > patience {
					t.Fatalf("it did not say so: %s", log)
				}
			}
			for range 100 { // two looks more
				_, _ = s.dial(time.Second)
				time.Sleep(20 * time.Millisecond)
			}
			if out := log.String(); strings.Count(out, text) != 1 || !strings.Contains(out, "interface=vrrp51 address="+router+" service="+loadVIP) {
				t.Errorf("it said: %s", out)
			}
		})
	}
}
