package afpacket

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

const (
	etherTypeIPv4 = 0x0800
	etherTypeARP  = 0x0806
	etherTypeIPv6 = 0x86dd
	etherTypeVLAN = 0x8100 // 802.1Q
	etherTypeQinQ = 0x88a8 // 802.1ad
)

// The ICMPv6 types of neighbour discovery that say where an address is (RFC 4861, 4.3 and 4.4).
const (
	solicitation  = 135
	advertisement = 136
)

// putTag puts a VLAN tag that the kernel took out of band back into a frame
// that starts at buf[at]. It moves the link addresses into the four bytes in
// front of it, and returns where the frame starts now.
func putTag(buf []byte, at int, tpid, tci uint16, o *dataplane.Offload) int {
	copy(buf[at-tagLen:], buf[at:at+12])
	binary.BigEndian.PutUint16(buf[at+8:], tpid)
	binary.BigEndian.PutUint16(buf[at+10:], tci)
	shift(o, tagLen)
	return at - tagLen
}

// shift moves what o says about offsets by n bytes.
func shift(o *dataplane.Offload, n int) {
	if o.Flags&dataplane.NeedsChecksum != 0 {
		o.CsumStart = uint16(int(o.CsumStart) + n)
	}
	if o.HdrLen != 0 {
		o.HdrLen = uint16(max(0, int(o.HdrLen)+n))
	}
}

// tags returns how many bytes of VLAN tags a frame has, and the type of what
// follows them; 0 if the frame is too short.
func tags(frame []byte) (n int, etherType uint16) {
	for at := 12; at+2 <= len(frame); at += tagLen {
		switch t := binary.BigEndian.Uint16(frame[at:]); t {
		case etherTypeVLAN, etherTypeQinQ:
			n += tagLen
		default:
			return n, t
		}
	}
	return 0, 0
}

// question reports whether a broadcast or multicast frame asks for a link
// address: ARP, or a neighbour solicitation (RFC 4861, 4.3). Nothing else
// that is not addressed to us is ours.
func question(frame []byte, broadcast bool) bool {
	arp, discovery := asks(frame)
	return arp && broadcast || discovery == solicitation && !broadcast
}

// asks reports whether a frame is ARP, and otherwise which of neighbour discovery's messages about where an address
// is: solicitation, advertisement, or 0.
func asks(frame []byte) (arp bool, discovery byte) {
	n, etherType := tags(frame)
	ip := macLen + n
	if etherType != etherTypeIPv6 || len(frame) <= ip+40 || frame[ip+6] != unix.IPPROTO_ICMPV6 {
		return etherType == etherTypeARP, 0
	}
	if discovery = frame[ip+40]; discovery != solicitation && discovery != advertisement {
		return false, 0
	}
	return false, discovery
}
