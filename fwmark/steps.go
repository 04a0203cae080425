package fwmark

import (
	"encoding/binary"

	"github.com/ulvs/ulvs/packet"
)

// Field is what a Step looks at, 32 bits of a packet.
type Field uint8

// The fields. The source address has up to four, in host byte order: IPv4's is the first.
const (
	FieldSource    Field = 0
	FieldPort      Field = 4 // the source port
	FieldInterface Field = 5 // the number of the interface by which the packet came in
	FieldMark      Field = 7 // the mark that the packet has by now
)

// Inputs are a packet's fields.
type Inputs [8]uint32

// InputsOf returns those of a packet without a mark, which came in by the interface of a number.
func InputsOf(p *packet.Packet, link uint32) (in Inputs) {
	client := p.Flow.Client()
	if a := client.Addr(); a.Is4() {
		b := a.As4()
		in[FieldSource] = binary.BigEndian.Uint32(b[:])
	} else {
		b := a.As16()
		for i := range 4 {
			in[int(FieldSource)+i] = binary.BigEndian.Uint32(b[4*i:])
		}
	}
	in[FieldPort], in[FieldInterface] = uint32(client.Port()), link
	return in
}

// Step is one condition on a packet, and what becomes of the packet: it holds if the field AND
// Mask, less Low, is at most Span. Then the mark becomes (mark AND And) XOR Xor, and the packet
// goes on with step Yes, else with No: the number of a later step, or Done or Undecided.
type Step struct {
	Field           Field
	Yes, No         uint16
	Mask, Low, Span uint32
	And, Xor        uint32
}

// MaxSteps is how many steps there are at most in a list. Done ends it, with the mark as it is,
// and Undecided too, where rules look at what no step can.
const (
	MaxSteps         = 128
	Done      uint16 = 0xffff
	Undecided uint16 = 0xfffe
)

// Follow carries a packet without a mark through the steps: the mark that it comes out with, unless
// that is not decided by them.
func Follow(steps []Step, in Inputs) (mark uint32, decided bool) {
	in[FieldMark] = 0
	at := uint16(0)
	for int(at) < len(steps) {
		s := &steps[at]
		if in[s.Field]&s.Mask-s.Low > s.Span {
			at = s.No
			continue
		}
		in[FieldMark] = in[FieldMark]&s.And ^ s.Xor
		at = s.Yes
	}
	return in[FieldMark], at == Done
}
