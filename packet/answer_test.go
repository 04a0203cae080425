package packet_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs/packet"
)

// answer is a decoded answer of which the link header, all lengths and all
// checksums were found right.
type answer struct {
	gopacket.Packet
	frame []byte
	p     packet.Packet
}

// checkAnswer checks what holds for every answer to frame.
func checkAnswer(t testing.TB, frame, got []byte) answer {
	t.Helper()
	var asked, p packet.Packet
	asked.Parse(frame)
	p.Parse(got)
	if p.Kind == packet.Damaged || p.End != len(got) || !packet.TransportIntact(got, &p) {
		t.Fatalf("answer %x: %v %v, %d of %d bytes", got, p.Kind, p.Damage, p.End, len(got))
	}
	if p.L3 != asked.L3 || !bytes.Equal(got[12:p.L3], frame[12:asked.L3]) {
		t.Fatalf("tags %x, want %x", got[12:p.L3], frame[12:asked.L3])
	}
	pkt := gopacket.NewPacket(got, layers.LayerTypeEthernet, gopacket.NoCopy)
	if e := pkt.ErrorLayer(); e != nil {
		t.Fatalf("answer %x: %v", got, e.Error())
	}
	if l := badSum(pkt); l != nil {
		t.Fatalf("answer %x: the checksum of %v", got, l.LayerType())
	}
	return answer{pkt, got, p}
}

// swapped checks that the answer goes back from where the packet was sent to.
func (a answer) swapped(t testing.TB, frame []byte) {
	t.Helper()
	if !bytes.Equal(a.frame[0:6], frame[6:12]) || !bytes.Equal(a.frame[6:12], frame[0:6]) {
		t.Errorf("link header %x in answer to %x", a.frame[:12], frame[:12])
	}
	var asked packet.Packet
	asked.Parse(frame)
	if a.p.Dest() != asked.Source() {
		t.Errorf("answer to %v, want %v", a.p.Dest(), asked.Source())
	}
}

// ipHeader is "src ttl=64 tos=0 id=0 df=true" of an answer.
func (a answer) ipHeader() string {
	if h, ok := a.NetworkLayer().(*layers.IPv4); ok {
		return fmt.Sprintf("%v ttl=%d tos=%#x id=%#x df=%v", h.SrcIP, h.TTL, h.TOS, h.Id, h.Flags == layers.IPv4DontFragment)
	}
	h := a.NetworkLayer().(*layers.IPv6)
	return fmt.Sprintf("%v hops=%d class=%#x label=%#x", h.SrcIP, h.HopLimit, h.TrafficClass, h.FlowLabel)
}

func tags(n int) []layers.EthernetType {
	return []layers.EthernetType{layers.EthernetTypeQinQ, layers.EthernetTypeDot1Q}[2-n:]
}

// networkOf is a network by its name.
func networkOf(t testing.TB, name string) network {
	for _, n := range networks() {
		if n.name == name {
			return n
		}
	}
	t.Fatal("no network " + name)
	return network{}
}

func TestAppendEchoReply(t *testing.T) {
	for _, c := range []struct{ net, want string }{
		{"v4", "192.168.10.101 ttl=64 tos=0x2a id=0x1234 df=false"},
		{"v4 options", "192.168.10.101 ttl=64 tos=0x2a id=0x1234 df=false"},
		{"v6", "2001:db8:10::101 hops=64 class=0x2a label=0x0"},
		{"v6 destination, routing", "2001:db8:10::101 hops=64 class=0x2a label=0x0"},
		{"v6 whole fragment", "2001:db8:10::101 hops=64 class=0x2a label=0x0"},
	} {
		for vlans := range 3 {
			for _, size := range []int{0, 1, 7, 56, 1400} {
				data := bytes.Repeat([]byte{0xab, 0xcd, 0xef}, size)[:size]
				f := compose(t, networkOf(t, c.net), icmp("", 8, 128, 0, data...), tags(vlans)...)
				var p packet.Packet
				p.Parse(f)
				got := packet.AppendEchoReply(nil, f, &p)
				a := checkAnswer(t, f, got)
				a.swapped(t, f)
				if a.ipHeader() != c.want {
					t.Errorf("%s: %s, want %s", c.net, a.ipHeader(), c.want)
				}
				wantType := uint8(0)
				if p.Is6 {
					wantType = 129
				}
				if a.p.Kind != packet.ICMP || a.p.ICMPType != wantType || a.p.ICMPCode != 0 {
					t.Errorf("%s: type %d code %d", c.net, a.p.ICMPType, a.p.ICMPCode)
				}
				if !bytes.Equal(got[a.p.L4+4:], f[p.L4+4:p.End]) {
					t.Errorf("%s: %d bytes of data are not echoed", c.net, size)
				}
			}
		}
	}
}

func TestNoEchoReply(t *testing.T) {
	echo, echo6 := plain(t, "v4", "echo"), plain(t, "v6", "echo")
	for name, f := range map[string][]byte{
		"first fragment":       plain(t, "v4 first fragment", "echo"),
		"later fragment":       plain(t, "v4 last fragment", "echo"),
		"first fragment, IPv6": plain(t, "v6 first fragment", "echo"),
		"reply":                compose(t, networks()[0], icmp("", 0, 129, 0)),
		"reply, IPv6":          compose(t, networkOf(t, "v6"), icmp("", 0, 129, 0)),
		"IPv6's type in IPv4":  compose(t, networks()[0], icmp("", 128, 8, 0)),
		"IPv4's type in IPv6":  compose(t, networkOf(t, "v6"), icmp("", 128, 8, 0)),
		"bad checksum":         edit(echo, 14+20+9, 0xff),
		"bad checksum, IPv6":   edit(echo6, 14+40+9, 0xff),
		"to a group":           edit(echo, 0, 1, 0, 0x5e),
		"from a group":         edit(echo, 6, 1),
		"from 0.0.0.0":         fixIP(edit(echo, 26, 0, 0, 0, 0)),
		"TCP":                  plain(t, "v4", "TCP SYN"),
		"ARP":                  arpRequest(t, "10.1.1.1", "10.1.1.2"),
		"nothing":              nil,
	} {
		var p packet.Packet
		p.Parse(f)
		if got := packet.AppendEchoReply([]byte{1}, f, &p); len(got) != 1 {
			t.Errorf("%s is answered with %x", name, got)
		}
	}
}

func TestAppendRST(t *testing.T) {
	for _, c := range []struct {
		upper, want string
	}{
		// Sequence numbers start at 2^32-2, so that they wrap.
		{"TCP SYN", "80>40000 seq=0 ack=4 flags=RST ACK"}, // SYN and 5 bytes
		{"TCP SYN FIN", "80>40000 seq=0 ack=5 flags=RST ACK"},
		{"TCP options", "80>40000 seq=0 ack=4 flags=RST ACK"},
		{"TCP ACK PSH", "80>40000 seq=16909060 ack=0 flags=RST"},
	} {
		for _, n := range []struct{ net, ip string }{
			{"v4", "192.168.10.101 ttl=64 tos=0x28 id=0x0 df=true"},
			{"v4 options", "192.168.10.101 ttl=64 tos=0x28 id=0x0 df=true"},
			{"v6", "2001:db8:10::101 hops=64 class=0x28 label=0x0"},
			{"v6 hop-by-hop", "2001:db8:10::101 hops=64 class=0x28 label=0x0"},
		} {
			for vlans := range 3 {
				for _, tr := range transports() {
					if tr.name != c.upper {
						continue
					}
					f := compose(t, networkOf(t, n.net), tr, tags(vlans)...)
					var p packet.Packet
					p.Parse(f)
					a := checkAnswer(t, f, packet.AppendRST(nil, f, &p))
					a.swapped(t, f)
					h := a.TransportLayer().(*layers.TCP)
					flags := ""
					if h.RST {
						flags = "RST"
					}
					if h.ACK {
						flags += " ACK"
					}
					got := fmt.Sprintf("%d>%d seq=%d ack=%d flags=%s", h.SrcPort, h.DstPort, h.Seq, h.Ack, flags)
					if got != c.want || a.ipHeader() != n.ip || h.Window != 0 || len(h.Contents) != 20 || a.p.TCPFlags&^(packet.RST|packet.ACK) != 0 {
						t.Errorf("%s %s: %s, %s, window %d", n.net, c.upper, got, a.ipHeader(), h.Window)
					}
				}
			}
		}
	}
}

func TestNoRST(t *testing.T) {
	tcp, tcp6 := plain(t, "v4", "TCP SYN"), plain(t, "v6", "TCP SYN")
	for name, f := range map[string][]byte{
		"RST":              plain(t, "v4", "TCP RST URG"),
		"first fragment":   plain(t, "v4 first fragment", "TCP SYN"),
		"later fragment":   plain(t, "v4 last fragment", "TCP SYN"),
		"UDP":              plain(t, "v4", "UDP"),
		"header of 16":     edit(tcp, 14+20+12, 0x40),
		"header too long":  edit(tcp, 14+20+12, 0xf0),
		"to a group":       edit(tcp, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"to 224.0.0.1":     fixIP(edit(tcp, 30, 224, 0, 0, 1)),
		"to broadcast":     fixIP(edit(tcp, 30, 255, 255, 255, 255)),
		"from multicast":   fixIP(edit(tcp, 26, 224, 0, 0, 1)),
		"from ff02::1":     edit(tcp6, 22, 0xff, 2),
		"to ff02::1":       edit(tcp6, 38, 0xff, 2),
		"from unspecified": edit(tcp6, 22, make([]byte, 16)...),
	} {
		var p packet.Packet
		p.Parse(f)
		if got := packet.AppendRST([]byte{1}, f, &p); len(got) != 1 {
			t.Errorf("%s is answered with %x", name, got)
		}
	}
}

// TestAnswersKeepWhatIsThere: Append appends, and into the room that there is.
func TestAnswersKeepWhatIsThere(t *testing.T) {
	f := plain(t, "v4", "TCP SYN")
	var p packet.Packet
	p.Parse(f)
	want := packet.AppendRST(nil, f, &p)
	room := bytes.Repeat([]byte{0xee}, packet.AnswerRoom)
	got := packet.AppendRST(room[:3], f, &p)
	if &got[0] != &room[0] || !bytes.Equal(got[:3], []byte{0xee, 0xee, 0xee}) || !bytes.Equal(got[3:], want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	tight := make([]byte, 3, 30)
	if got := packet.AppendRST(tight, f, &p); !bytes.Equal(got[3:], want) {
		t.Errorf("got  %x\nwant %x", got[3:], want)
	}
}

// TestMismatchedPacket gives answers a Packet that is not the frame's.
func TestMismatchedPacket(t *testing.T) {
	src := netip.MustParseAddr("10.9.9.9")
	for _, s := range shapes(t)[:40] {
		var p packet.Packet
		p.Parse(s.frame)
		for _, f := range [][]byte{nil, s.frame[:13], s.frame[:14], s.frame[:p.L4]} {
			if len(packet.AppendRST(nil, f, &p))+len(packet.AppendEchoReply(nil, f, &p))+
				len(packet.AppendUnreachable(nil, f, &p, src, packet.PortUnreachable)) != 0 {
				t.Errorf("%s: answer to a part of the frame", s.name)
			}
			if packet.DecrementTTL(f, &p) {
				t.Errorf("%s: TTL in a part of the frame", s.name)
			}
		}
	}
}

func TestAppendARPReply(t *testing.T) {
	mac := [6]byte{2, 1, 2, 3, 4, 5}
	for _, sender := range []string{"10.1.1.1", "0.0.0.0"} {
		f := arpRequest(t, sender, "192.168.10.101")
		for _, f := range [][]byte{f, append(append(bytes.Clone(f[:12]), 0x81, 0, 0x60, 7), f[12:]...)} {
			var p packet.Packet
			p.Parse(f)
			a := checkAnswer(t, f, packet.AppendARPReply(nil, f, &p, mac))
			h := a.Layer(layers.LayerTypeARP).(*layers.ARP)
			got := fmt.Sprint(h.AddrType, h.Protocol, h.HwAddressSize, h.ProtAddressSize, h.Operation, h.SourceHwAddress, h.SourceProtAddress, h.DstHwAddress, h.DstProtAddress)
			s := netip.MustParseAddr(sender).As4()
			want := fmt.Sprint(layers.LinkTypeEthernet, layers.EthernetTypeIPv4, 6, 4, 2, mac[:], []byte{192, 168, 10, 101}, clientMAC[:], s[:])
			if got != want {
				t.Errorf("%s\nwant %s", got, want)
			}
			if !bytes.Equal(a.frame[:6], clientMAC[:]) || !bytes.Equal(a.frame[6:12], mac[:]) {
				t.Errorf("link header %x", a.frame[:12])
			}
		}
	}
	request := arpRequest(t, "10.1.1.1", "192.168.10.101")
	for name, f := range map[string][]byte{
		"reply":            edit(request, 20, 0, 2),
		"announcement":     arpRequest(t, "10.1.1.1", "10.1.1.1"),
		"for a group":      arpRequest(t, "10.1.1.1", "224.0.0.1"),
		"for loopback":     arpRequest(t, "10.1.1.1", "127.0.0.1"),
		"for nothing":      arpRequest(t, "10.1.1.1", "0.0.0.0"),
		"from a group MAC": edit(request, 22, 1),
		"not ARP":          plain(t, "v4", "echo"),
	} {
		var p packet.Packet
		p.Parse(f)
		if got := packet.AppendARPReply([]byte{1}, f, &p, mac); len(got) != 1 {
			t.Errorf("%s is answered with %x", name, got)
		}
	}
}
