package packet

import "encoding/binary"

// IPv6 extension headers that lead on to another header. ESP does not, as
// what follows is encrypted; neither does "no next header".
const (
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extAuth        = 51
	extDestination = 60
)

func isExtension(next uint8) bool {
	switch next {
	case extHopByHop, extRouting, extFragment, extAuth, extDestination:
		return true
	}
	return false
}

// parse6 reads an IPv6 header (RFC 8200, section 3):
//
//	 0 version 4 bits, traffic class 8 bits, flow label 20 bits
//	 4 payload length 2, next header 1, hop limit 1
//	 8 source 16
//	24 destination 16
//
// A payload length of 0 with a jumbo option is not known: such a packet would
// not fit a frame.
func (p *Packet) parse6(frame []byte, at int) {
	b := frame[at:]
	if len(b) < 40 {
		p.damage(ShortIP)
		return
	}
	h := (*[40]byte)(b)
	if h[0]>>4 != 6 {
		p.damage(BadVersion)
		return
	}
	total := 40 + int(binary.BigEndian.Uint16(h[4:]))
	if total > len(b) {
		p.damage(TruncatedIP)
		return
	}
	p.Is6 = true
	p.End = at + total
	p.TTL = h[7]
	p.L4 = at + 40
	p.Proto = h[6]
	if isExtension(h[6]) {
		c := walk(frame[:p.End], p.L4, h[6])
		if c.damage != Undamaged {
			p.damage(c.damage)
			return
		}
		if h[6] == extHopByHop {
			p.readHopOptions(b)
		}
		p.L4, p.Proto = c.at, c.next
		p.Fragment, p.MoreFragments = c.fragment, c.more
		p.FragOffset, p.FragID = c.offset, c.id
	}
	p.Flow = flow6(h, p.Proto)
	if p.FragOffset != 0 {
		p.Kind = kindOf(p.Proto, true)
		return
	}
	p.transport(frame[:p.End], p.L4, p.Flow[1])
}

// flow6 is the flow of an IPv6 header, without ports.
func flow6(h *[40]byte, proto uint8) Flow {
	return Flow{
		binary.NativeEndian.Uint64(h[8:]),
		portWord(0, proto, 6),
		binary.NativeEndian.Uint64(h[16:]),
		binary.NativeEndian.Uint64(h[24:]),
		binary.NativeEndian.Uint64(h[32:]),
	}
}

// chain is what stands at the end of a chain of extension headers.
type chain struct {
	at       int   // where the chain ends
	next     uint8 // what stands there
	damage   Damage
	fragment bool // there was a fragment header that means something
	more     bool
	offset   uint16
	id       uint32
}

// walk follows IPv6 extension headers from at to the end of b, where next is
// the type of the first. Like ipv6_find_hdr (net/ipv6/exthdrs_core.c) it goes
// through authentication headers, and ends at a fragment header with an
// offset, behind which there is only data. Every extension header starts with
//
//	0 next header 1, length 1, in 8 bytes beyond the first 8
//
// but authentication counts words of 4 bytes beyond the first 2, and the
// fragment header is
//
//	0 next header 1, reserved 1, offset in 8 bytes 13 bits, 2 bits, more 1 bit
//	4 identification 4
func walk(b []byte, at int, next uint8) (c chain) {
	for n := 0; isExtension(next); n++ {
		if n == MaxExtensions {
			c.damage = TooManyExtensions
			return c
		}
		if len(b)-at < 8 {
			c.damage = TruncatedExtension
			return c
		}
		h := (*[8]byte)(b[at:])
		var size int
		switch next {
		case extFragment:
			size = 8
			field := binary.BigEndian.Uint16(h[2:])
			if field&^6 != 0 {
				c.fragment = true
				c.more = field&1 != 0
				c.offset = field &^ 7
				c.id = binary.BigEndian.Uint32(h[4:])
			}
		case extAuth:
			size = int(h[1])*4 + 8
		default:
			size = int(h[1])*8 + 8
		}
		if size > len(b)-at {
			c.damage = TruncatedExtension
			return c
		}
		next = h[0]
		at += size
		if c.offset != 0 {
			break
		}
	}
	c.at, c.next = at, next
	return c
}
