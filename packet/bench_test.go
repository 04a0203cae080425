package packet_test

import (
	"net/netip"
	"testing"

	"github.com/ulvs/ulvs/packet"
)

// TestNoAllocation parses and answers all there is to parse and answer.
func TestNoAllocation(t *testing.T) {
	frames := shapes(t)
	frames = append(frames, shape{"ARP", arpRequest(t, "10.1.1.1", "10.1.1.2")},
		shape{"solicitation", question.frame(t)}, shape{"damaged", []byte{1}})
	room := make([]byte, packet.AnswerRoom)
	own4, own6 := netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("2001:db8::9")
	var p packet.Packet
	answers := 0
	count := func(b []byte) {
		if len(b) > 0 {
			answers++
		}
	}
	// One run for all: what allocates shows, and naming the frame is for then.
	n := testing.AllocsPerRun(3, func() {
		for i := range frames {
			f := frames[i].frame
			p.Parse(f)
			own := own4
			if p.Is6 {
				own = own6
			}
			for _, m := range errorMakers {
				count(m.make(room[:0], f, &p, own))
			}
			count(packet.AppendRST(room[:0], f, &p))
			count(packet.AppendEchoReply(room[:0], f, &p))
			count(packet.AppendARPReply(room[:0], f, &p, directorMAC))
			count(packet.AppendNeighborAdvert(room[:0], f, &p, own6, directorMAC))
			packet.DecrementTTL(f, &p)
			packet.TransportChecksum(f, &p)
			reversed := p.Flow.Reverse()
			if packet.NewFlow(p.Proto, reversed.Client(), reversed.Virtual()) != reversed && p.IsIP() {
				answers = -1 << 30
			}
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
	if answers < 1000 {
		t.Errorf("%d answers", answers)
	}
}

var parseCases = []struct{ name, net, upper string }{
	{"TCP4", "v4", "TCP ACK PSH"},
	{"UDP4", "v4", "UDP"},
	{"SCTP4", "v4", "SCTP DATA, SACK"},
	{"TCP4Options", "v4 options", "TCP ACK PSH"},
	{"TCP6", "v6", "TCP ACK PSH"},
	{"TCP6Extensions", "v6 destination, routing", "TCP ACK PSH"},
	{"ICMPError4", "v4", "error quoting v4 TCP SYN"},
}

func BenchmarkParse(b *testing.B) {
	for _, c := range parseCases {
		f := plain(b, c.net, c.upper)
		b.Run(c.name, func(b *testing.B) {
			var p packet.Packet
			b.ReportAllocs()
			for b.Loop() {
				p.Parse(f)
			}
			if p.Kind == packet.Damaged {
				b.Fatal(p.Damage)
			}
		})
	}
	f := compose(b, networks()[0], transports()[0], tags(1)...)
	b.Run("TCP4VLAN", func(b *testing.B) {
		var p packet.Packet
		for b.Loop() {
			p.Parse(f)
		}
	})
}

func BenchmarkDecrementTTL(b *testing.B) {
	f := plain(b, "v4", "TCP ACK PSH")
	var p packet.Packet
	p.Parse(f)
	for b.Loop() {
		p.TTL = 64
		packet.DecrementTTL(f, &p)
	}
}

func BenchmarkChecksum1500(b *testing.B) {
	buf := make([]byte, 1500)
	b.SetBytes(1500)
	for b.Loop() {
		packet.Checksum(buf)
	}
}

func BenchmarkAppendUnreachable(b *testing.B) {
	f := plain(b, "v4", "UDP")
	room := make([]byte, packet.AnswerRoom)
	var p packet.Packet
	p.Parse(f)
	b.ReportAllocs()
	for b.Loop() {
		packet.AppendUnreachable(room[:0], f, &p, netip.Addr{}, packet.PortUnreachable)
	}
}

func BenchmarkAppendRST(b *testing.B) {
	f := plain(b, "v4", "TCP SYN")
	room := make([]byte, packet.AnswerRoom)
	var p packet.Packet
	p.Parse(f)
	b.ReportAllocs()
	for b.Loop() {
		packet.AppendRST(room[:0], f, &p)
	}
}
