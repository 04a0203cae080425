package conformance

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// Every packet carries its number where each kind of answer repeats it: in the
// IPv4 identification or IPv6 flow label (real servers see it, ICMP errors
// quote it), in the upper half of TCP's sequence and acknowledgement numbers
// (a reset has one of them), in the ICMP echo sequence, and, for the eye, in
// the first four bytes of the payload.

// seqShift leaves room below the number for a reset's acknowledgement, which
// counts the payload and the SYN and FIN flags.
const seqShift = 16

const tcpLetters = "FSRPAUEC" // by bit, from 0

// tcpFlags are the flags byte that letters stand for.
func tcpFlags(letters string) (byte, error) {
	var flags byte
	for _, c := range letters {
		bit := strings.IndexRune(tcpLetters, c)
		if bit < 0 {
			return 0, fmt.Errorf("flags %q: no such TCP flag %q", letters, c)
		}
		flags |= 1 << bit
	}
	return flags, nil
}

// sctpTypes are chunk types by the names of RFC 9260, as far as a scenario may
// want them.
var sctpTypes = map[string]byte{
	"DATA": 0, "INIT": 1, "INIT_ACK": 2, "SACK": 3, "HEARTBEAT": 4, "HEARTBEAT_ACK": 5,
	"ABORT": 6, "SHUTDOWN": 7, "SHUTDOWN_ACK": 8, "ERROR": 9, "COOKIE_ECHO": 10,
	"COOKIE_ACK": 11, "ECNE": 12, "CWR": 13, "SHUTDOWN_COMPLETE": 14,
}

// sctpChunks are the types that a comma-separated list names.
func sctpChunks(list string) ([]byte, error) {
	var types []byte
	for name := range strings.SplitSeq(list, ",") {
		t, ok := sctpTypes[name]
		if !ok {
			return nil, fmt.Errorf("no such SCTP chunk %q", name)
		}
		types = append(types, t)
	}
	return types, nil
}

// craft makes the Ethernet frames of a packet, checksums included: one, or its
// fragments.
func craft(p Packet, from, to net.HardwareAddr) ([][]byte, error) {
	eth := &layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: layers.EthernetTypeIPv4}
	if p.Src.Addr().Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
	}
	datagram, err := craftDatagram(p)
	if err != nil {
		return nil, fmt.Errorf("craft %v: %w", p, err)
	}
	var frames [][]byte
	for _, d := range fragment(datagram, p.Fragments, p.First) {
		frame, err := serialize(eth, gopacket.Payload(d))
		if err != nil {
			return nil, fmt.Errorf("craft %v: %w", p, err)
		}
		frames = append(frames, frame)
	}
	if p.Reverse {
		slices.Reverse(frames)
	}
	return frames, nil
}

func serialize(stack ...gopacket.SerializableLayer) ([]byte, error) {
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...)
	return buf.Bytes(), err
}

func craftDatagram(p Packet) ([]byte, error) {
	if p.Error != "" {
		return craftError(p)
	}
	ip, err := network(p)
	if err != nil {
		return nil, err
	}
	upper, err := transport(p, ip)
	if err != nil {
		return nil, err
	}
	stack := append([]gopacket.SerializableLayer{ip}, upper...)
	d, err := serialize(append(stack, payload(p))...)
	if err != nil {
		return nil, err
	}
	if p.Proto == "udp" {
		sumOfZero(d)
	}
	if d, err = withHeaders(d, p); err != nil {
		return nil, err
	}
	damage(d, p.Bad)
	return d, nil
}

// sumOfZero writes a UDP checksum that comes to zero as all ones, as RFC 768 wants:
// zero means that there is none, which IPv6 does not allow. gopacket v1.1.19 leaves
// it at zero.
func sumOfZero(d []byte) {
	at := 40 + 6
	if d[0]>>4 == 4 {
		at = 20 + 6
	}
	if d[at] == 0 && d[at+1] == 0 {
		d[at], d[at+1] = 0xff, 0xff
	}
}

func payload(p Packet) gopacket.Payload {
	if p.Call != "" {
		message := []byte("INVITE sip:shop@example.com SIP/2.0\r\nVia: SIP/2.0/UDP " + p.Src.String() +
			"\r\nCall-ID: " + p.Call + "\r\nCSeq: 1 INVITE\r\n\r\n")
		return append(message, make([]byte, max(0, p.Size-len(message)))...)
	}
	b := make(gopacket.Payload, p.Size)
	binary.BigEndian.PutUint32(b, uint32(p.Number))
	return b
}

type networkLayer interface {
	gopacket.SerializableLayer
	gopacket.NetworkLayer
}

func network(p Packet) (networkLayer, error) {
	proto, ok := map[string]layers.IPProtocol{
		"tcp": layers.IPProtocolTCP, "udp": layers.IPProtocolUDP,
		"sctp": layers.IPProtocolSCTP, "icmp": layers.IPProtocolICMPv4,
		"esp": layers.IPProtocolESP, "ah": layers.IPProtocolAH,
	}[p.Proto]
	if !ok {
		return nil, fmt.Errorf("craft %v: no such protocol", p)
	}
	src, dst := p.Src.Addr(), p.Dst.Addr()
	if src.Is4() {
		return &layers.IPv4{
			Version: 4, TTL: uint8(p.TTL), Protocol: proto, Id: uint16(p.Number),
			SrcIP: src.AsSlice(), DstIP: dst.AsSlice(),
		}, nil
	}
	if p.Proto == "icmp" {
		proto = layers.IPProtocolICMPv6
	}
	return &layers.IPv6{
		Version: 6, HopLimit: uint8(p.TTL), NextHeader: proto, FlowLabel: uint32(p.Number),
		SrcIP: src.AsSlice(), DstIP: dst.AsSlice(),
	}, nil
}

func transport(p Packet, ip networkLayer) ([]gopacket.SerializableLayer, error) {
	src, dst := p.Src.Port(), p.Dst.Port()
	switch p.Proto {
	case "tcp":
		return tcpLayer(p, ip)
	case "udp":
		udp := &layers.UDP{SrcPort: layers.UDPPort(src), DstPort: layers.UDPPort(dst)}
		return []gopacket.SerializableLayer{udp}, udp.SetNetworkLayerForChecksum(ip)
	case "sctp":
		types, err := sctpChunks(p.Flags)
		if err != nil {
			return nil, err
		}
		sctp := &layers.SCTP{
			SrcPort: layers.SCTPPort(src), DstPort: layers.SCTPPort(dst),
			VerificationTag: uint32(p.Number) << seqShift,
		}
		return []gopacket.SerializableLayer{sctp, sctpBody(types, p.Size)}, nil
	}
	if p.Proto == "esp" || p.Proto == "ah" {
		return []gopacket.SerializableLayer{ipsec(p)}, nil
	}
	if p.Src.Addr().Is4() {
		return []gopacket.SerializableLayer{&layers.ICMPv4{
			TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0),
			Id:       src, Seq: uint16(p.Number),
		}}, nil
	}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)}
	echo := &layers.ICMPv6Echo{Identifier: src, SeqNumber: uint16(p.Number)}
	return []gopacket.SerializableLayer{icmp, echo}, icmp.SetNetworkLayerForChecksum(ip)
}

// ipsec is the header of ESP or AH (RFC 4303, RFC 4302): the number is that of the security
// association. Behind AH comes nothing that anybody knows.
func ipsec(p Packet) gopacket.Payload {
	const noNextHeader, words, icv = 59, 4, 12
	var b []byte
	if p.Proto == "ah" {
		b = []byte{noNextHeader, words, 0, 0}
	}
	b = binary.BigEndian.AppendUint32(b, uint32(p.Number))
	b = binary.BigEndian.AppendUint32(b, 1)
	if p.Proto == "ah" {
		b = append(b, make([]byte, icv)...)
	}
	return b
}

func tcpLayer(p Packet, ip networkLayer) ([]gopacket.SerializableLayer, error) {
	flags, err := tcpFlags(p.Flags)
	if err != nil {
		return nil, err
	}
	has := func(letter byte) bool { return flags>>strings.IndexByte(tcpLetters, letter)&1 == 1 }
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(p.Src.Port()), DstPort: layers.TCPPort(p.Dst.Port()),
		Seq: uint32(p.Number) << seqShift, Window: 65535,
		FIN: has('F'), SYN: has('S'), RST: has('R'), PSH: has('P'),
		ACK: has('A'), URG: has('U'), ECE: has('E'), CWR: has('C'),
	}
	if tcp.ACK {
		tcp.Ack = uint32(p.Number) << seqShift
	}
	return []gopacket.SerializableLayer{tcp}, tcp.SetNetworkLayerForChecksum(ip)
}

// sctpBody are the chunks: empty ones, but for the last, whose value is the
// payload that follows.
func sctpBody(types []byte, payload int) gopacket.Payload {
	var body []byte
	for i, t := range types {
		length := 4
		if i == len(types)-1 {
			length += payload
		}
		body = binary.BigEndian.AppendUint16(append(body, t, 0), uint16(length))
	}
	return body
}
