package packet_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs/packet"
)

// read is what gopacket says about a whole frame of IP, as a Packet: the slow
// and obvious way to get one.
func read(t testing.TB, frame []byte) packet.Packet {
	t.Helper()
	pkt := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	var p packet.Packet
	at := 0
	for _, l := range pkt.Layers() {
		switch h := l.(type) {
		case *layers.Ethernet:
			p.EtherType = uint16(h.EthernetType)
		case *layers.Dot1Q:
			p.VLANs++
			p.EtherType = uint16(h.Type)
		case *layers.IPv4, *layers.IPv6:
			p.L3 = at
			network, ok := readIP(l, &p)
			if !ok {
				t.Fatalf("gopacket cannot read the extensions in %x", frame)
			}
			readTransport(t, frame, network, &p)
			return p
		}
		at += len(l.LayerContents())
	}
	t.Fatalf("gopacket finds no IP in %x: %v", frame, pkt.ErrorLayer())
	return p
}

func addr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// ends are the addresses of a network layer, as ports 0.
type ends struct{ src, dst netip.Addr }

// readIP reads the headers up to the transport's, if they are all there.
func readIP(l gopacket.Layer, p *packet.Packet) (ends, bool) {
	p.L4 = p.L3 + len(l.LayerContents())
	if h, ok := l.(*layers.IPv6); ok && h.HopByHop != nil {
		// gopacket takes this extension into the IPv6 layer.
		p.L4 += len(h.HopByHop.Contents)
	}
	p.End = p.L4 + len(l.LayerPayload())
	if h, ok := l.(*layers.IPv4); ok {
		p.TTL, p.Proto = h.TTL, uint8(h.Protocol)
		p.DF = h.Flags&layers.IPv4DontFragment != 0
		p.MoreFragments = h.Flags&layers.IPv4MoreFragments != 0
		p.FragOffset = h.FragOffset * 8
		if p.Fragment = p.MoreFragments || p.FragOffset != 0; p.Fragment {
			p.FragID = uint32(h.Id)
		}
		for _, o := range h.Options {
			const recordRoute, timestamp = 7, 68
			p.Records = p.Records || o.OptionType == recordRoute || o.OptionType == timestamp
		}
		return ends{addr(h.SrcIP), addr(h.DstIP)}, true
	}
	h := l.(*layers.IPv6)
	p.Is6, p.TTL = true, h.HopLimit
	next, rest := h.NextHeader, l.LayerPayload()
	if h.HopByHop != nil {
		next = h.HopByHop.NextHeader
	}
walk:
	for p.FragOffset == 0 {
		switch next {
		case layers.IPProtocolIPv6HopByHop, layers.IPProtocolIPv6Routing, layers.IPProtocolIPv6Fragment,
			layers.IPProtocolAH, layers.IPProtocolIPv6Destination:
		default:
			break walk
		}
		ext := gopacket.NewPacket(rest, next.LayerType(), gopacket.NoCopy).Layers()[0]
		if len(ext.LayerContents()) == 0 {
			return ends{}, false // a layer that could not be decoded
		}
		switch e := ext.(type) {
		case *layers.IPv6HopByHop:
			next = e.NextHeader
		case *layers.IPv6Routing:
			next = e.NextHeader
		case *layers.IPv6Destination:
			next = e.NextHeader
		case *layers.IPSecAH:
			next = e.NextHeader
		case *layers.IPv6Fragment:
			next = e.NextHeader
			p.MoreFragments, p.FragOffset = e.MoreFragments, e.FragmentOffset*8
			if p.Fragment = p.MoreFragments || p.FragOffset != 0; p.Fragment {
				p.FragID = e.Identification
			}
		default:
			return ends{}, false
		}
		p.L4 += len(ext.LayerContents())
		rest = rest[len(ext.LayerContents()):]
	}
	p.Proto = uint8(next)
	return ends{addr(h.SrcIP), addr(h.DstIP)}, true
}

func readTransport(t testing.TB, frame []byte, n ends, p *packet.Packet) {
	t.Helper()
	var sport, dport uint16
	body := frame[p.L4:p.End]
	decode := func(h gopacket.DecodingLayer) {
		if err := h.DecodeFromBytes(body, gopacket.NilDecodeFeedback); err != nil {
			t.Fatalf("gopacket cannot decode %T in %x: %v", h, frame, err)
		}
	}
	whole := p.FragOffset == 0
	switch p.Proto {
	case 6:
		p.Kind = packet.TCP
		if whole {
			var h layers.TCP
			decode(&h)
			sport, dport = uint16(h.SrcPort), uint16(h.DstPort)
			for i, set := range []bool{h.FIN, h.SYN, h.RST, h.PSH, h.ACK, h.URG, h.ECE, h.CWR} {
				if set {
					p.TCPFlags |= 1 << i
				}
			}
		}
	case 17:
		p.Kind = packet.UDP
		if whole {
			var h layers.UDP
			decode(&h)
			sport, dport = uint16(h.SrcPort), uint16(h.DstPort)
		}
	case 132:
		p.Kind = packet.SCTP
		if whole {
			var h layers.SCTP
			decode(&h)
			sport, dport = uint16(h.SrcPort), uint16(h.DstPort)
			readChunks(h.LayerPayload(), p)
		}
	case 1, 58:
		p.Kind = packet.OtherIP
		if p.Is6 == (p.Proto == 58) {
			p.Kind = packet.ICMP
			if whole {
				readICMP(t, frame, p)
			}
		}
	default:
		p.Kind = packet.OtherIP
	}
	p.Flow = packet.NewFlow(p.Proto, netip.AddrPortFrom(n.src, sport), netip.AddrPortFrom(n.dst, dport))
}

// readChunks follows the rule of set_sctp_state in plain words.
func readChunks(b []byte, p *packet.Packet) {
	if len(b) < 4 {
		return
	}
	p.HasChunk, p.Chunk = true, b[0]
	size := int(b[2])<<8 | int(b[3])
	if (b[0] != 10 && b[0] != 11) || size < 4 {
		return
	}
	for size%4 != 0 {
		size++
	}
	if len(b) >= size+4 {
		p.HasNextChunk, p.NextChunk = true, b[size]
	}
}

func readICMP(t testing.TB, frame []byte, p *packet.Packet) {
	t.Helper()
	p.ICMPType, p.ICMPCode = frame[p.L4], frame[p.L4+1]
	isError := p.ICMPType == 3 || p.ICMPType == 4 || p.ICMPType == 11
	first := gopacket.LayerType(layers.LayerTypeIPv4)
	if p.Is6 {
		isError = p.ICMPType < 128
		first = layers.LayerTypeIPv6
	}
	if !isError {
		return
	}
	quote := gopacket.NewPacket(frame[p.L4+8:p.End], first, gopacket.NoCopy).Layers()
	if quote[0].LayerType() != first || len(quote[0].LayerContents()) == 0 {
		return // cut off within the IP header
	}
	inner := packet.Packet{L3: p.L4 + 8}
	n, ok := readIP(quote[0], &inner)
	if !ok {
		return
	}
	var sport, dport uint16
	if ports := inner.Proto == 6 || inner.Proto == 17 || inner.Proto == 132; ports && inner.FragOffset == 0 {
		if p.End-inner.L4 < 4 {
			return
		}
		sport = uint16(frame[inner.L4])<<8 | uint16(frame[inner.L4+1])
		dport = uint16(frame[inner.L4+2])<<8 | uint16(frame[inner.L4+3])
	}
	p.Quoted = packet.Quoted{
		OK: true, Is6: p.Is6, Proto: inner.Proto, FragOffset: inner.FragOffset, L3: inner.L3, L4: inner.L4,
		// Reversed: the client is where the quoted packet was going.
		Flow: packet.NewFlow(inner.Proto, netip.AddrPortFrom(n.dst, dport), netip.AddrPortFrom(n.src, sport)),
	}
}

// valid is p without what Packet does not promise.
func valid(p packet.Packet) packet.Packet {
	if !p.Quoted.OK {
		p.Quoted = packet.Quoted{}
	}
	if p.Kind != packet.ARP {
		p.ARPSenderMAC, p.ARPSender, p.ARPTarget = [6]byte{}, netip.Addr{}, netip.Addr{}
	}
	return p
}

// badSum adds a packet up word by word, by the layers that gopacket finds, and returns
// the first of them with a wrong checksum; nil: none. It is the second opinion on
// checksums: gopacket v1.1.19 makes them, but does not check them. The quote inside an
// ICMP error is no layer to gopacket, so all layers are the packet's own.
func badSum(pkt gopacket.Packet) gopacket.Layer {
	var ends []byte // both addresses
	for _, l := range pkt.Layers() {
		summed := append(bytes.Clone(l.LayerContents()), l.LayerPayload()...)
		pseudo := func(proto layers.IPProtocol) {
			header := binary.BigEndian.AppendUint32(bytes.Clone(ends), uint32(len(summed)))
			summed = append(binary.BigEndian.AppendUint32(header, uint32(proto)), summed...)
		}
		switch h := l.(type) {
		case *layers.IPv4:
			ends = append(bytes.Clone(h.SrcIP), h.DstIP...)
			summed = h.Contents
		case *layers.IPv6:
			ends = append(bytes.Clone(h.SrcIP), h.DstIP...)
			continue
		case *layers.TCP:
			pseudo(layers.IPProtocolTCP)
		case *layers.UDP:
			pseudo(layers.IPProtocolUDP)
		case *layers.ICMPv6:
			pseudo(layers.IPProtocolICMPv6)
		case *layers.ICMPv4:
		default:
			continue
		}
		if slowSum(0, summed) != 0 {
			return l
		}
	}
	return nil
}

// TestBadSum: badSum finds nothing wrong with what gopacket has made, and no damage to
// an IPv4 header or a transport's data stays hidden from it.
func TestBadSum(t *testing.T) {
	found := map[gopacket.LayerType]int{}
	for _, s := range shapes(t) {
		pkt := gopacket.NewPacket(s.frame, layers.LayerTypeEthernet, gopacket.NoCopy)
		if l := badSum(pkt); l != nil {
			t.Fatalf("%s: %v", s.name, l.LayerType())
		}
		var p packet.Packet
		p.Parse(s.frame)
		// What gopacket takes for a fragment may also be a whole datagram.
		if pkt.Layer(gopacket.LayerTypeFragment) != nil || p.Kind == packet.SCTP || p.Kind == packet.OtherIP {
			continue // its end is in no checksum of the kind
		}
		damaged := []int{p.End - 1}
		if !p.Is6 {
			damaged = append(damaged, p.L3+4) // the identification
		}
		for _, at := range damaged {
			l := badSum(gopacket.NewPacket(edit(s.frame, at, s.frame[at]^1), layers.LayerTypeEthernet, gopacket.NoCopy))
			if l == nil {
				t.Fatalf("%s: damage at %d is not seen", s.name, at)
			}
			found[l.LayerType()]++
		}
	}
	if len(found) != 5 {
		t.Errorf("found only in %v", found)
	}
}
