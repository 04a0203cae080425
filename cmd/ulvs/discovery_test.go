package main

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"

	"github.com/ulvs/ulvs/packet"
)

// Who asks for an address of the host's is answered once, on every plane: of ARP and neighbour discovery
// the director gets copies. One address is a virtual one, which is asked for by unicast, as by who has known it.
func TestDiscoveryAnsweredOnce(t *testing.T) {
	onLivePlanes(t, func(s *liveSite) {
		const own, virtual, asks = "fd00::100", "fd00::101", "fd00::1"
		for _, addr := range []string{own, virtual} {
			a, err := netlink.ParseAddr(addr + "/64")
			s.must(err)
			a.Flags = 0x02 // IFA_F_NODAD
			s.must(s.director.Netlink().AddrAdd(s.link("eth0"), a))
		}
		s.begin("eth0")
		s.commands("ipvsadm -A -t [" + virtual + "]:80 -s rr")
		client, director := s.client.MAC(), s.link("eth0").Attrs().HardwareAddr
		arp, _ := packet.Question(netip.MustParseAddr("192.168.10.100"), netip.MustParseAddr("192.168.10.1"), [6]byte(client))
		everybody, _ := packet.Question(netip.MustParseAddr(own), netip.MustParseAddr(asks), [6]byte(client))
		for _, one := range []struct {
			name, target string
			frame        []byte
		}{{"ARP", "192.168.10.100", arp}, {"a solicitation", own, everybody},
			{"a solicitation by unicast", virtual, solicitation(s.t, client, director, asks, virtual)}} {
			c := socketOn(s.t, s.client, "eth0")
			_, err := c.WriteTo(one.frame, linkAddr(one.frame))
			s.must(err)
			answers := 0
			for wait := patience; ; {
				p, answer := nextFrame(s.t, c, wait)
				if answer == nil {
					break
				}
				about := netip.Addr{}
				if p.Kind == packet.ARP && p.ARPOp == 2 {
					about = p.ARPSender
				}
				n := gopacket.NewPacket(answer, layers.LayerTypeEthernet, gopacket.Default)
				if na, ok := n.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement); ok {
					about, _ = netip.AddrFromSlice(na.TargetAddress)
				}
				if about.String() == one.target && [6]byte(answer[6:12]) == [6]byte(director) {
					answers++
					wait = 300 * time.Millisecond
				}
			}
			if answers != 1 {
				s.t.Errorf("%s is answered %d times", one.name, answers)
			}
			c.Close()
		}
	})
}

// solicitation is a neighbour solicitation to one host.
func solicitation(t *testing.T, from, to net.HardwareAddr, source, target string) []byte {
	t.Helper()
	ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: net.ParseIP(source), DstIP: net.ParseIP(target)}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: layers.EthernetTypeIPv6}, ip, icmp,
		&layers.ICMPv6NeighborSolicitation{TargetAddress: net.ParseIP(target), Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: from}}})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
