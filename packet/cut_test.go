package packet_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/ulvs/ulvs/packet"
)

// FuzzAppendFragment cuts whatever can be cut, and puts it together again.
func FuzzAppendFragment(f *testing.F) {
	for _, s := range shapes(f) {
		f.Add(s.frame, 68)
		f.Add(s.frame, 1500)
	}
	f.Fuzz(func(t *testing.T, frame []byte, mtu int) {
		var p packet.Packet
		p.Parse(frame)
		before := bytes.Clone(frame)
		var body, first []byte
		pieces := 0
		for at := 0; at >= 0; pieces++ {
			piece, next := packet.AppendFragment(nil, frame, &p, mtu, at)
			if piece == nil {
				if pieces > 0 {
					t.Fatalf("nothing after %d pieces", pieces)
				}
				if p.IsIP() && !p.Is6 && p.End > p.L3+int(frame[p.L3]&0xf)*4 && mtu >= 60+8 && int(p.FragOffset)+p.End-p.L3 <= 65535 {
					t.Fatalf("an IPv4 packet is not cut at an MTU of %d", mtu)
				}
				return
			}
			var q packet.Packet
			if q.Parse(piece); !q.IsIP() && q.Damage != packet.TruncatedTCP && q.Damage != packet.TruncatedUDP && q.Damage != packet.TruncatedSCTP && q.Damage != packet.TruncatedICMP {
				t.Fatalf("piece %d is damaged: %v", pieces, q.Damage)
			}
			ip := piece[q.L3:]
			header := int(ip[0]&0xf) * 4
			field := binary.BigEndian.Uint16(ip[6:])
			whole := binary.BigEndian.Uint16(before[p.L3+6:])
			switch {
			case len(ip) > mtu, q.End != len(piece), !bytes.Equal(piece[:q.L3], before[:p.L3]), q.TTL != p.TTL:
				t.Fatalf("piece %d of %d bytes at an MTU of %d", pieces, len(ip), mtu)
			case field&0x1fff != whole&0x1fff+uint16(len(body)/8), field&0xc000 != whole&0xc000, field&0x2000 != 0 != (next >= 0 || p.MoreFragments):
				t.Fatalf("piece %d at %d: fragment field %#x of %#x", pieces, len(body), field, whole)
			}
			if at == 0 {
				first = bytes.Clone(ip[:header])
			}
			body = append(body, ip[header:]...)
			at = next
		}
		if !bytes.Equal(frame, before) {
			t.Fatal("the frame was changed")
		}
		header := int(before[p.L3]&0xf) * 4
		if !bytes.Equal(body, before[p.L3+header:p.End]) {
			t.Fatal("together they are not what was cut")
		}
		if !bytes.Equal(first[12:], before[p.L3+12:p.L3+header]) {
			t.Fatal("the first piece's addresses or options are others")
		}
	})
}

// Options of a later piece: those that are to be copied, and blanks.
func TestFragmentOptions(t *testing.T) {
	const timestamp, routerAlert = 68, 148
	options := []byte{timestamp, 8, 5, 0, 1, 2, 3, 4, routerAlert, 4, 0, 0}
	ip := make([]byte, 32+64)
	ip[0], ip[8], ip[9] = 0x48, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	copy(ip[20:], options)
	binary.BigEndian.PutUint16(ip[10:], packet.Checksum(ip[:32]))
	frame := append([]byte{0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 8, 0}, ip...)
	var p packet.Packet
	p.Parse(frame)
	first, next := packet.AppendFragment(nil, frame, &p, 32+40, 0)
	second, last := packet.AppendFragment(nil, frame, &p, 32+40, next)
	if next != 40 || last != -1 {
		t.Fatalf("pieces at %d and %d", next, last)
	}
	if !bytes.Equal(first[14+20:14+32], options) {
		t.Errorf("the first has options %v", first[14+20:14+32])
	}
	if want := []byte{1, 1, 1, 1, 1, 1, 1, 1, routerAlert, 4, 0, 0}; !bytes.Equal(second[14+20:14+32], want) {
		t.Errorf("the second has options %v, want %v", second[14+20:14+32], want)
	}
}
