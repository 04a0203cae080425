package packet

import "encoding/binary"

// AppendRST appends the TCP reset that a host without a listener sends (RFC
// 9293, section 3.10.7.1; tcp_v4_send_reset, tcp_v6_send_response): in answer
// to an ACK with its number, otherwise acknowledging all that came.
//
// dst is returned as it was for anything else than TCP, for a RST, for
// fragments, for a TCP header whose length is impossible, and for packets that
// did not come to this host alone. The checksum is not checked, as frames of
// local senders may lack it: the kernel drops segments with a wrong one, so ask
// TransportIntact first where it should be right.
func AppendRST(dst, frame []byte, p *Packet) []byte {
	if p.Kind != TCP || p.Fragment || p.TCPFlags&RST != 0 || !p.answerable(frame) {
		return dst
	}
	// The layout is at transport.
	t := frame[p.L4:p.End]
	size := int(t[12]>>4) * 4
	if size < 20 || size > len(t) {
		return dst
	}
	a := header{proto: ProtoTCP, hops: answerTTL, df: true, payload: 20}
	// ECN's bits are about packets of a connection, which this is not.
	if p.Is6 {
		a.class = (frame[p.L3]<<4 | frame[p.L3+1]>>4) &^ 3
	} else {
		a.class = frame[p.L3+1] &^ 3
	}
	dst, b := appendIP(dst, frame, p, a)
	copy(b[0:2], t[2:4])
	copy(b[2:4], t[0:2])
	b[12] = 5 << 4
	if p.TCPFlags&ACK != 0 {
		copy(b[4:8], t[8:12])
		b[13] = RST
	} else {
		length := uint32(len(t) - size)
		if p.TCPFlags&SYN != 0 {
			length++
		}
		if p.TCPFlags&FIN != 0 {
			length++
		}
		binary.BigEndian.PutUint32(b[8:], binary.BigEndian.Uint32(t[4:])+length)
		b[13] = RST | ACK
	}
	seal(dst, b, p, ProtoTCP, 16)
	return dst
}
