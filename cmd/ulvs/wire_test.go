package main

import (
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/packet"

	"github.com/ulvs/ulvs/internal/lab"
)

func unprivileged() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

// A crafted connection in a VLAN, on the interface without a VLAN device, is
// served: its packets reach the real server in the VLAN that they came in.
func TestVLAN(t *testing.T) {
	s := newSite(t)
	s.start("--interface", "eth0")
	for _, c := range []string{
		"ipvsadm -A -t 192.168.10.101:80 -s rr -p 300",
		"ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.200 -g",
	} {
		if out, code := s.ulvs("", strings.Fields(c)...); code != 0 {
			t.Fatalf("%s: %s", c, out)
		}
	}
	at, from := socket(t, s.server), socket(t, s.client)
	for i, flags := range []string{"S", "A", "PA", "FA"} {
		frame := tagged(t, s, flags, uint32(i))
		if _, err := from.WriteTo(frame, &packet.Addr{HardwareAddr: s.director.MAC()}); err != nil {
			t.Fatal(err)
		}
		got := receive(t, at, s.server.MAC())
		tag, ok := got.Layer(layers.LayerTypeDot1Q).(*layers.Dot1Q)
		if !ok {
			// The tag lies beside the frame where the receiver's driver took it.
			t.Logf("%s: the tag is out of band", flags)
		} else if tag.VLANIdentifier != 10 {
			t.Fatalf("%s: in VLAN %d", flags, tag.VLANIdentifier)
		}
		tcp, ok := got.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok || tcp.Seq != uint32(i) {
			t.Fatalf("%s: %v", flags, got)
		}
	}
	if out, _ := s.ulvs("", "ipvsadm", "-Lnc"); !strings.Contains(out, "FIN_WAIT    192.168.10.1:1000") {
		t.Fatal(out)
	}
}

func socket(t *testing.T, h *lab.Host) (c *packet.Conn) {
	t.Helper()
	if err := h.Do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		c, err = packet.Listen(ifi, packet.Raw, 0x0003, nil) // ETH_P_ALL
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func tagged(t *testing.T, s *site, flags string, seq uint32) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: net.IPv4(192, 168, 10, 1), DstIP: net.IPv4(192, 168, 10, 101)}
	tcp := &layers.TCP{SrcPort: 1000, DstPort: 80, Seq: seq, Window: 1000,
		SYN: strings.Contains(flags, "S"), ACK: strings.Contains(flags, "A"), PSH: strings.Contains(flags, "P"), FIN: strings.Contains(flags, "F")}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: s.client.MAC(), DstMAC: s.director.MAC(), EthernetType: layers.EthernetTypeDot1Q},
		&layers.Dot1Q{VLANIdentifier: 10, Type: layers.EthernetTypeIPv4}, ip, tcp, gopacket.Payload("tagged")); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// receive waits for the next TCP packet to a MAC address.
func receive(t *testing.T, c *packet.Conn, to net.HardwareAddr) gopacket.Packet {
	t.Helper()
	buf := make([]byte, 2048)
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		p := gopacket.NewPacket(append([]byte(nil), buf[:n]...), layers.LayerTypeEthernet, gopacket.Default)
		eth, ok := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
		if ok && eth.DstMAC.String() == to.String() && p.Layer(layers.LayerTypeTCP) != nil {
			return p
		}
	}
}
