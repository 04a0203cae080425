package packet

import "encoding/binary"

// AppendFragment appends to dst the fragment of an IPv4 packet that begins at
// byte at of its data and fits into mtu bytes from the IP header on, with the
// link header that frame has. next is where the following one begins, -1 after
// the last. It returns nil when p is not IPv4, when mtu has no room for eight bytes
// of data, and for a fragment that reaches beyond all datagrams. That the packet may be fragmented is for the caller to see.
//
// A fragment is cut like a whole packet. Options go into the first piece only,
// unless they say that they are to be copied (RFC 791, section 3.1;
// net/ipv4/ip_output.c, ip_frag_init, and ip_options.c, ip_options_fragment);
// others are blanked there, so that all headers have one size.
func AppendFragment(dst, frame []byte, p *Packet, mtu, at int) (piece []byte, next int) {
	if p.Is6 || !p.IsIP() || p.End > len(frame) {
		return nil, -1
	}
	ip := frame[p.L3:p.End]
	header := int(ip[0]&0xf) * 4
	room := (mtu - header) &^ 7
	data := ip[header:]
	if room < 8 || at < 0 || at >= len(data) || int(p.FragOffset)+len(data) > maxDatagram {
		return nil, -1
	}
	more := p.MoreFragments
	next = -1
	if len(data)-at > mtu-header {
		data, more, next = data[:at+room], true, at+room
	}
	start := len(dst)
	dst = append(dst, frame[:p.L3+header]...)
	dst = append(dst, data[at:]...)
	h := dst[start+p.L3:][:header]
	binary.BigEndian.PutUint16(h[2:], uint16(header+len(data)-at))
	const bits, moreBit = 0xc000, 0x2000 // the reserved one and DF are kept
	field := binary.BigEndian.Uint16(h[6:])&bits | uint16((int(p.FragOffset)+at)/8)
	if more {
		field |= moreBit
	}
	binary.BigEndian.PutUint16(h[6:], field)
	if at > 0 {
		blankOptions(h[20:])
	}
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], Checksum(h))
	return dst, next
}

const maxDatagram = 65535

// blankOptions overwrites IPv4 options that later fragments do not have with
// "no operation".
func blankOptions(b []byte) {
	const end, nop, copied = 0, 1, 0x80
	for i := 0; i < len(b) && b[i] != end; {
		n := 1
		if b[i] != nop {
			if i+1 >= len(b) || b[i+1] < 2 || i+int(b[i+1]) > len(b) {
				return
			}
			n = int(b[i+1])
		}
		if b[i]&copied == 0 {
			for j := range n {
				b[i+j] = nop
			}
		}
		i += n
	}
}
