package packet_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// Frames for the tests of this package, made by gopacket.

var (
	clientMAC   = [6]byte{0x02, 0, 0, 0, 0, 0x0a}
	directorMAC = [6]byte{0x02, 0, 0, 0, 0, 0x0b}

	client4, virtual4 = net.IP{10, 1, 1, 1}, net.IP{192, 168, 10, 101}
	client6, virtual6 = net.ParseIP("2001:db8:1::1"), net.ParseIP("2001:db8:10::101")
)

type shape struct {
	name  string
	frame []byte
}

// build serializes layers with right lengths and checksums.
func build(t testing.TB, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, opts, parts...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// link is the Ethernet header with tags of the given ethertypes.
func link(ethertype layers.EthernetType, tags ...layers.EthernetType) []gopacket.SerializableLayer {
	types := append(append([]layers.EthernetType(nil), tags...), ethertype)
	parts := []gopacket.SerializableLayer{&layers.Ethernet{
		SrcMAC: clientMAC[:], DstMAC: directorMAC[:], EthernetType: types[0],
	}}
	for i := range tags {
		parts = append(parts, &layers.Dot1Q{Priority: 3, VLANIdentifier: uint16(100 + i), Type: types[i+1]})
	}
	return parts
}

func ip4(proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{
		Version: 4, TTL: 63, TOS: 0x2a, Id: 0x1234, Flags: layers.IPv4DontFragment,
		Protocol: proto, SrcIP: client4, DstIP: virtual4,
	}
}

func ip6(proto layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{
		Version: 6, HopLimit: 63, TrafficClass: 0x2a, FlowLabel: 0x12345,
		NextHeader: proto, SrcIP: client6, DstIP: virtual6,
	}
}

// network is one way to carry a transport in IP.
type network struct {
	name  string
	is6   bool
	later bool // a fragment without transport header
	parts func(proto layers.IPProtocol) []gopacket.SerializableLayer
}

// exts makes an IPv6 header and extension headers, of which each is a type and
// its bytes; the first byte is filled in.
func exts(types []byte, bodies ...[]byte) func(layers.IPProtocol) []gopacket.SerializableLayer {
	return func(proto layers.IPProtocol) []gopacket.SerializableLayer {
		if len(types) == 0 {
			return []gopacket.SerializableLayer{ip6(proto)}
		}
		var raw []byte
		for i, body := range bodies {
			at := len(raw)
			raw = append(raw, body...)
			raw[at] = byte(proto)
			if i+1 < len(types) {
				raw[at] = types[i+1]
			}
		}
		return []gopacket.SerializableLayer{ip6(layers.IPProtocol(types[0])), gopacket.Payload(raw)}
	}
}

var (
	// PadN options, two of them 8 and one 16 bytes long.
	padding   = []byte{0, 0, 1, 4, 0, 0, 0, 0}
	padding16 = []byte{0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	routing   = []byte{0, 2, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	auth      = []byte{0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9}
)

// fragment is an IPv6 fragment header.
func fragment(offset uint16, more bool) []byte {
	b := []byte{0, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef}
	if more {
		offset |= 1
	}
	binary.BigEndian.PutUint16(b[2:], offset)
	return b
}

func networks() []network {
	v4 := func(edit func(*layers.IPv4)) func(layers.IPProtocol) []gopacket.SerializableLayer {
		return func(proto layers.IPProtocol) []gopacket.SerializableLayer {
			h := ip4(proto)
			edit(h)
			return []gopacket.SerializableLayer{h}
		}
	}
	return []network{
		{"v4", false, false, v4(func(*layers.IPv4) {})},
		{"v4 options", false, false, v4(func(h *layers.IPv4) {
			h.Options = []layers.IPv4Option{{OptionType: 7, OptionLength: 11, OptionData: []byte{4, 0, 0, 0, 0, 0, 0, 0, 0}}}
		})},
		{"v4 no DF", false, false, v4(func(h *layers.IPv4) { h.Flags = 0; h.TTL = 1 })},
		{"v4 first fragment", false, false, v4(func(h *layers.IPv4) { h.Flags = layers.IPv4MoreFragments })},
		{"v4 middle fragment", false, true, v4(func(h *layers.IPv4) { h.Flags = layers.IPv4MoreFragments; h.FragOffset = 185 })},
		{"v4 last fragment", false, true, v4(func(h *layers.IPv4) { h.Flags = 0; h.FragOffset = 0x1fff })},
		{"v6", true, false, exts(nil)},
		{"v6 hop-by-hop", true, false, exts([]byte{0}, padding)},
		{"v6 destination, routing", true, false, exts([]byte{60, 43, 60}, padding16, routing, padding)},
		{"v6 authentication", true, false, exts([]byte{51}, auth)},
		{"v6 whole fragment", true, false, exts([]byte{44}, fragment(0, false))},
		{"v6 first fragment", true, false, exts([]byte{0, 44, 60}, padding, fragment(0, true), padding16)},
		{"v6 middle fragment", true, true, exts([]byte{0, 44}, padding, fragment(1480, true))},
		{"v6 last fragment", true, true, exts([]byte{44}, fragment(0xfff8, false))},
	}
}

// transport is one way to fill IP: what goes into a header of family n.
type transport struct {
	name  string
	proto func(is6 bool) layers.IPProtocol
	parts func(t testing.TB, is6 bool) []gopacket.SerializableLayer
}

func fixed(p layers.IPProtocol) func(bool) layers.IPProtocol {
	return func(bool) layers.IPProtocol { return p }
}

func icmpProto(is6 bool) layers.IPProtocol {
	if is6 {
		return layers.IPProtocolICMPv6
	}
	return layers.IPProtocolICMPv4
}

// chunk is an SCTP chunk with its padding.
func chunk(kind byte, value ...byte) []byte {
	b := []byte{kind, 0, 0, byte(4 + len(value))}
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func sctp(name string, chunks ...[]byte) transport {
	return transport{"SCTP " + name, fixed(layers.IPProtocolSCTP), func(testing.TB, bool) []gopacket.SerializableLayer {
		var body []byte
		for _, c := range chunks {
			body = append(body, c...)
		}
		return []gopacket.SerializableLayer{&layers.SCTP{SrcPort: 40000, DstPort: 80, VerificationTag: 7}, gopacket.Payload(body)}
	}}
}

func icmp(name string, type4, type6, code uint8, rest ...byte) transport {
	return transport{name, icmpProto, func(_ testing.TB, is6 bool) []gopacket.SerializableLayer {
		if is6 {
			return []gopacket.SerializableLayer{&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(type6, code)}, gopacket.Payload(append([]byte{0, 7, 0, 1}, rest...))}
		}
		return []gopacket.SerializableLayer{&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(type4, code), Id: 7, Seq: 1}, gopacket.Payload(rest)}
	}}
}

// quoting is an ICMP error about a frame's packet, cut to cut bytes of it.
func quoting(name string, type4, type6 uint8, cut int, quoted func(t testing.TB, is6 bool) []byte) transport {
	return transport{name, icmpProto, func(t testing.TB, is6 bool) []gopacket.SerializableLayer {
		q := quoted(t, is6)[14:]
		return icmp("", type4, type6, 1, q[:min(cut, len(q))]...).parts(t, is6)
	}}
}

func simpleTransports() []transport {
	tcp := func(name string, edit func(*layers.TCP)) transport {
		return transport{"TCP " + name, fixed(layers.IPProtocolTCP), func(testing.TB, bool) []gopacket.SerializableLayer {
			h := &layers.TCP{SrcPort: 40000, DstPort: 80, Seq: 0xfffffffe, Ack: 0x01020304, Window: 100}
			edit(h)
			return []gopacket.SerializableLayer{h, gopacket.Payload("hello")}
		}}
	}
	return []transport{
		tcp("SYN", func(h *layers.TCP) { h.SYN, h.ECE, h.CWR = true, true, true }),
		tcp("SYN FIN", func(h *layers.TCP) { h.SYN, h.FIN = true, true }),
		tcp("ACK PSH", func(h *layers.TCP) { h.ACK, h.PSH = true, true }),
		tcp("RST URG", func(h *layers.TCP) { h.RST, h.URG = true, true }),
		tcp("options", func(h *layers.TCP) {
			h.SYN = true
			h.Options = []layers.TCPOption{{OptionType: 2, OptionLength: 4, OptionData: []byte{5, 0xb4}}}
		}),
		{"UDP", fixed(layers.IPProtocolUDP), func(testing.TB, bool) []gopacket.SerializableLayer {
			return []gopacket.SerializableLayer{&layers.UDP{SrcPort: 40000, DstPort: 53}, gopacket.Payload("hello")}
		}},
		sctp("no chunk"),
		sctp("INIT", chunk(1, make([]byte, 16)...)),
		sctp("COOKIE ECHO, ABORT", chunk(10, 1, 2, 3, 4, 5), chunk(6)),
		sctp("COOKIE ACK, DATA", chunk(11), chunk(0, make([]byte, 13)...)),
		sctp("COOKIE ACK alone", chunk(11)),
		sctp("DATA, SACK", chunk(0, make([]byte, 12)...), chunk(3)),
		sctp("COOKIE ECHO of no length", []byte{10, 0, 0, 3}, chunk(6)),
		icmp("echo", 8, 128, 0, []byte("abcdefg")...),
		icmp("other information", 13, 130, 0, make([]byte, 16)...),
		{"GRE", fixed(layers.IPProtocolGRE), func(testing.TB, bool) []gopacket.SerializableLayer {
			return []gopacket.SerializableLayer{gopacket.Payload{0, 0, 8, 0}}
		}},
	}
}

func transports() []transport {
	all := simpleTransports()
	for _, n := range networks() {
		for i, inner := range simpleTransports() {
			name := fmt.Sprintf("error quoting %s %s", n.name, inner.name)
			cut := []int{28, 48, 64, 1 << 16}[i%4]
			all = append(all, quoting(name, []byte{3, 4, 11}[i%3], []byte{1, 2, 3, 4}[i%4], cut, func(t testing.TB, is6 bool) []byte {
				if is6 != n.is6 {
					n := networks()[0]
					if is6 {
						n = networks()[6]
					}
					return compose(t, n, inner)
				}
				return compose(t, n, inner)
			}))
		}
	}
	return all
}

// compose is the frame of a transport in a network behind tags.
func compose(t testing.TB, n network, tr transport, tags ...layers.EthernetType) []byte {
	t.Helper()
	ethertype := layers.EthernetTypeIPv4
	if n.is6 {
		ethertype = layers.EthernetTypeIPv6
	}
	parts := append(link(ethertype, tags...), n.parts(tr.proto(n.is6))...)
	if n.later {
		return build(t, append(parts, gopacket.Payload("part of a datagram"))...)
	}
	upper := tr.parts(t, n.is6)
	ip := parts[1+len(tags)].(gopacket.NetworkLayer)
	if h, ok := upper[0].(interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}); ok {
		if err := h.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
	}
	return build(t, append(parts, upper...)...)
}

// shapes is every transport in every network, tagged in turn.
func shapes(t testing.TB) []shape {
	tagged := [][]layers.EthernetType{
		{}, {layers.EthernetTypeDot1Q}, {layers.EthernetTypeQinQ, layers.EthernetTypeDot1Q},
	}
	var all []shape
	for _, n := range networks() {
		for _, tr := range transports() {
			for _, tags := range tagged {
				name := fmt.Sprintf("%s %s %d tags", n.name, tr.name, len(tags))
				all = append(all, shape{name, compose(t, n, tr, tags...)})
			}
		}
	}
	return all
}
