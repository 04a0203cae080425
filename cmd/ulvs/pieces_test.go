package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// piecesSite is one with a tap interface by which frames come in pieces, as from cards that put headers apart:
// an skb has the first piece, and what the kernel has looked at, in its linear part (drivers/net/tun.c,
// tun_napi_alloc_frags).
type piecesSite struct {
	*kindSite
	tap    *tap
	header int    // bytes in front of a frame (struct virtio_net_hdr)
	source uint16 // the next connection's port

	connections, packets int // that there were

	arrived sync.Mutex
	frames  map[string]int // what came out to a real server
}

func newPiecesSite(t *testing.T, flags ...uint16) *piecesSite {
	t.Helper()
	s := &piecesSite{frames: map[string]int{}, source: 1000}
	for _, flag := range flags {
		if flag == unix.IFF_VNET_HDR {
			s.header = 10
		}
	}
	s.kindSite, s.tap = overTap(t, append(flags, unix.IFF_NAPI, unix.IFF_NAPI_FRAGS)...)
	address := &netlink.Addr{Flags: unix.IFA_F_NODAD,
		IPNet: &net.IPNet{IP: net.ParseIP("fd00:30::1"), Mask: net.CIDRMask(64, 128)}}
	if err := s.director.Netlink().AddrAdd(s.link, address); err != nil {
		t.Fatal(err)
	}
	s.know([]lab.Neighbor{{Addr: netip.MustParseAddr("fd00:30::200"), MAC: s.behind[0].MAC}})
	s.write = func(frame []byte) {
		copy(frame, s.link.Attrs().HardwareAddr)
		s.writePieces(nil, frame, 14, 20)
	}
	s.tap.each(func(frame []byte) {
		frame = frame[s.header:]
		s.notes(frame)
		if bytes.Equal(frame[:6], s.behind[0].MAC) {
			s.arrived.Lock()
			s.frames[string(frame)]++
			s.arrived.Unlock()
		}
	})
	return s
}

// serveAll makes services for TCP and UDP of both families, of which the programs or the daemon open connections.
func (s *piecesSite) serveAll() {
	for port, scheduler := range map[int]string{programs: "rr", daemons: "lblc"} {
		for _, proto := range []string{"-t", "-u"} {
			for vip, server := range map[string]string{"192.168.10.101": "192.168.30.200", "[fd00:30::101]": "fd00:30::200"} {
				s.commands(fmt.Sprintf("ipvsadm -A %s %s:%d -s %s", proto, vip, port, scheduler))
				s.commands(fmt.Sprintf("ipvsadm -a %s %s:%d -r %s -g", proto, vip, port, server))
			}
		}
	}
}

// content is what a frame is made of.
type content struct {
	six, udp     bool
	tag, source  uint16
	port         uint16
	flags        string
	id           uint16
	seq          uint32
	payload      []byte
	fragment     uint16 // IPv4's flags and offset
	withoutPorts bool
	padded       bool // to what Ethernet's shortest frame is, which virtual interfaces do not know
}

// frame returns it as it comes, or as it goes to the real server.
func (s *piecesSite) frame(c content, forwarded bool) []byte {
	s.t.Helper()
	eth := &layers.Ethernet{SrcMAC: s.client.MAC(), DstMAC: s.link.Attrs().HardwareAddr}
	ttl := uint8(64)
	if forwarded {
		eth.SrcMAC, eth.DstMAC, ttl = eth.DstMAC, s.behind[0].MAC, ttl-1
	}
	tcp := &layers.TCP{SrcPort: layers.TCPPort(c.source), DstPort: layers.TCPPort(c.port), Window: 1000, Seq: c.seq,
		SYN: strings.Contains(c.flags, "S"), ACK: strings.Contains(c.flags, "A"), PSH: strings.Contains(c.flags, "P")}
	udp := &layers.UDP{SrcPort: layers.UDPPort(c.source), DstPort: layers.UDPPort(c.port)}
	proto, transport := layers.IPProtocolTCP, gopacket.SerializableLayer(tcp)
	if c.udp {
		proto, transport = layers.IPProtocolUDP, udp
	}
	ip4 := &layers.IPv4{Version: 4, TTL: ttl, Id: c.id, Protocol: proto, SrcIP: net.IPv4(10, 1, 2, 3),
		DstIP: net.IPv4(192, 168, 10, 101), Flags: layers.IPv4Flag(c.fragment >> 13), FragOffset: c.fragment & 0x1fff}
	ip6 := &layers.IPv6{Version: 6, HopLimit: ttl, NextHeader: proto, SrcIP: net.ParseIP("fd00:99::3"),
		DstIP: net.ParseIP("fd00:30::101")}
	network, etherType := gopacket.SerializableLayer(ip4), layers.EthernetTypeIPv4
	if c.six {
		network, etherType = ip6, layers.EthernetTypeIPv6
	}
	for _, l := range []interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}{tcp, udp} {
		_ = l.SetNetworkLayerForChecksum(network.(gopacket.NetworkLayer))
	}
	list := []gopacket.SerializableLayer{eth}
	if eth.EthernetType = etherType; c.tag != 0 {
		eth.EthernetType = layers.EthernetTypeDot1Q
		list = append(list, &layers.Dot1Q{Priority: 3, VLANIdentifier: c.tag, Type: etherType})
	}
	if list = append(list, network); !c.withoutPorts {
		list = append(list, transport)
	}
	buf := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, options, append(list, gopacket.Payload(c.payload))...); err != nil {
		s.t.Fatal(err)
	}
	if c.padded {
		return buf.Bytes()
	}
	length := len(c.payload)
	for _, l := range list {
		length += map[gopacket.LayerType]int{layers.LayerTypeEthernet: 14, layers.LayerTypeDot1Q: 4, layers.LayerTypeIPv4: 20,
			layers.LayerTypeIPv6: 40, layers.LayerTypeTCP: 20, layers.LayerTypeUDP: 8}[l.LayerType()]
	}
	out := buf.Bytes()[:length]
	if c.six && c.fragment != 0 {
		at, offset := 14+40, c.fragment<<3|c.fragment>>13
		if c.tag != 0 {
			at += 4
		}
		out = slices.Insert(out, at, byte(proto), 0, byte(offset>>8), byte(offset), 0, 0, 0, byte(c.id))
		out[at-40+6] = unix.IPPROTO_FRAGMENT
		binary.BigEndian.PutUint16(out[at-40+4:], uint16(len(out)-at))
	}
	return out
}

// writePieces has a frame come in pieces of these sizes, and what is left in the last ones, a page each at most.
func (s *piecesSite) writePieces(header, frame []byte, sizes ...int) {
	s.t.Helper()
	var list [][]byte
	if len(header) > 0 {
		list = append(list, header)
	}
	const page = 4096
	for len(frame) > 0 {
		n := min(len(frame), page)
		if len(sizes) > 0 {
			n, sizes = min(n, sizes[0]), sizes[1:]
		}
		list, frame = append(list, frame[:n]), frame[n:]
	}
	if _, err := unix.Writev(s.tap.fd, list); err != nil {
		s.t.Fatal(err)
	}
}

// arrives waits until a frame has come out as it is to, once.
func (s *piecesSite) arrives(want []byte, about any) {
	s.t.Helper()
	for began := time.Now(); ; time.Sleep(100 * time.Microsecond) {
		s.arrived.Lock()
		n := s.frames[string(want)]
		if n > 0 {
			delete(s.frames, string(want))
		}
		others := len(s.frames)
		s.arrived.Unlock()
		switch {
		case n == 1 && others == 0:
			return
		case n > 1:
			s.t.Fatalf("it arrived %d times: %v", n, about)
		case time.Since(began) > patience:
			s.t.Fatalf("it did not arrive so, and %d others did: %v", others, about)
		}
	}
}

// Frames whose headers are in pieces are forwarded as they came.
func TestPieces(t *testing.T) {
	t.Parallel()
	for _, plane := range []string{"tcx", "auto"} {
		t.Run(plane, func(t *testing.T) {
			t.Parallel()
			s := newPiecesSite(t)
			s.start("--interface", s.name, "--plane", plane, "--pin", s.pins)
			s.serveAll()
			for i := range 1 << 4 {
				c := content{six: i&1 != 0, udp: i&2 != 0, port: programs}
				if i&4 != 0 {
					c.tag = 7
				}
				if i&8 != 0 {
					c.port = daemons
				}
				s.inPieces(c)
			}
			// Half of the connections are opened by the daemon, and now and then it gets another first packet. Of UDP
			// it may get the three that follow too, until all programs have found the connection.
			status, opened := s.status(), s.connections/2
			handed, others := status["rx_frames"]+status["af_xdp_rx_frames"], 3*opened/2
			if handed < opened || handed > opened*11/10+others || status["xdp_frames"] != s.packets-handed {
				t.Errorf("of %d packets of %d connections the daemon got %d, and the programs forwarded %d", s.packets,
					s.connections, handed, status["xdp_frames"])
			}
		})
	}
}

// inPieces has the packets of connections come in pieces.
func (s *piecesSite) inPieces(c content) {
	for _, sizes := range [][]int{{14}, {16}, {34}, {54}, {14, 4, 20}, {14, 20, 1, 1, 1, 1}, {15, 30, 30}} {
		for _, size := range []int{0, 3, 5, 1400} {
			s.source++
			s.connections++
			c.source, c.payload, c.padded = s.source, nil, size == 5
			for i, flags := range []string{"S", "A", "PA", "PA"} {
				if c.flags, c.seq = flags, c.seq+uint32(len(c.payload))+1; i > 1 || c.udp {
					c.payload = bytes.Repeat([]byte{byte(i + 1)}, size)
				}
				s.writePieces(nil, s.frame(c, false), sizes...)
				s.arrives(s.frame(c, true), fmt.Sprintf("%v of %+v", sizes, c))
				s.packets++
			}
		}
	}
}

// Fragments in pieces are the daemon's, also one with the last four bytes of a datagram.
func TestFragmentsInPieces(t *testing.T) {
	t.Parallel()
	for _, plane := range []string{"tcx", "auto"} {
		for _, tag := range []uint16{0, 7} {
			t.Run(fmt.Sprint(plane, tag), func(t *testing.T) {
				t.Parallel()
				s := newPiecesSite(t)
				s.start("--interface", s.name, "--plane", plane, "--pin", s.pins)
				s.serveAll()
				for i, size := range []int{40, 8, 4, 1, 40, 8, 4, 1} {
					c := content{six: i >= 4, udp: true, tag: tag, port: programs, source: uint16(2000 + i), id: uint16(10 + i),
						payload: make([]byte, 24), fragment: 0x2000}
					s.writePieces(nil, s.frame(c, false), 14, 20)
					s.arrives(s.frame(c, true), c)
					c.withoutPorts, c.payload, c.fragment = true, bytes.Repeat([]byte{9}, size), 4
					s.writePieces(nil, s.frame(c, false), 14, 20)
					s.arrives(s.frame(c, true), c)
				}
			})
		}
	}
}

// A frame that is many segments is forwarded whole, and leaves as these.
func TestMergedInPieces(t *testing.T) {
	t.Parallel()
	for _, plane := range []string{"tcx", "auto"} {
		t.Run(plane, func(t *testing.T) {
			t.Parallel()
			s := newPiecesSite(t, unix.IFF_VNET_HDR)
			s.start("--interface", s.name, "--plane", plane, "--pin", s.pins)
			s.serveAll()
			for i := range 1 << 3 {
				c := content{six: i&1 != 0, port: programs}
				if i&2 != 0 {
					c.tag = 7
				}
				if i&4 != 0 {
					c.port = daemons
				}
				s.merged(c)
			}
		})
	}
}

func (s *piecesSite) merged(c content) {
	const segments, size = 20, 1000
	s.source++
	c.source, c.id = s.source, 100
	for _, c.flags = range []string{"S", "A"} {
		c.seq++
		s.writePieces(make([]byte, s.header), s.frame(c, false), 14)
		s.arrives(s.frame(c, true), c)
	}
	c.flags = "PA"
	for i := range segments {
		c.payload = append(c.payload, bytes.Repeat([]byte{byte(i + 1)}, size)...)
	}
	frame := s.frame(c, false)
	start := len(frame) - len(c.payload) - 20
	header := make([]byte, s.header)
	header[0], header[1] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, unix.VIRTIO_NET_HDR_GSO_TCPV4
	pseudo := frame[start-8 : start]
	if c.six {
		header[1], pseudo = unix.VIRTIO_NET_HDR_GSO_TCPV6, frame[start-32:start]
	}
	for i, word := range []int{start + 20, size, start, 16} { // of what is left, as the sender leaves it
		binary.NativeEndian.PutUint16(header[2+2*i:], uint16(word))
	}
	sum := uint32(unix.IPPROTO_TCP + 20 + len(c.payload))
	for i := 0; i < len(pseudo); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(pseudo[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(frame[start+16:], uint16(sum))
	before := s.status()["xdp_frames"]
	s.writePieces(header, frame, 14, 20)
	all := c.payload
	want := map[string]bool{}
	for i := range segments {
		one := c
		one.payload, one.id, one.seq = all[i*size:(i+1)*size], c.id+uint16(i), c.seq+uint32(i*size)
		if one.flags = "A"; i == segments-1 {
			one.flags = "PA"
		}
		want[string(s.frame(one, true))] = true
	}
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		s.arrived.Lock()
		for f := range s.frames {
			if want[f] && s.frames[f] == 1 {
				delete(want, f)
				delete(s.frames, f)
			}
		}
		others := len(s.frames)
		s.arrived.Unlock()
		if len(want) == 0 && others == 0 {
			break
		}
		if time.Since(began) > patience {
			s.t.Fatalf("%d segments of %d did not arrive, and %d others did", len(want), segments, others)
		}
	}
	if n := s.status()["xdp_frames"] - before; n != 1 {
		s.t.Errorf("the programs forwarded %d frames, not one", n)
	}
}
