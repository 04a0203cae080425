package packet

import (
	"encoding/binary"
	"net/netip"
)

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	etherHeader = 14
	maxVLANs    = 2
)

// isTag reports the ethertypes of a VLAN tag: 802.1Q, 802.1ad, and the 0x9100
// of devices older than 802.1ad.
func isTag(ethertype uint16) bool {
	return ethertype == 0x8100 || ethertype == 0x88a8 || ethertype == 0x9100
}

// Parse reads a frame, from its destination MAC on and without FCS, and
// overwrites p with what it found; see Packet for what is valid when. It
// takes any bytes, does not allocate and does not keep frame. Checksums other
// than that of the IPv4 header are not looked at.
func (p *Packet) Parse(frame []byte) {
	p.clear()
	if len(frame) < etherHeader {
		p.damage(ShortFrame)
		return
	}
	// destination MAC 6, source MAC 6, ethertype 2
	ethertype, at := binary.BigEndian.Uint16(frame[12:]), etherHeader
	if isTag(ethertype) {
		ethertype, at = p.skipTags(frame)
	}
	p.EtherType, p.L3 = ethertype, at
	switch ethertype {
	case etherIPv4:
		p.parse4(frame, at)
	case etherIPv6:
		p.parse6(frame, at)
	case etherARP:
		p.parseARP(frame, at)
	}
}

// clear writes everything but what Packet says may be left over. Field by
// field, as assigning a whole Packet would also clear what is large.
func (p *Packet) clear() {
	p.Flow = Flow{}
	p.L3, p.L4, p.End = 0, 0, 0
	p.Kind, p.Damage, p.VLANs, p.Proto = Other, Undamaged, 0, 0
	p.EtherType, p.FragOffset, p.FragID = 0, 0, 0
	p.TTL, p.Is6, p.DF, p.Fragment, p.MoreFragments = 0, false, false, false, false
	p.Refused, p.Records = Accepted, false
	p.TCPFlags, p.ICMPType, p.ICMPCode = 0, 0, 0
	p.Chunk, p.NextChunk, p.HasChunk, p.HasNextChunk = 0, 0, false, false
	p.ARPOp = 0
	p.Quoted.OK = false
}

func (p *Packet) damage(d Damage) {
	p.Kind, p.Damage = Damaged, d
}

// damage4 is damage for which the host does not come to look at the options.
func (p *Packet) damage4(d Damage) {
	p.Refused, p.Records = Accepted, false
	p.damage(d)
}

// skipTags is the ethertype behind the tags, and where what follows starts.
// The ethertype is still that of a tag when there are too many, and the packet
// damaged when the frame ends in one.
//
//	ethertype 0x8100 2, priority and VLAN 2, next ethertype 2
func (p *Packet) skipTags(frame []byte) (ethertype uint16, at int) {
	ethertype, at = binary.BigEndian.Uint16(frame[12:]), etherHeader
	for isTag(ethertype) && p.VLANs < maxVLANs {
		if len(frame)-at < 4 {
			p.damage(ShortFrame)
			break
		}
		ethertype = binary.BigEndian.Uint16(frame[at+2:])
		at += 4
		p.VLANs++
	}
	return ethertype, at
}

// parseARP reads ARP for Ethernet and IPv4 (RFC 826):
//
//	 0 hardware type 2, protocol type 2, sizes of addresses 1+1, operation 2
//	 8 sender MAC 6, sender IP 4
//	18 target MAC 6, target IP 4
func (p *Packet) parseARP(frame []byte, at int) {
	a := frame[at:]
	if len(a) < arpSize {
		p.damage(TruncatedARP)
		return
	}
	if binary.BigEndian.Uint64(a)>>16 != arpEthernetIPv4 {
		return
	}
	p.Kind = ARP
	p.End = at + arpSize
	p.ARPOp = binary.BigEndian.Uint16(a[6:])
	p.ARPSenderMAC = [6]byte(a[8:])
	p.ARPSender = netip.AddrFrom4([4]byte(a[14:]))
	p.ARPTarget = netip.AddrFrom4([4]byte(a[24:]))
}

const (
	arpSize = 28
	// arpEthernetIPv4 is what the first 6 bytes of such ARP are.
	arpEthernetIPv4 = 0x0001_0800_0604
)

// parse4 reads an IPv4 header (RFC 791):
//
//	 0 version and words of header 1, TOS 1, total length 2
//	 4 identification 2, flags and fragment offset in 8 bytes 2
//	 8 TTL 1, protocol 1, header checksum 2
//	12 source 4
//	16 destination 4, options
//
// and refuses what the kernel refuses before IPVS sees it (net/ipv4/ip_input.c,
// ip_rcv_core), in the same order.
func (p *Packet) parse4(frame []byte, at int) {
	b := frame[at:]
	if len(b) < 20 {
		p.damage(ShortIP)
		return
	}
	h := (*[20]byte)(b)
	var acc accumulator
	size := 20
	if h[0] != 0x45 {
		size = int(h[0]&15) * 4
		switch {
		case h[0]>>4 != 4:
			p.damage(BadVersion)
			return
		case size < 20:
			p.damage(BadHeaderLength)
			return
		case size > len(b):
			p.damage(ShortIP)
			return
		}
		acc.add(b[20:size])
		p.readOptions(b[20:size]) // here, where other packets do not come by
	}
	addresses := binary.NativeEndian.Uint64(h[12:])
	acc.add64(binary.NativeEndian.Uint64(h[0:]))
	acc.add64(uint64(binary.NativeEndian.Uint32(h[8:])))
	acc.add64(addresses)
	// The sum over a header with a right checksum is all ones (RFC 1071).
	if acc.fold() != 0xffff {
		p.damage4(BadIPChecksum)
		return
	}
	total := int(binary.BigEndian.Uint16(h[2:]))
	if total > len(b) {
		p.damage4(TruncatedIP)
		return
	}
	if total < size {
		p.damage4(BadLength)
		return
	}
	p.L4 = at + size
	p.End = at + total
	p.TTL = h[8]
	p.Proto = h[9]
	p.Flow[0] = addresses
	// 0x8000 is reserved and means nothing here, as to the kernel.
	frag := binary.BigEndian.Uint16(h[6:])
	p.DF = frag&0x4000 != 0
	if frag&0x3fff != 0 {
		p.Fragment = true
		p.MoreFragments = frag&0x2000 != 0
		p.FragOffset = frag & 0x1fff * 8
		p.FragID = uint32(binary.BigEndian.Uint16(h[4:]))
		if p.FragOffset != 0 {
			p.Flow[1] = portWord(0, h[9], 4)
			p.Kind = kindOf(h[9], false)
			return
		}
	}
	p.transport(frame[:at+total], at+size, portWord(0, h[9], 4))
}
