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

// seed adds frames of every network and transport to the committed corpus.
func seed(f *testing.F) {
	for i, s := range shapes(f) {
		if i%17 == 0 {
			f.Add(s.frame, false)
		}
	}
	f.Add(arpRequest(f, "10.1.1.1", "192.168.10.101"), false)
	f.Add(question.frame(f), false)
	f.Add(probe.frame(f, tags(2)...), false)
}

// mend makes the checksums of IPv4 and of the transport right, which a fuzzer
// would hardly ever do, so that it gets beyond them.
func mend(frame []byte, p *packet.Packet) {
	p.Parse(frame)
	if p.Damage == packet.BadIPChecksum {
		ip := frame[p.L3:]
		size := int(ip[0]&15) * 4
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], packet.Checksum(ip[:size]))
		p.Parse(frame)
		if p.Damage == packet.BadIPChecksum {
			panic("still a bad checksum")
		}
	}
	place := map[packet.Kind]int{packet.TCP: 16, packet.UDP: 6, packet.ICMP: 2}
	if at, ok := place[p.Kind]; ok && !p.Fragment {
		binary.BigEndian.PutUint16(frame[p.L4+at:], packet.TransportChecksum(frame, p))
	}
}

func FuzzParse(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, frame []byte, fix bool) {
		frame = bytes.Clone(frame)
		var p packet.Packet
		if fix {
			mend(frame, &p)
		}
		before := bytes.Clone(frame)
		p = packet.Packet{
			Kind: 9, Damage: 9, TCPFlags: 9, VLANs: 9, ARPOp: 9, TTL: 9, DF: true, Is6: true, HasChunk: true, HasNextChunk: true,
			Chunk: 9, NextChunk: 9, ICMPType: 9, ICMPCode: 9, Flow: packet.Flow{9, 9, 9, 9, 9}, FragID: 9, FragOffset: 9,
			L3: 9, L4: 9, End: 9, Proto: 9, EtherType: 9, Fragment: true, MoreFragments: true, Quoted: packet.Quoted{OK: true, Proto: 9},
		}
		p.Parse(frame)
		if p.Records && p.Refused == packet.Accepted && p.IsIP() {
			filled := bytes.Clone(frame)
			packet.Record(filled, &p, 1, func(netip.Addr) bool { return true })
			var q packet.Packet
			// The next host may refuse it: an option's last slot may be too short (ip_options.c).
			if q.Parse(filled); q.Kind != p.Kind || q.Flow != p.Flow {
				t.Fatalf("filled in, it is %v %v, refused %d: %x", q.Kind, q.Damage, q.Refused, filled)
			}
		}
		var clean packet.Packet
		clean.Parse(frame)
		if valid(p) != valid(clean) {
			t.Fatalf("remnants:\n%+v\n%+v", valid(p), valid(clean))
		}
		if !bytes.Equal(frame, before) {
			t.Fatal("the frame was changed")
		}
		if (p.Kind == packet.Damaged) != (p.Damage != packet.Undamaged) {
			t.Fatalf("%v, %v", p.Kind, p.Damage)
		}
		if p.Kind == packet.Damaged && p.Damage.String() == "unknown damage" || p.Kind.String() == "unknown" {
			t.Fatal("no name")
		}
		if p.L3 > len(frame) || p.L4 > len(frame) || p.End > len(frame) {
			t.Fatalf("offsets %d, %d, %d of %d", p.L3, p.L4, p.End, len(frame))
		}
		if p.IsIP() {
			checkIP(t, frame, &p)
		}
		packet.TransportChecksum(frame, &p)
		p.NDTarget(frame)
	})
}

// checkIP checks a parsed IP packet against the bytes, and TCP against gopacket,
// which may object to options and to what follows, but has read the header by then.
func checkIP(t *testing.T, frame []byte, p *packet.Packet) {
	size, src, dst := 20, frame[p.L3+12:p.L3+16], frame[p.L3+16:p.L3+20]
	if p.Is6 {
		size, src, dst = 40, frame[p.L3+8:p.L3+24], frame[p.L3+24:p.L3+40]
	}
	if p.L3 != 14+4*int(p.VLANs) || p.L4 < p.L3+size || p.End < p.L4 {
		t.Fatalf("%d tags, offsets %d, %d, %d", p.VLANs, p.L3, p.L4, p.End)
	}
	if p.Source() != addr(src) || p.Dest() != addr(dst) || p.Flow.Proto() != p.Proto || p.Flow.Is6() != p.Is6 {
		t.Fatalf("flow %v", p.Flow)
	}
	if p.Fragment != (p.MoreFragments || p.FragOffset != 0) && !p.Is6 {
		t.Fatalf("fragment %v, more %v, offset %d", p.Fragment, p.MoreFragments, p.FragOffset)
	}
	ported := p.Kind == packet.TCP || p.Kind == packet.UDP || p.Kind == packet.SCTP
	var sport, dport uint16
	if ported && p.FragOffset == 0 {
		sport, dport = binary.BigEndian.Uint16(frame[p.L4:]), binary.BigEndian.Uint16(frame[p.L4+2:])
	}
	if p.Flow.ClientPort() != sport || p.Flow.VirtualPort() != dport {
		t.Fatalf("ports of %v, want %d, %d", p.Flow, sport, dport)
	}
	if r := p.Flow.Reverse(); r.Reverse() != p.Flow || r.Client() != p.Flow.Virtual() {
		t.Fatalf("%v reversed is %v", p.Flow, r)
	}
	if q := &p.Quoted; q.OK && (!p.IsICMPError() || q.L3 != p.L4+8 || q.L4 < q.L3+size || q.L4 > p.End || q.Flow.Proto() != q.Proto) {
		t.Fatalf("quote %+v", *q)
	}
	pkt := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	if h, ok := pkt.TransportLayer().(*layers.TCP); ok && p.Kind == packet.TCP && !p.Fragment {
		if uint16(h.SrcPort) != sport || uint16(h.DstPort) != dport || h.SYN != (p.TCPFlags&packet.SYN != 0) || h.ACK != (p.TCPFlags&packet.ACK != 0) {
			t.Fatalf("gopacket has %v > %v", h.SrcPort, h.DstPort)
		}
	}
}

// FuzzAnswers makes every answer to a frame. Whatever is made is a whole
// packet with right checksums, and asks for no answer of the kind.
func FuzzAnswers(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, frame []byte, fix bool) {
		frame = bytes.Clone(frame)
		var p packet.Packet
		if fix {
			mend(frame, &p)
		}
		p.Parse(frame)
		mac := [6]byte{2, 1, 2, 3, 4, 5}
		room := make([]byte, max(packet.AnswerRoom, len(frame)))
		check := func(name string, got []byte) packet.Packet {
			var a packet.Packet
			if len(got) == 0 {
				return a
			}
			if &got[0] != &room[0] {
				t.Fatalf("%s: %d bytes did not fit in %d", name, len(got), len(room))
			}
			a.Parse(got)
			if a.Kind < packet.ARP || a.End != len(got) || !packet.TransportIntact(got, &a) || a.VLANs != p.VLANs || a.EtherType != p.EtherType {
				t.Fatalf("%s: %v %v, %x", name, a.Kind, a.Damage, got)
			}
			if got[0]&1 != 0 && name != "advertisement" {
				t.Fatalf("%s to a group: %x", name, got)
			}
			if len(packet.AppendRST(nil, got, &a))+len(packet.AppendEchoReply(nil, got, &a))+len(packet.AppendARPReply(nil, got, &a, mac)) != 0 {
				t.Fatalf("%s is answered: %x", name, got)
			}
			return a
		}
		check("reset", packet.AppendRST(room[:0], frame, &p))
		check("echo", packet.AppendEchoReply(room[:0], frame, &p))
		check("ARP", packet.AppendARPReply(room[:0], frame, &p, mac))
		if target, ok := p.NDTarget(frame); ok {
			check("advertisement", packet.AppendNeighborAdvert(room[:0], frame, &p, target, mac))
		}
		if a, mac, ok := p.Claimed(frame); ok && (!a.IsValid() || mac[0]&1 != 0) {
			t.Fatalf("%v claims to be at %x: %x", a, mac, frame)
		}
		for _, m := range errorMakers {
			got := m.make(room[:0], frame, &p, netip.Addr{})
			if a := check(m.name, got); len(got) > 0 && (a.AnswerableByError(got) || !bytes.HasPrefix(frame[p.L3:p.End], got[a.L4+8:])) {
				t.Fatalf("%s: %x about %x", m.name, got, frame)
			}
		}
		if packet.DecrementTTL(frame, &p) {
			was := p
			if p.Parse(frame); valid(p) != valid(was) {
				t.Fatalf("after DecrementTTL\n%+v\n%+v", p, was)
			}
		}
	})
}
