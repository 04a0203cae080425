package conformance

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// damage makes a checksum wrong.
func damage(d []byte, what string) {
	at, proto := 40, d[6]
	if d[0]>>4 == 4 {
		at, proto = int(d[0]&15)*4, d[9]
	}
	switch {
	case what == "header":
		d[10] ^= 0xff
	case what != "transport":
	case proto == 6:
		d[at+16] ^= 0xff
	case proto == 17:
		d[at+6] ^= 0xff
	case proto == 132:
		d[at+8] ^= 0xff
	default: // ICMP
		d[at+2] ^= 0xff
	}
}

// icmpErrors are type and code of ICMP errors, of IPv4 and IPv6.
var icmpErrors = map[string][4]uint8{
	"host": {3, 1, 1, 3}, "port": {3, 3, 1, 4}, "mtu": {3, 4, 2, 0}, "time": {11, 0, 3, 0}, "parameter": {12, 0, 4, 0},
}

// craftError makes an ICMP error that quotes the answer to a packet: as if the
// client had refused what its server sent.
func craftError(p Packet) ([]byte, error) {
	quoted := p
	quoted.Error, quoted.Src, quoted.Dst = "", p.Dst, p.Src
	about, err := craftDatagram(quoted)
	if err != nil {
		return nil, err
	}
	outer := p
	outer.Proto = "icmp"
	ip, err := network(outer)
	if err != nil {
		return nil, err
	}
	codes := icmpErrors[p.Error]
	const room = 4 // unused, or the MTU of the next hop
	if p.Src.Addr().Is4() {
		icmp := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(codes[0], codes[1])}
		if p.Error == "mtu" {
			icmp.Seq = 1400
		}
		return serialize(ip, icmp, gopacket.Payload(about))
	}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(codes[2], codes[3])}
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		return nil, err
	}
	body := make([]byte, room, room+len(about))
	if p.Error == "mtu" {
		binary.BigEndian.PutUint32(body, 1400)
	}
	return serialize(ip, icmp, gopacket.Payload(append(body, about...)))
}

// fragment cuts a datagram into n pieces, the first of so many bytes, if it says; 0 pieces
// leave it whole.
func fragment(d []byte, n, first int) [][]byte {
	if n == 0 {
		return [][]byte{d}
	}
	four := d[0]>>4 == 4
	header := 40
	if four {
		header = int(d[0]&15) * 4
	}
	body := d[header:]
	rest := (len(body)/n + 7) / 8 * 8
	size := rest
	if first > 0 {
		rest = ((len(body)-first)/(n-1) + 7) / 8 * 8
		size = first
	}
	var out [][]byte
	for at := 0; at < len(body); at, size = at+size, rest {
		piece := body[at:min(at+size, len(body))]
		more := at+size < len(body)
		if four {
			out = append(out, fragment4(d[:header], piece, at, more))
		} else {
			out = append(out, fragment6(d[:header], piece, at, more))
		}
	}
	return out
}

func fragment4(header, piece []byte, at int, more bool) []byte {
	f := slices.Concat(header, piece)
	offset := uint16(at / 8)
	if more {
		offset |= 1 << 13
	}
	binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
	binary.BigEndian.PutUint16(f[6:], offset)
	f[10], f[11] = 0, 0
	binary.BigEndian.PutUint16(f[10:], checksum(f[:len(header)]))
	return f
}

func fragment6(header, piece []byte, at int, more bool) []byte {
	extension := make([]byte, 8)
	extension[0] = header[6]
	offset := uint16(at)
	if more {
		offset |= 1
	}
	binary.BigEndian.PutUint16(extension[2:], offset)
	copy(extension[4:], header[:4]) // the flow label numbers the datagram
	f := slices.Concat(header, extension, piece)
	f[6] = 44
	binary.BigEndian.PutUint16(f[4:], uint16(len(f)-len(header)))
	return f
}

// reassembly collects the fragments of one datagram.
type reassembly struct {
	header []byte // as that of the whole datagram, but for its length
	pieces map[int][]byte
	total  int // bytes of the body; 0: not known yet
}

// add takes a fragment and returns the datagram once it is whole.
func (r *reassembly) add(d datagram) []byte {
	b := d.bytes
	header := len(b) - len(d.payload)
	h, piece := slices.Clone(b[:header]), d.payload
	var offset int
	var more bool
	if d.src.Is4() {
		v := binary.BigEndian.Uint16(b[6:])
		offset, more = int(v&0x1fff)*8, v>>13&1 == 1
		h[6], h[7] = 0, 0
	} else {
		v := binary.BigEndian.Uint16(piece[2:])
		offset, more = int(v&^7), v&1 == 1
		h[6] = piece[0]
		piece = piece[8:]
	}
	if r.pieces == nil {
		r.pieces = make(map[int][]byte)
	}
	r.pieces[offset] = slices.Clone(piece)
	if offset == 0 {
		r.header = h
	}
	if !more {
		r.total = offset + len(piece)
	}
	var body []byte
	for len(body) < r.total && r.pieces[len(body)] != nil {
		body = append(body, r.pieces[len(body)]...)
	}
	if r.total == 0 || len(body) < r.total || r.header == nil {
		return nil
	}
	whole := slices.Concat(r.header, body)
	if d.src.Is4() {
		binary.BigEndian.PutUint16(whole[2:], uint16(len(whole)))
		whole[10], whole[11] = 0, 0
		binary.BigEndian.PutUint16(whole[10:], checksum(whole[:len(r.header)]))
	} else {
		binary.BigEndian.PutUint16(whole[4:], uint16(len(body)))
	}
	return whole
}

// isFragment reports whether a datagram is one of several.
func (d datagram) isFragment() bool {
	if d.src.Is4() {
		return binary.BigEndian.Uint16(d.bytes[6:])&0x3fff != 0
	}
	return d.proto == 44 && len(d.payload) >= 8
}

// flight is what fragments on their way to one place belong to.
type flight struct {
	server   string
	number   int
	src, dst netip.Addr
}
