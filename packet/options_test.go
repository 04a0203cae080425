package packet_test

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/ulvs/ulvs/packet"
)

// withOptions is a TCP frame of 10.1.1.1's to 192.168.10.101 with IPv4 options, in
// hexadecimal.
func withOptions(t testing.TB, options string) []byte {
	t.Helper()
	o, err := hex.DecodeString(options)
	if err != nil || len(o)%4 != 0 {
		t.Fatalf("options %s: %v", options, err)
	}
	f := plain(t, "v4", "TCP SYN")
	const l3, header = 14, 20
	end := l3 + int(binary.BigEndian.Uint16(f[l3+2:]))
	g := append(append(append([]byte{}, f[:l3+header]...), o...), f[l3+header:end]...)
	g[l3] = 0x40 | byte((header+len(o))/4)
	binary.BigEndian.PutUint16(g[l3+2:], uint16(len(g)-l3))
	g[l3+10], g[l3+11] = 0, 0
	binary.BigEndian.PutUint16(g[l3+10:], packet.Checksum(g[l3:l3+header+len(o)]))
	return g
}

const (
	timeOfDay = 0x01020304
	ours      = "c0a80a65" // 192.168.10.101
)

// What the kernel says of options (conformance, options.txt): fine, and then as filled in;
// or refused, with where the fault is.
func TestOptions(t *testing.T) {
	for _, c := range []struct {
		options string
		refused packet.Refusal
		pointer uint16
		becomes string // "": as it was
	}{
		{options: "01010101"},
		{options: "00000000"},
		{options: "01000102", becomes: "01000000"},
		{options: "0707040000000000", becomes: "070708" + ours + "00"},
		{options: "070b040000000000" + "00000000", becomes: "070b08" + ours + "0000000000"},
		{options: "0707080a09090900"},
		{options: "440c05000000000000000000", becomes: "440c0900" + "01020304" + "00000000"},
		{options: "440c05010000000000000000", becomes: "440c0d01" + ours + "01020304"},
		{options: "440c0503" + ours + "00000000", becomes: "440c0d03" + ours + "01020304"},
		{options: "440c05030a090909" + "00000000"},
		{options: "440c0503c0a80a64" + "00000000", becomes: "440c0d03c0a80a64" + "01020304"},
		{options: "44040500", becomes: "44040510"},
		{options: "440405e3", becomes: "440405e3"},
		{options: "440405f3"},
		{options: "440405f0", refused: packet.BadOption, pointer: 23},
		{options: "94040000"},
		{options: "94030000", refused: packet.BadOption, pointer: 21},
		{options: "1e041234"},
		{options: "8307040a09090900", refused: packet.SourceRouted},
		{options: "8907040a09090900", refused: packet.SourceRouted},
		{options: "8307080a09090900", refused: packet.SourceRouted},
		{options: "8307080a0909098307080a0909090000", refused: packet.SourceRouted},
		{options: "83020000", refused: packet.BadOption, pointer: 21},
		{options: "8303030000000000", refused: packet.BadOption, pointer: 22},
		{options: "01010107", refused: packet.BadOption, pointer: 23},
		{options: "1e080000", refused: packet.BadOption, pointer: 20},
		{options: "1e010000", refused: packet.BadOption, pointer: 20},
		{options: "070200008307080a09090900", refused: packet.BadOption, pointer: 21},
		{options: "07020000", refused: packet.BadOption, pointer: 21},
		{options: "0707030a09090900", refused: packet.BadOption, pointer: 22},
		{options: "0707060a09090900", refused: packet.BadOption, pointer: 22},
		{options: "07030701070304010000" + "0000", refused: packet.BadOption, pointer: 24},
		{options: "440c0b000000000000000000", refused: packet.BadOption, pointer: 22},
		{options: "440c09010000000000000000", refused: packet.BadOption, pointer: 22},
		{options: "44080400" + "00000000", refused: packet.BadOption, pointer: 22},
		{options: "44030500", refused: packet.BadOption, pointer: 21},
		{options: "440c0500000000000000000044040500", refused: packet.BadOption, pointer: 32},
		{options: "86060000" + "00000000", refused: packet.BadOption, pointer: 21},
		{options: "86080000" + "00010000", refused: packet.BadOption, pointer: 22},
	} {
		f := withOptions(t, c.options)
		var p packet.Packet
		p.Parse(f)
		if p.Kind != packet.TCP || p.Refused != c.refused || p.Refused == packet.BadOption && p.Pointer != c.pointer {
			t.Errorf("%s: %v, refused %d at %d; want %d at %d", c.options, p.Kind, p.Refused, p.Pointer, c.refused, c.pointer)
		}
		a := packet.AppendParameterProblem(nil, f, &p, netip.Addr{})
		if (len(a) > 0) != (c.refused == packet.BadOption) {
			t.Errorf("%s: answered with %x", c.options, a)
		}
		if len(a) > 0 {
			if q := checkAnswer(t, f, a); q.p.ICMPType != 12 || uint16(a[q.p.L4+4]) != c.pointer {
				t.Errorf("%s: answered with %x", c.options, a)
			}
		}
		if c.refused != packet.Accepted {
			continue
		}
		if c.becomes == "" {
			c.becomes = c.options
		}
		if !p.Records && c.becomes != c.options {
			t.Errorf("%s is not said to record", c.options)
		}
		packet.Record(f, &p, timeOfDay, func(a netip.Addr) bool { return a == netip.MustParseAddr("192.168.10.100") })
		if got := hex.EncodeToString(f[34 : 34+len(c.options)/2]); got != c.becomes {
			t.Errorf("%s becomes %s, want %s", c.options, got, c.becomes)
		}
		if p.Parse(f); p.Kind != packet.TCP {
			t.Errorf("%s becomes %v", c.options, p.Damage)
		}
	}
}

// Hop-by-hop options (conformance, hop-options.txt), behind the next header's number.
func TestHopOptions(t *testing.T) {
	for _, c := range []struct {
		header  string
		refused packet.Refusal
		problem uint8
		pointer uint16
	}{
		{header: "00010400000000"},
		{header: "00000000000000"},
		{header: "00050200000100"},
		{header: "001e0400000000"},
		{header: "00310400000000", refused: packet.SilentOption}, // 42 bytes in
		{header: "00010031020000"},                               // 44 bytes in
		{header: "005e0400000000", refused: packet.SilentOption},
		{header: "009e0400000000", refused: packet.BadOption, problem: 2, pointer: 42},
		{header: "0001009e020000", refused: packet.BadOption, problem: 2, pointer: 44},
		{header: "00de0400000000", refused: packet.BadOption, problem: 2, pointer: 42},
		{header: "00010400000100", refused: packet.SilentOption},
		{header: "00010900000000", refused: packet.SilentOption},
		{header: "00050100010000", refused: packet.SilentOption},
		{header: "00c20400020000", refused: packet.BadOption, pointer: 42},
		{header: "00c20400000100", refused: packet.BadOption, pointer: 44},
		{header: "00c20300020000", refused: packet.SilentOption},
		{header: "01070c" + strings.Repeat("00", 12), refused: packet.SilentOption},
		{header: "01" + strings.Repeat("00", 14), refused: packet.SilentOption},
		{header: "021e021234" + strings.Repeat("1e00", 7) + "01020000"},
		{header: "021e021234" + strings.Repeat("1e00", 8) + "0100", refused: packet.SilentOption},
	} {
		o, err := hex.DecodeString(c.header)
		if err != nil || len(o)%8 != 7 {
			t.Fatalf("%s: %d bytes, %v", c.header, len(o), err)
		}
		f := plain(t, "v6", "UDP")
		const l3, header = 14, 40
		size := int(binary.BigEndian.Uint16(f[l3+4:]))
		g := append(append(append([]byte{}, f[:l3+header]...), f[l3+6]), o...)
		g = append(g, f[l3+header:l3+header+size]...)
		g[l3+6] = 0
		binary.BigEndian.PutUint16(g[l3+4:], uint16(len(g)-l3-header))
		var p packet.Packet
		p.Parse(g)
		if p.Kind != packet.UDP || p.Refused != c.refused ||
			p.Refused == packet.BadOption && (p.Problem != c.problem || p.Pointer != c.pointer) {
			t.Errorf("%s: %v, refused %d, %d at %d; want %d, %d at %d", c.header, p.Kind, p.Refused, p.Problem, p.Pointer,
				c.refused, c.problem, c.pointer)
		}
		if a := packet.AppendParameterProblem(nil, g, &p, netip.Addr{}); (len(a) > 0) != (c.refused == packet.BadOption) {
			t.Errorf("%s: answered with %x", c.header, a)
		}
	}
}
