package packet_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ulvs/ulvs/packet"
)

// slowSum adds 16-bit words one by one, as RFC 1071 tells it.
func slowSum(initial uint32, b []byte) uint16 {
	sum := uint64(initial)
	for i := range b {
		if i%2 == 0 {
			sum += uint64(b[i]) << 8
		} else {
			sum += uint64(b[i])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func TestChecksum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 300)
	for n := range b {
		for range 20 {
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			initial := r.Uint32()
			if got, want := packet.ChecksumWith(initial, b[:n]), slowSum(initial, b[:n]); got != want {
				t.Fatalf("%d bytes after %#x: %#04x, want %#04x", n, initial, got, want)
			}
		}
	}
	// Carries out of every sum, and the two zeros of ones' complement.
	ones := bytes.Repeat([]byte{0xff}, 1<<16)
	for _, n := range []int{0, 1, 2, 7, 8, 31, 32, 33, 1 << 16} {
		if got, want := packet.ChecksumWith(0xffffffff, ones[:n]), slowSum(0xffffffff, ones[:n]); got != want {
			t.Errorf("%d ones: %#04x, want %#04x", n, got, want)
		}
		if got := packet.Checksum(make([]byte, n)); got != 0xffff {
			t.Errorf("%d zeros: %#04x", n, got)
		}
	}
}

func TestPseudoSum(t *testing.T) {
	for _, c := range []struct {
		src, dst string
		length   int
	}{
		{"10.1.1.1", "192.168.10.101", 20},
		{"255.255.255.255", "255.255.255.255", 65515},
		{"2001:db8::1", "2001:db8::2", 1400},
		{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", 1 << 17},
	} {
		src, dst := netip.MustParseAddr(c.src), netip.MustParseAddr(c.dst)
		header := append(src.AsSlice(), dst.AsSlice()...)
		header = binary.BigEndian.AppendUint32(header, uint32(c.length))
		header = binary.BigEndian.AppendUint32(header, 17)
		if got, want := packet.ChecksumWith(packet.PseudoSum(src, dst, 17, c.length), nil), slowSum(0, header); got != want {
			t.Errorf("%s > %s: %#04x, want %#04x", src, dst, got, want)
		}
	}
}

// TestTransportChecksum: gopacket computed those in the frames.
func TestTransportChecksum(t *testing.T) {
	place := map[packet.Kind]int{packet.TCP: 16, packet.UDP: 6, packet.ICMP: 2}
	checked := map[packet.Kind]int{}
	for _, s := range shapes(t) {
		var p packet.Packet
		p.Parse(s.frame)
		at, ok := place[p.Kind]
		if !ok || p.Fragment {
			if packet.TransportChecksum(s.frame, &p) != 0 || !packet.TransportIntact(s.frame, &p) {
				t.Errorf("%s: a checksum where there is none to check", s.name)
			}
			continue
		}
		want := binary.BigEndian.Uint16(s.frame[p.L4+at:])
		if got := packet.TransportChecksum(s.frame, &p); got != want {
			t.Fatalf("%s: %#04x, want %#04x", s.name, got, want)
		}
		if !packet.TransportIntact(s.frame, &p) {
			t.Fatalf("%s: not intact", s.name)
		}
		bad := edit(s.frame, p.End-1, s.frame[p.End-1]^1)
		if packet.TransportIntact(bad, &p) {
			t.Fatalf("%s: damage not seen", s.name)
		}
		checked[p.Kind]++
	}
	if len(checked) != len(place) {
		t.Errorf("checked only %v", checked)
	}
}

func TestUDPChecksum(t *testing.T) {
	var p packet.Packet
	for _, c := range []struct {
		net    string
		field  int
		intact bool
	}{{"v4", 14 + 20 + 6, true}, {"v6", 14 + 40 + 6, false}} {
		f := plain(t, c.net, "UDP")
		without := edit(f, c.field, 0, 0)
		p.Parse(without)
		if packet.TransportIntact(without, &p) != c.intact {
			t.Errorf("%s: UDP without checksum is intact: %v", c.net, !c.intact)
		}
		// A datagram shorter than IP's payload is checked by its own length,
		// and what no length can be is ignored.
		longer := append(bytes.Clone(f[:p.End]), 1, 2, 3)
		if c.net == "v4" {
			binary.BigEndian.PutUint16(longer[16:], uint16(len(longer)-14))
			fixIP(longer)
		} else {
			binary.BigEndian.PutUint16(longer[18:], uint16(len(longer)-54))
		}
		p.Parse(longer)
		if !packet.TransportIntact(longer, &p) {
			t.Errorf("%s: data behind UDP's own length counts", c.net)
		}
		impossible := edit(f, c.field-2, 0, 3)
		p.Parse(impossible)
		if packet.TransportIntact(impossible, &p) {
			t.Errorf("%s: UDP of 3 bytes is intact", c.net)
		}
		// Two bytes of data that make the sum all ones.
		zero := bytes.Clone(f)
		p.Parse(zero)
		sum := binary.BigEndian.Uint16(zero[c.field:])
		data := binary.BigEndian.Uint16(zero[c.field+2:])
		binary.BigEndian.PutUint16(zero[c.field+2:], ^slowSum(uint32(data), binary.BigEndian.AppendUint16(nil, sum)))
		if got := packet.TransportChecksum(zero, &p); got != 0xffff {
			t.Errorf("%s: UDP checksum %#04x for a sum of zero", c.net, got)
		}
	}
}

// TestCompleteChecksum leaves the sum of the pseudo header in the field, as
// Linux does, and has it completed.
func TestCompleteChecksum(t *testing.T) {
	place := map[string]int{"TCP SYN": 16, "TCP options": 16, "UDP": 6, "echo": 2}
	for upper, offset := range place {
		for _, net := range []string{"v4", "v6"} {
			if upper == "echo" && net == "v4" {
				continue // no pseudo header
			}
			want := plain(t, net, upper)
			var p packet.Packet
			p.Parse(want)
			want = want[:p.End]
			got := bytes.Clone(want)
			pseudo := packet.PseudoSum(p.Source(), p.Dest(), p.Proto, p.End-p.L4)
			binary.BigEndian.PutUint16(got[p.L4+offset:], uint16(pseudo))
			if !packet.CompleteChecksum(got, p.L4, offset) {
				t.Fatal("refused")
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s %s: %s", net, upper, d)
			}
		}
	}
	b := []byte{0xff, 0xff, 0, 0}
	if !packet.CompleteChecksum(b, 0, 2) || b[2] != 0xff || b[3] != 0xff {
		t.Errorf("a sum of zero became %x", b)
	}
	for _, c := range [][2]int{{-1, 0}, {0, -1}, {5, 0}, {0, 3}, {3, 0}, {4, 0}, {math.MaxInt, math.MaxInt}} {
		if packet.CompleteChecksum(b, c[0], c[1]) {
			t.Errorf("start %d offset %d accepted", c[0], c[1])
		}
	}
}

func TestCompleteSCTP(t *testing.T) {
	f := plain(t, "v4", "SCTP INIT")
	var p packet.Packet
	p.Parse(f)
	got := edit(f, p.L4+8, 1, 2, 3, 4)
	if !packet.CompleteSCTP(got[p.L4:p.End]) || !bytes.Equal(got, f) {
		t.Errorf("got  %x\nwant %x", got, f)
	}
	if packet.CompleteSCTP(make([]byte, 11)) {
		t.Error("11 bytes accepted")
	}
}

// TestDecrementTTL tries every checksum, with the words of ip_decrease_ttl in
// little endian arithmetic and with the sum made anew.
func TestDecrementTTL(t *testing.T) {
	f := plain(t, "v4", "TCP SYN")
	var p packet.Packet
	for id := range 1 << 16 {
		binary.BigEndian.PutUint16(f[18:], uint16(id))
		f[22] = 64
		fixIP(f)
		before := binary.LittleEndian.Uint16(f[24:])
		p.Parse(f)
		if !packet.DecrementTTL(f, &p) || f[22] != 63 || p.TTL != 63 {
			t.Fatalf("TTL %d", f[22])
		}
		check := uint32(before) + 0x0001
		if check >= 0xffff {
			check++
		}
		if got := binary.LittleEndian.Uint16(f[24:]); got != uint16(check) {
			t.Fatalf("checksum %#04x became %#04x, Linux has %#04x", before, got, uint16(check))
		}
		if slowSum(0, f[14:34]) != 0 {
			t.Fatalf("checksum of id %#04x is wrong", id)
		}
		if p.Parse(f); p.Kind != packet.TCP {
			t.Fatalf("id %#04x: %v", id, p.Damage)
		}
	}
	for _, net := range []string{"v6", "v6 hop-by-hop", "v4 options", "v4 last fragment", "v6 last fragment"} {
		f := plain(t, net, "TCP SYN")
		p.Parse(f)
		was := p
		if !packet.DecrementTTL(f, &p) {
			t.Fatalf("%s: refused", net)
		}
		if p.Parse(f); p.TTL != was.TTL-1 || p.Flow != was.Flow || p.Kind != was.Kind {
			t.Errorf("%s: %+v", net, p)
		}
	}
	for ttl := range 2 {
		f := fixIP(edit(f, 22, byte(ttl)))
		was := bytes.Clone(f)
		p.Parse(f)
		if packet.DecrementTTL(f, &p) || !bytes.Equal(was, f) {
			t.Errorf("a TTL of %d went down", ttl)
		}
	}
	arp := arpRequest(t, "10.1.1.1", "10.1.1.2")
	p.Parse(arp)
	if packet.DecrementTTL(arp, &p) {
		t.Error("ARP has a TTL")
	}
}

// A checksum that was left to the card may be so; one that is complete is not, with
// but chance against it.
func TestMayBeUnfinished(t *testing.T) {
	seen := 0
	for _, s := range shapes(t) {
		var p packet.Packet
		p.Parse(s.frame)
		offset := map[packet.Kind]int{packet.TCP: 16, packet.UDP: 6}[p.Kind]
		if offset == 0 || p.Fragment || !packet.TransportIntact(s.frame, &p) {
			continue
		}
		frame := bytes.Clone(s.frame)
		plain := p.L3 == 14 && (p.Is6 && p.L4 == 54 || !p.Is6 && p.L4 == 34)
		field := frame[p.L4+offset:]
		if none := field[0] == 0 && field[1] == 0; plain && !none && packet.MayBeUnfinished(frame) {
			t.Errorf("%s: its checksum is complete", s.name)
		}
		partial := ^packet.ChecksumWith(packet.PseudoSum(p.Source(), p.Dest(), p.Proto, p.End-p.L4), nil)
		binary.BigEndian.PutUint16(field, partial)
		if !packet.MayBeUnfinished(frame) {
			t.Errorf("%s: its checksum was left to the card", s.name)
		}
		seen++
	}
	if seen < 4 {
		t.Errorf("only %d shapes", seen)
	}
	for n := range 80 {
		packet.MayBeUnfinished(make([]byte, n))
	}
}
