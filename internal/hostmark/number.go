package hostmark

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// number is an unsigned number of 128 bits, wide enough for every field.
type number struct{ hi, lo uint64 }

// bigEndian reads up to 16 bytes.
func bigEndian(b []byte) number {
	var full [16]byte
	copy(full[16-min(len(b), 16):], b)
	return number{binary.BigEndian.Uint64(full[:8]), binary.BigEndian.Uint64(full[8:])}
}

// bytes are the number's last n bytes.
func (n number) bytes(size int) []byte {
	var full [16]byte
	binary.BigEndian.PutUint64(full[:8], n.hi)
	binary.BigEndian.PutUint64(full[8:], n.lo)
	return full[16-size:]
}

func (n number) and(o number) number { return number{n.hi & o.hi, n.lo & o.lo} }
func (n number) or(o number) number  { return number{n.hi | o.hi, n.lo | o.lo} }
func (n number) xor(o number) number { return number{n.hi ^ o.hi, n.lo ^ o.lo} }

func (n number) plus(o number) number {
	lo, carry := bits.Add64(n.lo, o.lo, 0)
	return number{n.hi + o.hi + carry, lo}
}

func (n number) minus(o number) number {
	lo, borrow := bits.Sub64(n.lo, o.lo, 0)
	return number{n.hi - o.hi - borrow, lo}
}

func (n number) compare(o number) int {
	switch {
	case n.hi != o.hi && n.hi < o.hi, n.hi == o.hi && n.lo < o.lo:
		return -1
	case n == o:
		return 0
	}
	return 1
}

func (n number) trailingZeros() int {
	if n.lo != 0 {
		return bits.TrailingZeros64(n.lo)
	}
	return 64 + bits.TrailingZeros64(n.hi)
}

// ones is the number whose lowest width bits are set.
func ones(width int) number {
	switch {
	case width <= 0:
		return number{}
	case width <= 64:
		return number{0, ^uint64(0) >> (64 - width)}
	}
	return number{^uint64(0) >> (128 - width), ^uint64(0)}
}

// span is a range of numbers, both ends included.
type span struct{ first, last number }

var one = number{0, 1}

// tidy sorts spans and joins those that touch or overlap.
func tidy(list []span) []span {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b span) int { return a.first.compare(b.first) })
	out := list[:0]
	for _, s := range list {
		if n := len(out); n > 0 {
			last := &out[n-1].last
			if s.first.compare(*last) <= 0 || s.first.minus(one) == *last {
				if s.last.compare(*last) > 0 {
					*last = s.last
				}
				continue
			}
		}
		out = append(out, s)
	}
	return out
}

// complement is what tidy spans of width bits leave out.
func complement(list []span, width int) []span {
	out := []span{}
	next, highest := number{}, ones(width)
	for _, s := range list {
		if s.first.compare(next) > 0 {
			out = append(out, span{next, s.first.minus(one)})
		}
		if s.last.compare(highest) >= 0 {
			return out
		}
		next = s.last.plus(one)
	}
	return append(out, span{next, highest})
}

// intersect is what two lists of tidy spans have in common.
func intersect(a, b []span) []span {
	out := []span{}
	for i, j := 0, 0; i < len(a) && j < len(b); {
		first, last := a[i].first, a[i].last
		if b[j].first.compare(first) > 0 {
			first = b[j].first
		}
		if b[j].last.compare(last) < 0 {
			last = b[j].last
		}
		if first.compare(last) <= 0 {
			out = append(out, span{first, last})
		}
		if a[i].last.compare(b[j].last) < 0 {
			i++
		} else {
			j++
		}
	}
	return out
}

// block is the numbers whose bits of mask are value.
type block struct{ mask, value number }

// blocks cuts a span of width bits into prefixes.
func (s span) blocks(width int) (list []block) {
	full := ones(width)
	for at := s.first; ; {
		free := min(at.trailingZeros(), width)
		for free > 0 && (ones(free).compare(s.last.minus(at)) > 0) {
			free--
		}
		list = append(list, block{full.xor(ones(free)), at})
		last := at.plus(ones(free))
		if last.compare(s.last) >= 0 {
			return list
		}
		at = last.plus(one)
	}
}

// span is the block as a span, if its mask is a prefix's.
func (b block) span(width int) (span, bool) {
	host := ones(width).xor(b.mask)
	if host.and(host.plus(one)) != (number{}) {
		return span{}, false
	}
	return span{b.value, b.value.or(host)}, true
}
