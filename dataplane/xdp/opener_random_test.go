package xdp

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs/director"
)

// rule gives both a random rule that marks, or takes all away.
func (w *pair) rule() {
	r := w.rng
	six := r.IntN(3) == 0
	words := "-t mangle -F PREROUTING"
	if r.IntN(6) > 0 {
		words = "-t mangle -A PREROUTING "
		if r.IntN(6) > 0 {
			words += "-d " + pairVIP(six).String() + " "
		}
		if r.IntN(8) == 0 {
			words += choose(r, "-i eth0 ", "-i lo ", "! -i eth+ ")
		}
		if r.IntN(8) == 0 {
			words += "-s " + map[bool]string{false: "10.0.0.0/24", true: "fd01::/64"}[six] + " "
		}
		switch r.IntN(4) {
		case 0:
			words += choose(r, "-p tcp ", "-p udp ", "")
		case 1:
			words += choose(r, "-p tcp ", "-p udp ") + "-m multiport --dports " + choose(r, "80,81", "80,4000:4010", "21,80", "1024:65535") + " "
		default:
			words += choose(r, "-p tcp ", "-p udp ") + "--dport " + choose(r, "80", "80", "81", "4000", "80:4100", "0:80") + " "
		}
		words += "-j MARK --set-mark " + choose(r, "10", "10", "11", "12", "0")
	}
	w.log = append(w.log, fmt.Sprint(six, " ", words))
	for _, d := range []*director.Director{w.fast, w.plain} {
		if _, err := d.MarkCommand(six, strings.Fields(words)); err != nil {
			w.fail("%s: %v", words, err)
		}
	}
}

// frame is a random packet.
func (w *pair) frame() []byte {
	if len(w.sent) > 0 && w.rng.IntN(5) < 2 {
		return w.again()
	}
	frame := w.fresh()
	w.sent = append(w.sent, frame)
	return frame
}

// again is a frame of a connection that had one before. TCP's have other flags, and SCTP's other
// chunks; a payload that is as long stands behind them.
func (w *pair) again() []byte {
	frame := bytes.Clone(w.sent[max(0, len(w.sent)-1-w.rng.IntN(12))])
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if tcp, ok := p.TransportLayer().(*layers.TCP); ok {
		const fin, syn, rst, psh, ack = 1, 2, 4, 8, 16
		at := len(frame) - len(tcp.Payload) - len(tcp.Contents) + 13
		frame[at] = choose[byte](w.rng, ack, ack, ack|psh, ack|psh, fin|ack, fin, rst, rst|ack, syn, psh, 0, rst|fin)
	}
	if sctp, ok := p.TransportLayer().(*layers.SCTP); ok {
		copy(frame[len(frame)-len(sctp.Payload):], w.chunks(false))
	}
	return frame
}

// chunks are random chunks of SCTP: what opens an association, or any.
func (w *pair) chunks(first bool) []byte {
	r := w.rng
	kind := choose[byte](r, 10, 10, 11, 7, 8, 14, 6, 0, 3, 2, 9, 1, byte(r.IntN(20)), 255)
	if first && r.IntN(2) == 0 {
		kind = 1
	}
	list := make([]byte, 4+choose(r, 0, 0, 4, 8, 20))
	list[0], list[3] = kind, byte(len(list))
	if r.IntN(4) == 0 {
		list[3] -= byte(r.IntN(4)) // what is missing is padding
	}
	if r.IntN(10) == 0 {
		list[2], list[3] = choose[byte](r, 0, 0, 255, 127), choose[byte](r, 0, 3, 255)
	}
	if r.IntN(2) == 0 {
		list = append(list, choose[byte](r, 6, 6, 6, 0, 7), 0, 0, 4)
	}
	return list
}

// counted counts a frame by which the program has opened a connection.
func (w *pair) counted(frame []byte) {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	switch l := p.TransportLayer().(type) {
	case *layers.TCP:
		if !l.SYN {
			w.openedSloppy++
		}
	case *layers.SCTP:
		w.openedSCTP++
		if l.Payload[0] != 1 {
			w.openedSloppy++
		}
	}
}

// fresh is a frame of any connection.
func (w *pair) fresh() []byte {
	r := w.rng
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 7}, DstMAC: own[:], EthernetType: layers.EthernetTypeIPv4}
	proto := choose(r, layers.IPProtocolTCP, layers.IPProtocolTCP, layers.IPProtocolTCP, layers.IPProtocolUDP, layers.IPProtocolSCTP)
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	if ttl := uint8(64 - 63*(r.IntN(30)/29)); r.IntN(3) == 0 {
		eth.EthernetType = layers.EthernetTypeIPv6
		src := choose(r, "fd01::1", "fd01::1", "fd01::2", "fd01::2", "fd01:0:0:1::1", "fd01:0:0:1::2", choose(r, "::1", "ff02::1"))
		h := &layers.IPv6{Version: 6, HopLimit: ttl, NextHeader: proto, SrcIP: netip.MustParseAddr(src).AsSlice(), DstIP: pairVIP(true).AsSlice()}
		ip, network = h, h
	} else {
		src := choose(r, "10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.1.1", "198.51.100.7", "203.0.113.9", "203.0.113.8",
			choose(r, "10.0.0.3", "127.0.0.1", "0.1.1.1", "240.0.0.1", "224.0.0.1"))
		h := &layers.IPv4{Version: 4, TTL: ttl, Protocol: proto, SrcIP: netip.MustParseAddr(src).AsSlice(), DstIP: pairVIP(false).AsSlice(), Id: 7}
		ip, network = h, h
	}
	sport, dport := uint16(1000+r.IntN(400)), choose[uint16](r, 80, 80, 80, 81, 4000, choose[uint16](r, 21, 21, 20, 0))
	if r.IntN(30) == 0 {
		sport = 20
	}
	payload := make([]byte, choose(r, 1, 10, 1400, choose(r, 1400, 1400, 1400, 1500)))
	var upper gopacket.SerializableLayer
	switch proto {
	case layers.IPProtocolSCTP:
		upper = &layers.SCTP{SrcPort: layers.SCTPPort(sport), DstPort: layers.SCTPPort(dport)}
		payload = append(w.chunks(true), payload...)
		payload = payload[:max(0, len(payload)-choose(r, 0, 1, 5))]
		if r.IntN(40) == 0 {
			payload = payload[:r.IntN(5)]
		}
	case layers.IPProtocolTCP:
		f := choose(r, "S", "S", "S", "S", "A", "A", "F", "R", "SA", "SR", "")
		h := &layers.TCP{
			SrcPort: layers.TCPPort(sport), DstPort: layers.TCPPort(dport), Window: 9,
			SYN: strings.Contains(f, "S"), ACK: strings.Contains(f, "A"), FIN: strings.Contains(f, "F"), RST: strings.Contains(f, "R"),
		}
		upper = h
		w.must(h.SetNetworkLayerForChecksum(network))
	default:
		h := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}
		upper = h
		w.must(h.SetNetworkLayerForChecksum(network))
	}
	front := []gopacket.SerializableLayer{eth}
	for _, id := range choose(r, nil, nil, nil, nil, []uint16{5}, []uint16{5, 6}) {
		last := front[len(front)-1]
		tag := &layers.Dot1Q{VLANIdentifier: id, Type: eth.EthernetType}
		if d, ok := last.(*layers.Dot1Q); ok {
			tag.Type, d.Type = d.Type, layers.EthernetTypeDot1Q
		} else {
			eth.EthernetType = layers.EthernetTypeDot1Q
		}
		front = append(front, tag)
	}
	buf := gopacket.NewSerializeBuffer()
	w.must(gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		append(front, ip, upper, gopacket.Payload(payload))...))
	return buf.Bytes()
}
