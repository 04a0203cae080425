package packet

import "encoding/binary"

// parse reads the packet that is quoted in b from at on. Unlike a packet of
// its own, a quote is cut off anywhere, and its checksum may have been
// spoiled on the way, so that only the headers count.
func (q *Quoted) parse(b []byte, at int, is6 bool) {
	h := b[at:]
	q.L3 = at
	q.Is6 = is6
	var f Flow
	if is6 {
		if len(h) < 40 || h[0]>>4 != 6 {
			return
		}
		q.Proto, q.L4, q.FragOffset = h[6], at+40, 0
		if isExtension(h[6]) {
			c := walk(b, q.L4, h[6])
			if c.damage != Undamaged {
				return
			}
			q.Proto, q.L4, q.FragOffset = c.next, c.at, c.offset
		}
		f = flow6((*[40]byte)(h), q.Proto)
	} else {
		if len(h) < 20 || h[0]>>4 != 4 {
			return
		}
		size := int(h[0]&15) * 4
		if size < 20 || size > len(h) {
			return
		}
		q.Proto, q.L4 = h[9], at+size
		q.FragOffset = binary.BigEndian.Uint16(h[6:]) & 0x1fff * 8
		f[0] = binary.NativeEndian.Uint64(h[12:])
		f[1] = portWord(0, q.Proto, 4)
	}
	if q.FragOffset == 0 && hasPorts(q.Proto) {
		if len(b)-q.L4 < 4 {
			return
		}
		f[1] |= uint64(binary.NativeEndian.Uint32(b[q.L4:])) << portsShift
	}
	q.Flow = f.Reverse()
	q.OK = true
}
