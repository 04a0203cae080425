package main

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
)

// The interface gets another MAC address: an established connection goes on, new ones are
// opened, and the program, in which the address is, forwards as before.
func TestInterfaceAddress(t *testing.T) {
	t.Parallel()
	vip := netip.MustParseAddr("192.168.10.101")
	for _, plane := range []string{"afpacket", *fast} {
		t.Run(plane, func(t *testing.T) {
			s := newSite(t)
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(s.client.SetNeighbor(lab.Neighbor{Addr: vip, MAC: s.director.MAC()}))
			must(s.director.SetNeighbor(lab.Neighbor{Addr: netip.MustParseAddr("192.168.10.200"), MAC: s.server.MAC()}))
			must(s.server.SetNeighbor(lab.Neighbor{Addr: netip.MustParseAddr("192.168.10.1"), MAC: s.client.MAC()}))
			answers(t, s.server, vip)
			daemon := s.start("--interface", "eth0", "--plane", plane)
			s.serveLoad()
			dial := func() net.Conn {
				t.Helper()
				c, err := s.dial(patience)
				must(err)
				return c
			}
			c := dial()
			defer c.Close()
			must(echoed(c))

			mac := net.HardwareAddr{2, 0, 0, 0, 0x99, 1}
			link, err := s.director.Netlink().LinkByName("eth0")
			must(err)
			must(s.director.Netlink().LinkSetHardwareAddr(link, mac))
			must(s.client.SetNeighbor(lab.Neighbor{Addr: vip, MAC: mac}))
			must(echoed(c))
			other := dial()
			defer other.Close()
			must(echoed(other))
			daemon.Stderr.(*said).await(t, "the address of an interface has changed")
			if plane == "afpacket" {
				return
			}
			for before, began := s.status()["xdp_frames"], time.Now(); s.status()["xdp_frames"] == before; {
				must(echoed(c))
				if time.Since(began) > patience {
					t.Fatal("the program forwards nothing")
				}
			}
		})
	}
}
