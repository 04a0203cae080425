package afpacket

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/ulvs/ulvs/dataplane"
)

// However many tags are put back, stripping them again gives the frame that
// it was, with offsets that point where they pointed.
func FuzzTags(f *testing.F) {
	f.Add(udp(macOf(director), []byte("hello")), uint8(1), uint16(5))
	f.Add(udp(macOf(director), []byte("hello"), 7), uint8(2), uint16(0xffff))
	f.Add([]byte{}, uint8(0), uint16(0))
	f.Fuzz(func(t *testing.T, frame []byte, count uint8, tci uint16) {
		had, etherType := tags(frame)
		_ = question(frame, true)
		_ = question(frame, false)
		if had > len(frame) || etherType == etherTypeVLAN {
			t.Fatalf("%d bytes of tags in % x", had, frame)
		}
		if len(frame) < macLen || had == 0 && etherType == 0 {
			return
		}
		n := int(count % 4)
		buf := append(make([]byte, n*tagLen), frame...)
		at := n * tagLen
		o := dataplane.Offload{Flags: dataplane.NeedsChecksum, CsumStart: 34, HdrLen: 54}
		was := o
		for range n {
			at = putTag(buf, at, etherTypeVLAN, tci, &o)
		}
		now, after := tags(buf[at:])
		if at != 0 || now != had+n*tagLen || after != etherType {
			t.Fatalf("%d bytes of tags and type %04x, had %d and %04x, put %d", now, after, had, etherType, n)
		}
		if n > 0 && binary.BigEndian.Uint16(buf[at+14:]) != tci {
			t.Fatalf("tag % x, want %04x", buf[at+12:at+16], tci)
		}
		out := make([]byte, vnetLen+len(buf))
		got := fill(out, buf[at:], o, n*tagLen, nil)
		shift(&o, -n*tagLen)
		if !bytes.Equal(out[vnetLen:got], frame) || o != was {
			t.Fatalf("came back as % x %+v, was % x %+v", out[vnetLen:got], o, frame, was)
		}
	})
}

func TestMerge(t *testing.T) {
	ranges := func(ends ...uint16) (out []dataplane.PortRange) {
		for pair := range slices.Chunk(ends, 2) {
			out = append(out, dataplane.PortRange{First: pair[0], Last: pair[1]})
		}
		return out
	}
	for _, c := range []struct{ in, want []dataplane.PortRange }{
		{nil, nil},
		{ranges(5, 6, 1, 2), ranges(1, 2, 5, 6)},
		{ranges(1, 9, 2, 3, 10, 12, 14, 14), ranges(1, 12, 14, 14)},
		{ranges(0, 65535, 65535, 65535), ranges(0, 65535)},
	} {
		if got := merge(c.in); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.in, got, c.want)
		}
	}
}
