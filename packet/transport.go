package packet

import "encoding/binary"

// Chunk types of SCTP behind which IPVS looks for an ABORT.
const (
	chunkCookieEcho = 10
	chunkCookieAck  = 11
)

// kindOf is the kind of IP packet that a protocol number makes in a family.
func kindOf(proto uint8, is6 bool) Kind {
	switch {
	case proto == ProtoTCP:
		return TCP
	case proto == ProtoUDP:
		return UDP
	case proto == ProtoSCTP:
		return SCTP
	case proto == ProtoICMP && !is6, proto == ProtoICMPv6 && is6:
		return ICMP
	}
	return OtherIP
}

// transport reads the header at at, where datagram is the frame up to the end
// of the datagram, and completes word, the flow's second one. Headers that are
// too short for what IPVS reads when it schedules are damage, because it
// drops such packets (tcp_conn_schedule and its like in ip_vs_proto_*.c);
// whatever else a server might object to is the server's business.
func (p *Packet) transport(datagram []byte, at int, word uint64) {
	b := datagram[at:]
	if p.Proto == ProtoTCP && len(b) >= 20 {
		// 0 ports 2+2, sequence 4
		// 8 acknowledgment 4
		// 12 words of header 4 bits, 4 bits, flags 1, window 2
		// 16 checksum 2, urgent 2, options
		p.Kind = TCP
		p.TCPFlags = b[13]
		p.Flow[1] = word | uint64(binary.NativeEndian.Uint32(b))<<portsShift
		return
	}
	p.Kind = kindOf(p.Proto, p.Is6)
	if hasPorts(p.Proto) && len(b) >= 4 {
		word |= uint64(binary.NativeEndian.Uint32(b)) << portsShift
	}
	p.Flow[1] = word
	switch p.Kind {
	case TCP:
		p.damage(TruncatedTCP)
	case UDP:
		// 0 ports 2+2, length 2, checksum 2
		if len(b) < 8 {
			p.damage(TruncatedUDP)
		}
	case SCTP:
		p.chunks(b)
	case ICMP:
		// 0 type 1, code 1, checksum 2, depends on the type 4
		if len(b) < 8 {
			p.damage(TruncatedICMP)
			return
		}
		p.ICMPType, p.ICMPCode = b[0], b[1]
		if p.IsICMPError() {
			p.Quoted.parse(datagram, at+8, p.Is6)
		}
	}
}

// ReadTransport reads the transport header of a first fragment that is a TruncatedTCP or
// TruncatedSCTP: data is what the first fragments hold together.
func (p *Packet) ReadTransport(data []byte) {
	family := uint8(4)
	if p.Is6 {
		family = 6
	}
	p.Kind, p.Damage = Other, Undamaged
	p.transport(data, 0, portWord(0, p.Proto, family))
}

// chunks reads an SCTP packet (RFC 9260, section 3):
//
//	 0 ports 2+2, verification tag 4, checksum 4
//	12 chunk: type 1, flags 1, length 2 with these 4 bytes and without the
//	   padding to a multiple of 4
func (p *Packet) chunks(b []byte) {
	if len(b) < 12 {
		p.damage(TruncatedSCTP)
		return
	}
	if len(b) < 16 {
		return
	}
	p.HasChunk = true
	p.Chunk = b[12]
	if p.Chunk != chunkCookieEcho && p.Chunk != chunkCookieAck {
		return
	}
	size := int(binary.BigEndian.Uint16(b[14:]))
	if size < 4 {
		return
	}
	next := 12 + (size+3)&^3
	if len(b)-next >= 4 {
		p.HasNextChunk = true
		p.NextChunk = b[next]
	}
}
