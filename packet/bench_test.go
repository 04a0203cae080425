package packet_test

import (
	"encoding/binary"
	"testing"

	"github.com/ulvs/ulvs/packet"
)

// tcp4 is the frame that a director sees most.
func tcp4() []byte {
	f := make([]byte, 14+20+20)
	binary.BigEndian.PutUint16(f[12:], 0x0800)
	ip := f[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], 40)
	copy(ip[12:], []byte{10, 1, 1, 1, 192, 168, 10, 101})
	binary.BigEndian.PutUint16(ip[10:], packet.Checksum(ip[:20]))
	binary.BigEndian.PutUint16(ip[20:], 40000)
	binary.BigEndian.PutUint16(ip[22:], 80)
	ip[32], ip[33] = 0x50, packet.ACK
	return f
}

func BenchmarkParseTCP4(b *testing.B) {
	f := tcp4()
	var p packet.Packet
	for b.Loop() {
		p.Parse(f)
	}
	if p.Kind != packet.TCP {
		b.Fatal(p.Kind, p.Damage)
	}
}
