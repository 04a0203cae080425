package xdp

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/packet"
)

// newRare is a pair whose program has a place to redirect to, and Go a way to the host. Its services are
// TCP's and UDP's port 80, and of IPv6 TCP's every port.
func newRare(t *testing.T) *pair {
	w := newSide(t, 1, 255)
	w.still.Plane.Plane.(*dataplanetest.Plane).SetInjects(true)
	w.still.claims.fragments = true
	_ = w.still.sockets.Close()
	var err error
	w.still.sockets, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.DevMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	w.must(err)
	w.must(w.still.sockets.Put(uint32(0), uint32(1)))
	w.start()
	for _, s := range rareServices() {
		w.must(w.fast.AddService(s))
	}
	return w
}

func rareServices() []ulvs.Service {
	s := func(k ulvs.ServiceKey) ulvs.Service { return ulvs.Service{ServiceKey: k, Scheduler: "rr"} }
	every := s(ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(true)})
	every.Persistence.Timeout = 300e9
	return []ulvs.Service{s(tcpAt(80)), s(ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: pairVIP(false), Port: 80}), every}
}

// ip puts what is given behind an IP header, from a client or, quoted, from a virtual address.
func (w *pair) ip(six bool, proto layers.IPProtocol, offset uint16, payload []byte, from, to netip.Addr) []byte {
	var ip gopacket.SerializableLayer
	if six {
		if offset != 0 {
			h := []byte{byte(proto), 0, byte(offset >> 5), byte(offset<<3 | offset>>13), 0, 0, 0, 9}
			proto, payload = layers.IPProtocolIPv6Fragment, append(h, payload...)
		}
		ip = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	} else {
		ip = &layers.IPv4{Version: 4, TTL: 64, Id: 9, Protocol: proto, Flags: layers.IPv4Flag(offset >> 13), FragOffset: offset & 0x1fff,
			SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	}
	buf := gopacket.NewSerializeBuffer()
	w.must(gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, gopacket.Payload(payload)))
	return buf.Bytes()
}

// framed puts an Ethernet header before an IP packet, and VLAN tags.
func (w *pair) framed(six bool, p []byte, vlans ...uint16) []byte {
	last := layers.EthernetTypeIPv4
	if six {
		last = layers.EthernetTypeIPv6
	}
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 7}, DstMAC: own[:], EthernetType: last}
	front := []gopacket.SerializableLayer{eth}
	for _, id := range vlans {
		eth.EthernetType = layers.EthernetTypeDot1Q
		front = append(front, &layers.Dot1Q{VLANIdentifier: id, Type: last})
	}
	buf := gopacket.NewSerializeBuffer()
	w.must(gopacket.SerializeLayers(buf, gopacket.SerializeOptions{}, append(front, gopacket.Payload(p))...))
	return buf.Bytes()
}

// The program redirects fragments to an address and a protocol that have services, all of a datagram, and ICMP
// errors about what a service has sent, and nothing else of what it cannot read; nor where Go could not give the host
// what is the host's.
func TestRare(t *testing.T) {
	if *byHook {
		t.Skip("of XDP's hook")
	}
	w := newRare(t)
	client := map[bool]netip.Addr{false: netip.MustParseAddr("10.1.1.1"), true: netip.MustParseAddr("fd01::1")}
	other := map[bool]netip.Addr{false: netip.MustParseAddr("192.168.10.102"), true: netip.MustParseAddr("fd00:10::102")}
	const tcp, udp, sctp = layers.IPProtocolTCP, layers.IPProtocolUDP, layers.IPProtocolSCTP
	icmp := map[bool]layers.IPProtocol{false: layers.IPProtocolICMPv4, true: layers.IPProtocolICMPv6}
	const first, next, last = 0x2000, 0x2000 | 100, 200
	fragment := func(six bool, proto layers.IPProtocol, offset uint16, size int, to netip.Addr) []byte {
		return w.ip(six, proto, offset, make([]byte, size), client[six], to)
	}
	// about is an error of a type, about what came from a port of an address.
	about := func(six bool, kind byte, proto layers.IPProtocol, from netip.Addr, port, offset uint16) []byte {
		quoted := w.ip(six, proto, offset, []byte{byte(port >> 8), byte(port), 4, 0, 0, 0, 0, 0}, from, client[six])
		return w.ip(six, icmp[six], 0, append([]byte{kind, 1, 0, 0, 0, 0, 0, 0}, quoted...), client[six], pairVIP(six))
	}
	options := func(p []byte) []byte { // a header of 24 bytes
		p[0]++
		return p
	}
	vip4, vip6 := pairVIP(false), pairVIP(true)
	const to, not = uint32(program.ActionRedirect), uint32(program.ActionPass)
	for _, c := range []struct {
		what   string
		packet []byte
		want   uint32
	}{
		{"first fragment of UDP", fragment(false, udp, first, 64, vip4), to},
		{"one in between", fragment(false, udp, next, 64, vip4), to},
		{"the last one", fragment(false, udp, last, 8, vip4), to},
		{"TCP's", fragment(false, tcp, first, 64, vip4), to},
		{"SCTP's", fragment(false, sctp, first, 64, vip4), not},
		{"ICMP's", fragment(false, icmp[false], first, 64, vip4), not},
		{"another address's", fragment(false, udp, first, 64, other[false]), not},
		{"of the size of the socket's frames", fragment(false, udp, first, program.SocketFrame-34, vip4), to},
		{"longer", fragment(false, udp, first, program.SocketFrame-33, vip4), not},
		{"first fragment of TCP in IPv6", fragment(true, tcp, first, 64, vip6), to},
		{"the last one in IPv6", fragment(true, tcp, last, 8, vip6), to},
		{"UDP's in IPv6, which has no service", fragment(true, udp, first, 64, vip6), not},
		{"another address's in IPv6", fragment(true, tcp, first, 64, other[true]), not},
		{"unreachable", about(false, 3, tcp, vip4, 80, 0), to},
		{"slow down", about(false, 4, tcp, vip4, 80, 0), to},
		{"time exceeded", about(false, 11, udp, vip4, 80, 0), to},
		{"about a first fragment", about(false, 3, udp, vip4, 80, first), to},
		{"about a later one", about(false, 3, udp, vip4, 80, next), not},
		{"redirect", about(false, 5, tcp, vip4, 80, 0), not},
		{"echo", about(false, 8, tcp, vip4, 80, 0), not},
		{"about another port", about(false, 3, tcp, vip4, 81, 0), not},
		{"about another protocol", about(false, 3, sctp, vip4, 80, 0), not},
		{"about another address", about(false, 3, tcp, other[false], 80, 0), not},
		{"with options", options(about(false, 3, tcp, vip4, 80, 0)), not},
		{"too big", about(true, 2, tcp, vip6, 4711, 0), to},
		{"time exceeded in IPv6", about(true, 3, tcp, vip6, 80, 0), to},
		{"about another protocol in IPv6", about(true, 1, udp, vip6, 80, 0), not},
		{"about another address in IPv6", about(true, 1, tcp, other[true], 80, 0), not},
		{"neighbour solicitation", about(true, 135, tcp, vip6, 80, 0), not},
	} {
		six := c.packet[0]>>4 == 6
		action, _, err := runByHand(w.still.prog, w.framed(six, c.packet))
		w.must(err)
		if action != c.want {
			t.Errorf("%s: action %d, not %d", c.what, action, c.want)
		}
		action, _, err = runByHand(w.still.prog, w.framed(six, c.packet, 5))
		w.must(err)
		if action != not {
			t.Errorf("%s, with a VLAN tag: action %d", c.what, action)
		}
		if c.want == to { // of an address without services
			for _, s := range rareServices() {
				w.must(w.fast.DeleteService(s.ServiceKey))
			}
			action, _, err = runByHand(w.still.prog, w.framed(six, c.packet))
			w.must(err)
			if action != not {
				t.Errorf("%s, without services: action %d", c.what, action)
			}
			for _, s := range rareServices() {
				w.must(w.fast.AddService(s))
			}
		}
	}
	w.still.Plane.Plane.(*dataplanetest.Plane).SetInjects(false)
	w.must(w.still.load())
	for _, p := range [][]byte{fragment(false, udp, first, 64, vip4), about(false, 3, tcp, vip4, 80, 0), fragment(true, tcp, first, 64, vip6)} {
		action, _, err := runByHand(w.still.prog, w.framed(p[0]>>4 == 6, p))
		w.must(err)
		if action != not {
			t.Errorf("without a way to the host: action %d", action)
		}
	}
}

// A later fragment that a socket has taken before its datagram's first waits for it. Then both are the host's, or
// the real server's: none of them comes to both, or twice.
func TestRareInOrder(t *testing.T) {
	if *byHook {
		t.Skip("of XDP's hook")
	}
	w := newRare(t)
	slow := w.still.Plane.Plane.(*dataplanetest.Plane)
	slow.SetWithholds(true)
	w.resolver.SetLocal(pairVIP(false), true)
	for _, s := range rareServices() {
		d := ulvs.Destination{Addr: pairServer(s.Is6(), 0), Port: s.Port, Weight: 1}
		w.must(w.fast.AddDestination(s.ServiceKey, d))
	}
	for id, to := range map[byte]struct {
		port    byte
		verdict dataplane.Verdict
	}{1: {7, dataplane.Host}, 2: {80, dataplane.Transmit}} {
		slow.Sent()
		part := func(offset uint16) dataplane.Frame {
			payload := make([]byte, 24)
			copy(payload, []byte{8, 0, 0, to.port, 0, 48, 0, 0})
			p := w.ip(false, layers.IPProtocolUDP, offset, payload, netip.MustParseAddr("10.1.1.1"), pairVIP(false))
			p[5], p[10], p[11] = id, 0, 0
			sum := packet.Checksum(p[:20])
			p[10], p[11] = byte(sum>>8), byte(sum)
			return dataplane.Frame{Data: w.framed(false, p), In: 1, Taken: true, Room: make([]byte, 0, 2048)}
		}
		later := []dataplane.Frame{part(3)}
		w.fast.Handle(w.still.now, later)
		if later[0].Verdict != dataplane.Drop || len(slow.Sent()) != 0 {
			t.Errorf("to port %d: the later fragment was not held back: verdict %d", to.port, later[0].Verdict)
		}
		first := []dataplane.Frame{part(0x2000)}
		w.fast.Handle(w.still.now, first)
		if v := first[0].Verdict; v != to.verdict && !(to.verdict == dataplane.Host && v == dataplane.Pass) {
			t.Errorf("to port %d: verdict %d of the first fragment", to.port, v)
		}
		if sent := slow.Sent(); len(sent) != 1 || sent[0].Verdict != to.verdict {
			t.Errorf("to port %d: %d fragments followed: %+v", to.port, len(sent), sent)
		}
	}
	all, err := w.fast.Counters()
	w.must(err)
	if all["fragments"] != 2 || all["fragments_taken"] != 2 {
		t.Errorf("%d fragments followed a connection, of which %d were taken", all["fragments"], all["fragments_taken"])
	}
}
