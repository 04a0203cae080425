package director_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/packet"
)

const (
	eth0 = 2 // the director's interface
	vip  = "192.168.10.101"
	vip6 = "fd00:10::101"
)

var (
	directorMAC = dataplane.MAC{2, 0, 0, 0, 10, 100}
	clientMAC   = dataplane.MAC{2, 0, 0, 0, 10, 1}
)

func serverMAC(i int) dataplane.MAC { return dataplane.MAC{2, 0, 0, 0, 10, byte(200 + i)} }

// bed is a director between a plane in memory and four real servers.
type bed struct {
	t testing.TB
	*director.Director
	plane    *dataplanetest.Plane
	resolver *dataplanetest.Resolver
}

func newBed(t testing.TB, o director.Options) *bed {
	t.Helper()
	b := emptyBed(t)
	b.begin(o, b.plane)
	return b
}

// emptyBed has no director yet; begin gives it one, in the place of the one before.
func emptyBed(t testing.TB) *bed {
	b := &bed{t: t, plane: dataplanetest.New(), resolver: dataplanetest.NewResolver()}
	b.resolver.SetLink(eth0, "eth0", directorMAC)
	for i := range 4 {
		for _, a := range []string{serverAddr(i), serverAddr6(i)} {
			b.resolver.Set(netip.MustParseAddr(a), dataplane.Neighbor{
				State: dataplane.HopReachable, Ifindex: eth0, MTU: 1500, Dst: serverMAC(i), Src: directorMAC,
			})
		}
	}
	return b
}

func (b *bed) begin(o director.Options, plane dataplane.Plane) {
	b.t.Helper()
	o.Plane, o.Resolver, o.Clock = plane, b.resolver, b.plane.Now
	if o.Connections == 0 {
		o.Connections = 1000
	}
	d, err := director.New(o)
	b.must(err)
	b.t.Cleanup(d.Close)
	b.Director = d
	b.plane.Attach(d)
}

func serverAddr(i int) string  { return fmt.Sprintf("192.168.10.%d", 200+i) }
func serverAddr6(i int) string { return fmt.Sprintf("fd00:10::%d", 200+i) }

func (b *bed) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// service adds a service with the first n servers, r0 first.
func (b *bed) service(s ulvs.Service, n int) ulvs.ServiceKey {
	b.t.Helper()
	b.must(b.AddService(s))
	for i := range n {
		b.must(b.AddDestination(s.ServiceKey, dest(s.ServiceKey, i, 1)))
	}
	return s.ServiceKey
}

func dest(k ulvs.ServiceKey, i int, weight int32) ulvs.Destination {
	a := serverAddr(i)
	if k.Is6() {
		a = serverAddr6(i)
	}
	return ulvs.Destination{Addr: netip.MustParseAddr(a), Port: k.Port, Weight: weight}
}

func tcp(port uint16) ulvs.ServiceKey {
	return ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr(vip), Port: port}
}

func udp(port uint16) ulvs.ServiceKey {
	return ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: netip.MustParseAddr(vip), Port: port}
}

func persistent(k ulvs.ServiceKey, scheduler string, timeout time.Duration) ulvs.Service {
	return ulvs.Service{ServiceKey: k, Scheduler: scheduler, Persistence: ulvs.Persistence{Timeout: timeout}}
}

// pkt is a packet to be; the zero fields have sensible values.
type pkt struct {
	proto         string // tcp (default), udp, sctp
	src, dst      string // addr:port
	flags         string // of TCP: S, A, F, R, P
	ttl           uint8
	size          int    // payload bytes
	payload       string // instead
	df            bool
	vlan          uint16
	fragID        uint16
	fragOffset    uint16 // in 8 bytes
	moreFragments bool
}

func (p pkt) frame(t testing.TB) []byte {
	t.Helper()
	src, dst := netip.MustParseAddrPort(p.src), netip.MustParseAddrPort(p.dst)
	if p.ttl == 0 {
		p.ttl = 64
	}
	eth := &layers.Ethernet{SrcMAC: clientMAC[:], DstMAC: directorMAC[:], EthernetType: layers.EthernetTypeIPv4}
	stack := []gopacket.SerializableLayer{eth}
	if src.Addr().Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
	}
	if p.vlan != 0 {
		stack = append(stack, &layers.Dot1Q{VLANIdentifier: p.vlan, Type: eth.EthernetType})
		eth.EthernetType = layers.EthernetTypeDot1Q
	}
	proto := map[string]layers.IPProtocol{"": layers.IPProtocolTCP, "tcp": layers.IPProtocolTCP, "udp": layers.IPProtocolUDP, "sctp": layers.IPProtocolSCTP}[p.proto]
	var network gopacket.NetworkLayer
	if src.Addr().Is6() {
		ip := &layers.IPv6{Version: 6, HopLimit: p.ttl, NextHeader: proto, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
		network = ip
		stack = append(stack, ip)
	} else {
		ip := &layers.IPv4{Version: 4, TTL: p.ttl, Protocol: proto, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice(), Id: p.fragID, FragOffset: p.fragOffset}
		if p.df {
			ip.Flags |= layers.IPv4DontFragment
		}
		if p.moreFragments {
			ip.Flags |= layers.IPv4MoreFragments
		}
		network = ip
		stack = append(stack, ip)
	}
	if p.fragOffset == 0 {
		switch p.proto {
		case "", "tcp":
			h := &layers.TCP{SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()), Seq: 100, Ack: 200, Window: 1000}
			for _, f := range p.flags {
				switch f {
				case 'S':
					h.SYN = true
				case 'A':
					h.ACK = true
				case 'F':
					h.FIN = true
				case 'R':
					h.RST = true
				case 'P':
					h.PSH = true
				}
			}
			b := h.SetNetworkLayerForChecksum(network)
			if b != nil {
				t.Fatal(b)
			}
			stack = append(stack, h)
		case "udp":
			h := &layers.UDP{SrcPort: layers.UDPPort(src.Port()), DstPort: layers.UDPPort(dst.Port())}
			if err := h.SetNetworkLayerForChecksum(network); err != nil {
				t.Fatal(err)
			}
			stack = append(stack, h)
		case "sctp":
			stack = append(stack, &layers.SCTP{SrcPort: layers.SCTPPort(src.Port()), DstPort: layers.SCTPPort(dst.Port())})
		}
	}
	payload := gopacket.Payload(make([]byte, p.size))
	if p.payload != "" {
		payload = gopacket.Payload(p.payload)
	}
	stack = append(stack, payload)
	return serialize(t, stack...)
}

func serialize(t testing.TB, stack ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// send delivers one packet and says what became of it: "r2", "pass", "drop",
// "rst", "icmp 3/3", "arp", "echo-reply", "parked".
func (b *bed) send(p pkt) string {
	b.t.Helper()
	return b.deliver(p.frame(b.t))
}

func (b *bed) deliver(frame []byte) string {
	b.t.Helper()
	r := b.plane.Deliver(dataplane.Frame{Data: frame, In: eth0})[0]
	return b.fate(r)
}

func (b *bed) fate(r dataplanetest.Result) string {
	b.t.Helper()
	switch {
	case r.Verdict == dataplane.Pass:
		return "pass"
	case r.Verdict == dataplane.Host:
		return "host"
	case r.Verdict == dataplane.Drop:
		return "drop"
	case r.Parked:
		return "parked"
	}
	to := dataplane.MAC(r.Data[:6])
	for i := range 4 {
		if to == serverMAC(i) {
			return fmt.Sprintf("r%d", i)
		}
	}
	if to != clientMAC {
		b.t.Fatalf("sent to %x", to)
	}
	return answer(b.t, r.Data)
}

// answer names what came back to the client, and checks its sums.
func answer(t testing.TB, frame []byte) string {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if err := p.ErrorLayer(); err != nil {
		t.Fatalf("answer does not decode: %v", err.Error())
	}
	var read packet.Packet // whose sums package packet's own tests check
	if read.Parse(frame); read.Kind == packet.Damaged || !packet.TransportIntact(frame, &read) {
		t.Fatalf("answer %x: %v, or a wrong checksum", frame, read.Damage)
	}
	switch {
	case p.Layer(layers.LayerTypeTCP) != nil:
		if h := p.Layer(layers.LayerTypeTCP).(*layers.TCP); h.RST {
			return "rst"
		}
	case p.Layer(layers.LayerTypeICMPv4) != nil:
		h := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
		if h.TypeCode.Type() == layers.ICMPv4TypeEchoReply {
			return "echo-reply"
		}
		return fmt.Sprintf("icmp %d/%d", h.TypeCode.Type(), h.TypeCode.Code())
	case p.Layer(layers.LayerTypeICMPv6) != nil:
		h := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
		return fmt.Sprintf("icmp6 %d/%d", h.TypeCode.Type(), h.TypeCode.Code())
	case p.Layer(layers.LayerTypeARP) != nil:
		return "arp"
	}
	t.Fatalf("answered with %v", p)
	return ""
}

// sends delivers packets one by one and joins their fates.
func (b *bed) sends(list ...pkt) (fates string) {
	b.t.Helper()
	for i, p := range list {
		if i > 0 {
			fates += " "
		}
		fates += b.send(p)
	}
	return fates
}

// move lets time pass, with what a running director would do meanwhile.
func (b *bed) move(d time.Duration) {
	b.plane.Advance(d)
	b.Tick(b.plane.Now())
}

func (b *bed) counter(name string) uint64 {
	b.t.Helper()
	c, err := b.Counters()
	b.must(err)
	n, ok := c[name]
	if !ok {
		b.t.Fatalf("no counter %s in %v", name, c)
	}
	return n
}

func (b *bed) conns() (list []ulvs.ConnStatus) {
	b.t.Helper()
	b.must(b.Conns(func(c ulvs.ConnStatus) bool {
		list = append(list, c)
		return true
	}))
	return list
}

func expect(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}
