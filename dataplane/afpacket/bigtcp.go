package afpacket

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// Frames of TCP may be longer than the length in an IP header can say: up to 524,280
// bytes where an interface's gso_max_size or gro_max_size allow it (BIG TCP,
// include/linux/netdevice.h, GSO_MAX_SIZE). That length
// is 0 then (net/ipv4/ip_output.c), or in a jumbo payload option of IPv6 (RFC 2675), and
// no handler has to know that: such a frame is cut, as the kernel cuts it at last, but
// into pieces as large as there may be. Their headers are made of those in the slot, and
// their payload is read to where it belongs.

const (
	longest  = 65535 // of what an IP header can say
	ipv6Len  = 40
	jumboLen = 8 // the hop-by-hop header with nothing but the jumbo payload option
	tcpSum   = 16
	// mostPieces of one frame: 524,280 bytes are nine, or a few more where segments do
	// not fill a piece.
	mostPieces = 12
)

// cut says how a frame is cut.
type cut struct {
	head    []byte // the frame's headers, from its link addresses on
	o       dataplane.Offload
	ip, tcp int // where these headers start in head
	skip    int // bytes of a jumbo payload option, in front of tcp, that pieces do not have
	payload int // bytes of the frame
	each    int // bytes of a piece: whole segments
}

// cutting plans how to cut a frame of TCP of which head is the beginning; false if it is
// anything else.
func cutting(head []byte, o dataplane.Offload, length int) (c cut, ok bool) {
	n, etherType := tags(head)
	c = cut{o: o, ip: macLen + n, tcp: int(o.CsumStart)}
	network := 20
	switch etherType {
	case etherTypeIPv4:
	case etherTypeIPv6:
		network = ipv6Len
	default:
		return c, false
	}
	kind := o.GSOType &^ unix.VIRTIO_NET_HDR_GSO_ECN
	if n > 2*tagLen || // there is no buffer for more
		kind != unix.VIRTIO_NET_HDR_GSO_TCPV4 && kind != unix.VIRTIO_NET_HDR_GSO_TCPV6 || o.GSOSize == 0 ||
		o.Flags&dataplane.NeedsChecksum == 0 || o.CsumOffset != tcpSum || c.tcp < c.ip+network || len(head) < c.tcp+20 {
		return c, false
	}
	if etherType == etherTypeIPv6 && c.tcp >= c.ip+ipv6Len+jumboLen && head[c.ip+6] == 0 {
		const jumboPayload = 0xc2
		if option := head[c.ip+ipv6Len:]; option[1] == 0 && option[2] == jumboPayload {
			c.skip = jumboLen
		}
	}
	headers := c.tcp + int(head[c.tcp+12]>>4)*4
	if headers < c.tcp+20 || headers > len(head) || headers >= length {
		return c, false
	}
	c.head, c.payload = head[:headers], length-headers
	c.each = (longest - (headers - c.ip)) / int(o.GSOSize) * int(o.GSOSize)
	return c, c.each > 0
}

func (c *cut) pieces() int { return (c.payload + c.each - 1) / c.each }

// size is the bytes of payload of the i-th piece.
func (c *cut) size(i int) int { return min(c.each, c.payload-i*c.each) }

// headers writes the i-th piece's headers to b, and returns what the piece owes the wire.
func (c *cut) headers(b []byte, i int) dataplane.Offload {
	be := binary.BigEndian
	at, size := c.ip, c.size(i)
	copy(b, c.head[:c.ip])
	tcp := c.tcp - c.skip
	copy(b[tcp:], c.head[c.tcp:])
	var sum uint32
	if be.Uint16(c.head[c.ip-2:]) == etherTypeIPv6 {
		copy(b[at:], c.head[c.ip:c.ip+ipv6Len])
		copy(b[at+ipv6Len:tcp], c.head[c.ip+ipv6Len+c.skip:])
		if c.skip > 0 {
			b[at+6] = c.head[c.ip+ipv6Len]
		}
		be.PutUint16(b[at+4:], uint16(len(c.head)-c.skip-at-ipv6Len+size))
		sum = add(0, b[at+8:at+ipv6Len])
	} else {
		copy(b[at:tcp], c.head[c.ip:])
		be.PutUint16(b[at+2:], uint16(len(c.head)-at+size))
		// The segments' identifications go on (net/ipv4/af_inet.c, inet_gso_segment).
		be.PutUint16(b[at+4:], be.Uint16(b[at+4:])+uint16(i*c.each/int(c.o.GSOSize)))
		be.PutUint16(b[at+10:], 0)
		be.PutUint16(b[at+10:], ^uint16(add(0, b[at:tcp])))
		sum = add(0, b[at+12:at+20])
	}
	be.PutUint32(b[tcp+4:], be.Uint32(b[tcp+4:])+uint32(i*c.each))
	const fin, psh, cwr = 1, 8, 128
	if i > 0 {
		b[tcp+13] &^= cwr
	}
	if i < c.pieces()-1 {
		b[tcp+13] &^= fin | psh
	}
	// What an unfinished checksum holds (CHECKSUM_PARTIAL): the pseudo header's sum.
	sum += unix.IPPROTO_TCP + uint32(len(c.head)-c.tcp+size)
	be.PutUint16(b[tcp+tcpSum:], uint16(add(sum, nil)))
	o := c.o
	o.CsumStart, o.HdrLen = uint16(tcp), uint16(len(c.head)-c.skip)
	if size <= int(o.GSOSize) {
		o.GSOType, o.GSOSize = 0, 0
	}
	return o
}

// add adds b's words to a sum, and folds it (RFC 1071).
func add(sum uint32, b []byte) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum&0xffff + sum>>16
	return sum&0xffff + sum>>16
}

// takeBig makes frames of one that is longer than an IP header can say, from n on, with
// buffers from large on. ok is false where there is no room for them in this batch, and
// big where it is no such frame.
func (r *receiver) takeBig(n, large int, slot []byte, status uint32) (frames int, big, ok bool) {
	length, at := int(native.Uint32(slot[slotLen:])), int(native.Uint16(slot[slotMAC:]))
	snap := int(native.Uint32(slot[slotSnaplen:]))
	if length <= macLen+longest || at < vnetLen || at+snap > len(slot) {
		return 0, false, true
	}
	c, is := cutting(slot[at:at+snap], readVnet(slot[at-vnetLen:]), length)
	if !is || c.pieces() > mostPieces {
		return 0, false, true
	}
	frames = c.pieces()
	if n+frames > batchSize || large+frames > largeBatch {
		return 0, true, false
	}
	r.vec[0].Base = &r.rooms[n*roomSize] // the frame's own headers, not needed
	r.vec[0].SetLen(vnetLen + len(c.head))
	start := tagLen + vnetLen + len(c.head) - c.skip
	for i := range frames {
		r.vec[1+i].Base = &r.large[large+i][start]
		r.vec[1+i].SetLen(c.size(i))
	}
	if !r.readCopy(func() (int, error) { return readv(r.sock.fd, r.vec[:1+frames]) }, length) {
		return 0, true, true
	}
	r.p.c.rxCut.Add(1)
	for i := range frames {
		buf := r.large[large+i]
		writeVnet(buf[tagLen:], c.headers(buf[tagLen+vnetLen:], i))
		if !r.frame(&r.frames[n+i], slot, status, buf, tagLen+vnetLen, start+c.size(i)) {
			return 0, true, true // all have the same addresses: none is ours
		}
		r.frames[n+i].Room = r.room(n + i)
		r.frames[n+i].Handed = r.frames[n+i].Handed && i == frames-1 // as it came, it is one
	}
	return frames, true, true
}
