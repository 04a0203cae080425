package main

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/mdlayher/packet"

	"github.com/ulvs/ulvs/internal/lab"
)

func unprivileged() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

// A crafted connection in a VLAN, on the interface without a VLAN device, is
// served: its packets reach the real server in the VLAN that they came in.
func TestVLAN(t *testing.T) {
	t.Parallel()
	for _, plane := range []string{"afpacket", *fast} {
		t.Run(plane, func(t *testing.T) { testVLAN(t, plane) })
	}
}

func testVLAN(t *testing.T, plane string) {
	if plane == *fast && os.Getuid() != 0 {
		t.Skip("BPF needs root")
	}
	s := newSite(t)
	s.start("--interface", "eth0", "--plane", plane)
	s.serve()
	at, from := socket(t, s.server), socket(t, s.client)
	for i, flags := range []string{"S", "A", "PA", "FA"} {
		frame := crafted(t, s, flags, uint32(i), 10)
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

// On the XDP plane, of a connection of a thousand packets at most three reach Go:
// those that move it to another state. All are counted, and arrive in order.
func TestXDP(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("BPF needs root")
	}
	for _, sockets := range []string{"off", "on"} {
		t.Run("af-xdp "+sockets, func(t *testing.T) { testXDP(t, sockets) })
	}
}

func testXDP(t *testing.T, sockets string) {
	const packets = 1000
	s := newSite(t)
	// Until it is known, the program leaves packets to Go: for as long as that takes.
	known := lab.Neighbor{Addr: netip.MustParseAddr("192.168.10.200"), MAC: s.server.MAC()}
	if err := s.director.SetNeighbor(known); err != nil {
		t.Fatal(err)
	}
	s.start("--interface", "eth0", "--plane", *fast, "--af-xdp", sockets)
	s.serve()
	at, from := socket(t, s.server), socket(t, s.client)
	for i := range packets {
		flags := "PA"
		switch i {
		case 0:
			flags = "S"
		case 1:
			flags = "A"
		case packets - 1:
			flags = "FA"
		}
		if _, err := from.WriteTo(crafted(t, s, flags, uint32(i), 0), &packet.Addr{HardwareAddr: s.director.MAC()}); err != nil {
			t.Fatal(err)
		}
		got := receive(t, at, s.server.MAC())
		tcp, ip := got.Layer(layers.LayerTypeTCP).(*layers.TCP), got.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		if tcp.Seq != uint32(i) || ip.TTL != 63 {
			t.Fatalf("packet %d: %v", i, got)
		}
	}
	status := s.status()
	if status["xdp_frames"] < packets-1 { // the first is Go's
		t.Errorf("%d of %d packets were forwarded by XDP; the slow plane sent %d", status["xdp_frames"], packets, status["tx_frames"])
	}
	most := map[string]int{"off": 0, "on": packets - status["xdp_frames"]}[sockets]
	if status["af_xdp_rx_frames"] > most || status["af_xdp_tx_frames"] > most {
		t.Errorf("%d packets came by AF_XDP, and %d left", status["af_xdp_rx_frames"], status["af_xdp_tx_frames"])
	}
	if out, _ := s.ulvs("", "ipvsadm", "-Lnc"); !strings.Contains(out, "FIN_WAIT    192.168.10.1:1000") {
		t.Error(out)
	}
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		out, _ := s.ulvs("", "ipvsadm", "-Ln", "--stats")
		if strings.Contains(out, " 1     1000        0 ") {
			break
		}
		if time.Since(begin) > patience {
			t.Fatalf("after %v:\n%s", patience, out)
		}
	}
}

// serve adds a persistent service with one real server, whose first connection of each
// client Go opens: its scheduler's choices are not made ahead.
func (s *site) serve() {
	s.t.Helper()
	for _, c := range []string{
		"ipvsadm -A -t 192.168.10.101:80 -s lblc -p 300",
		"ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.200 -g",
	} {
		if out, code := s.ulvs("", strings.Fields(c)...); code != 0 {
			s.t.Fatalf("%s: %s", c, out)
		}
	}
}

// status is what ulvs status says.
func (s *site) status() map[string]int {
	s.t.Helper()
	out, code := s.ulvs("", "ulvs", "status", "--json")
	var all struct{ Counters map[string]int }
	if err := json.Unmarshal([]byte(out), &all); code != 0 || err != nil {
		s.t.Fatal(out, err)
	}
	return all.Counters
}

func socket(t *testing.T, h *lab.Host) *packet.Conn {
	t.Helper()
	return socketOn(t, h, "eth0")
}

func socketOn(t *testing.T, h *lab.Host, name string) (c *packet.Conn) {
	t.Helper()
	if err := h.Do(func() error {
		ifi, err := net.InterfaceByName(name)
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

// crafted is a packet from the client to the virtual service, in a VLAN if that
// is not 0.
func crafted(t *testing.T, s *site, flags string, seq uint32, vlan uint16) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: net.IPv4(192, 168, 10, 1), DstIP: net.IPv4(192, 168, 10, 101)}
	tcp := &layers.TCP{SrcPort: 1000, DstPort: 80, Seq: seq, Window: 1000,
		SYN: strings.Contains(flags, "S"), ACK: strings.Contains(flags, "A"), PSH: strings.Contains(flags, "P"), FIN: strings.Contains(flags, "F")}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	eth := &layers.Ethernet{SrcMAC: s.client.MAC(), DstMAC: s.director.MAC(), EthernetType: layers.EthernetTypeIPv4}
	stack := []gopacket.SerializableLayer{eth, ip, tcp, gopacket.Payload("crafted")}
	if vlan != 0 {
		eth.EthernetType = layers.EthernetTypeDot1Q
		stack = slices.Insert(stack, 1, gopacket.SerializableLayer(&layers.Dot1Q{VLANIdentifier: vlan, Type: layers.EthernetTypeIPv4}))
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// receive waits for the next TCP packet to a MAC address.
func receive(t *testing.T, c *packet.Conn, to net.HardwareAddr) gopacket.Packet {
	t.Helper()
	buf := make([]byte, 2048)
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
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
