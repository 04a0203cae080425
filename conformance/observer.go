package conformance

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// observer collects what became of each packet that was sent. One goroutine
// uses it.
type observer struct {
	sent map[int]*sentPacket
	// passed is the number of the last barrier that came through, and piece that of
	// the last one that is a fragment.
	passed  int
	piece   int
	flights map[flight]*reassembly
}

type sentPacket struct {
	Packet
	datagram []byte // as sent, from the IP header on
	arrived  []string
	answered []string
}

func newObserver() *observer {
	return &observer{sent: make(map[int]*sentPacket), flights: make(map[flight]*reassembly)}
}

// expect makes a packet known, before its frames are sent.
func (o *observer) expect(p Packet, frames [][]byte) error {
	var r reassembly
	for _, frame := range frames {
		// Without the padding of a short Ethernet frame, which no server need see.
		d, err := parseDatagram(frame[etherLen:])
		if err != nil {
			return fmt.Errorf("crafted %v: %w", p, err)
		}
		whole := d.bytes
		if d.isFragment() {
			if whole = r.add(d); whole == nil {
				continue
			}
		}
		o.sent[p.Number] = &sentPacket{Packet: p, datagram: whole}
	}
	return nil
}

// answer records an outcome without a frame.
func (o *observer) answer(number int, outcome string) {
	if s := o.sent[number]; s != nil {
		s.answered = append(s.answered, outcome)
	}
}

// atServer records a frame that a real server received.
func (o *observer) atServer(server string, frame []byte) {
	if len(frame) < etherLen {
		return
	}
	d, err := parseDatagram(frame[etherLen:])
	if err != nil {
		return // not IP, so not one of ours
	}
	if n, ok := barrierNumber(d); ok {
		if d.isFragment() {
			o.piece = n
		} else {
			o.passed = n
		}
		return
	}
	s := o.sent[d.number]
	if s == nil || d.src != s.Src.Addr() || d.dst != s.Dst.Addr() {
		return
	}
	if d.isFragment() {
		k := flight{server, d.number, d.src, d.dst}
		if o.flights[k] == nil {
			o.flights[k] = &reassembly{}
		}
		if d.bytes = o.flights[k].add(d); d.bytes == nil {
			return
		}
		delete(o.flights, k)
	}
	outcome := fmt.Sprintf("%s ttl=%d", server, d.ttl)
	if o := optionsOf(d.bytes); !bytes.Equal(o, optionsOf(s.datagram)) {
		outcome += fmt.Sprintf(" opts=%x", o)
	}
	if !sameDatagram(s.datagram, d.bytes) {
		outcome += " altered"
	}
	if !d.checksumOK {
		outcome += " bad-checksum"
	}
	s.arrived = append(s.arrived, outcome)
}

// atClient records a frame that the client received, if it answers a packet.
func (o *observer) atClient(frame []byte) {
	if len(frame) < etherLen {
		return
	}
	d, err := parseDatagram(frame[etherLen:])
	if err != nil {
		return
	}
	if n, ok := barrierNumber(d); ok {
		o.passed = n
		return
	}
	number, outcome := readAnswer(d)
	s := o.sent[number]
	if outcome == "" || s == nil || d.dst != s.Src.Addr() {
		return
	}
	s.answered = append(s.answered, outcome)
}

// outcome is what became of a packet so far, in words.
func (o *observer) outcome(number int) string {
	s := o.sent[number]
	all := append(slices.Sorted(slices.Values(s.arrived)), slices.Sorted(slices.Values(s.answered))...)
	if len(all) == 0 {
		return "nothing"
	}
	return strings.Join(all, ", ")
}

// missing reports whether a packet of a batch has no outcome yet.
func (o *observer) missing(first, count int) bool {
	for n := first; n < first+count; n++ {
		if len(o.sent[n].arrived)+len(o.sent[n].answered) == 0 {
			return true
		}
	}
	return false
}

const etherLen = 14

// datagram is a received IP packet, without what a link may have padded.
type datagram struct {
	bytes      []byte
	number     int
	src, dst   netip.Addr
	ttl        int
	proto      byte
	payload    []byte
	checksumOK bool
}

func parseDatagram(b []byte) (datagram, error) {
	if len(b) >= 20 && b[0]>>4 == 4 {
		hdr, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		// An ICMP error may quote less than the whole.
		total = min(total, len(b))
		if hdr < 20 || total < hdr {
			return datagram{}, fmt.Errorf("IPv4 header of %d bytes in a packet of %d", hdr, total)
		}
		return datagram{
			bytes: b[:total], number: int(binary.BigEndian.Uint16(b[4:])),
			src: netip.AddrFrom4([4]byte(b[12:16])), dst: netip.AddrFrom4([4]byte(b[16:20])),
			ttl: int(b[8]), proto: b[9], payload: b[hdr:total], checksumOK: checksum(b[:hdr]) == 0,
		}, nil
	}
	if len(b) >= 40 && b[0]>>4 == 6 {
		total := min(40+int(binary.BigEndian.Uint16(b[4:])), len(b))
		return datagram{
			bytes: b[:total], number: int(binary.BigEndian.Uint32(b) & 0xfffff),
			src: netip.AddrFrom16([16]byte(b[8:24])), dst: netip.AddrFrom16([16]byte(b[24:40])),
			ttl: int(b[7]), proto: b[6], payload: b[40:total], checksumOK: true,
		}, nil
	}
	return datagram{}, fmt.Errorf("not an IP packet")
}

// checksum is the Internet checksum; 0 over a header that includes its own.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// sameDatagram compares but for TTL and what depends on it.
func sameDatagram(a, b []byte) bool {
	return bytes.Equal(withoutTTL(a), withoutTTL(b))
}

func withoutTTL(b []byte) []byte {
	c := bytes.Clone(b)
	if c[0]>>4 == 4 {
		c[8], c[10], c[11] = 0, 0, 0
		clear(c[20 : int(c[0]&15)*4]) // compared by optionsOf
	} else {
		c[7] = 0
	}
	return c
}

// readAnswer finds the number of the packet that d answers, and what it says;
// "" if d answers nothing.
func readAnswer(d datagram) (number int, outcome string) {
	p := d.payload
	switch {
	case d.proto == 6 && len(p) >= 20:
		const rst, ack = 4, 16
		if p[13]&rst == 0 {
			return 0, ""
		}
		seq := binary.BigEndian.Uint32(p[4:])
		if p[13]&ack != 0 {
			seq = binary.BigEndian.Uint32(p[8:])
		}
		return int(seq >> seqShift), "rst"
	case d.proto == 1 && len(p) >= 8:
		if p[0] == 0 {
			return int(binary.BigEndian.Uint16(p[6:])), "echo-reply"
		}
		return readError(d, "icmp", p[0] == 3 || p[0] == 11 || p[0] == 12)
	case d.proto == 58 && len(p) >= 8:
		if p[0] == 129 {
			return int(binary.BigEndian.Uint16(p[6:])), "echo-reply"
		}
		return readError(d, "icmp6", p[0] >= 1 && p[0] <= 4)
	}
	return 0, ""
}

func readError(d datagram, name string, isError bool) (number int, outcome string) {
	quoted, err := parseDatagram(d.payload[8:])
	if !isError || err != nil || quoted.src != d.dst {
		return 0, ""
	}
	return quoted.number, fmt.Sprintf("%s %d/%d", name, d.payload[0], d.payload[1])
}
