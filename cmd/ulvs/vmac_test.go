package main

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/ulvs/ulvs/internal/lab"
)

// keepalived's use_vmac: the virtual address is on a macvlan over the interface, whose MAC is
// the virtual router's, and the daemon is told of that (--mac). The host does not answer what
// goes to a real server, though the frames are not to the interface's own address.
func TestVirtualRouterMAC(t *testing.T) {
	const router = "00:00:5e:00:01:33"
	vip := netip.MustParseAddr("192.168.10.101")
	for _, plane := range []string{"afpacket", "xdp"} {
		t.Run(plane, func(t *testing.T) {
			s := newSite(t)
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
			s.start("--interface", "eth0", "--plane", plane, "--mac", router)
			s.serveLoad()
			for range 4 {
				c, err := s.dial(patience)
				must(err)
				must(echoed(c))
				c.Close()
			}
		})
	}
}
