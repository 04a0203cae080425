package hostmark

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// value is what a register of nftables holds while a rule is read: bytes that
// are known, or a part of the packet, of which the bits of mask are kept and
// those of flip turned.
type value struct {
	known      []byte
	parts      []part
	size       int
	mask, flip []byte
	// swapped: a mark in network order. epoch: of which of the rule's marks.
	swapped bool
	epoch   int
	text    string
}

// part is a run of bytes of a value: those of a field from byte from on.
type part struct {
	field       fieldID
	from, bytes int
}

// slotOf is the first of the 4-byte registers that a number means: 1 to 4 are
// of 16 bytes, those from 8 on of 4.
func slotOf(reg uint32) (int, bool) {
	switch {
	case reg >= 1 && reg <= 4:
		return int(reg-1) * 4, true
	case reg >= 8 && reg <= 23:
		return int(reg - 8), true
	}
	return 0, false
}

func (w *walker) load(reg []byte, v *value) {
	at, ok := slotOf(be32(reg))
	if !ok {
		return
	}
	for i, o := range w.regs { // what it overwrites is gone
		if o != nil && i < at+(v.size+3)/4 && at < i+(o.size+3)/4 {
			w.regs[i] = nil
		}
	}
	w.regs[at] = v
}

// read is a register's value. What is not known is nothing that fwmark could
// compare.
func (w *walker) read(reg []byte) *value {
	if at, ok := slotOf(be32(reg)); ok && w.regs[at] != nil {
		v := w.regs[at]
		if len(v.parts) == 1 && v.parts[0].field == mark && v.epoch != w.marked {
			return unknownValue(v.size, "("+v.text+" before)")
		}
		return v
	}
	return unknownValue(16, "?")
}

func unknownValue(size int, text string) *value {
	return &value{parts: []part{{opaque, 0, size}}, size: size, text: text}
}

func fieldValue(f fieldID, size int, text string) *value {
	return &value{parts: []part{{f, 0, size}}, size: size, text: text}
}

// whole is the field that the value is, unaltered.
func (v *value) whole(ipv6 bool) (fieldID, bool) {
	if v.known != nil || len(v.parts) != 1 || v.mask != nil || v.flip != nil {
		return opaque, false
	}
	p := v.parts[0]
	return p.field, p.field != opaque && p.field != index && p.from == 0 && p.bytes*8 == p.field.width(ipv6)
}

// number reads bytes in the order in which the value has them.
func (v *value) number(b []byte) number {
	if len(v.parts) == 1 && v.parts[0].field == mark && !v.swapped && len(b) == 4 {
		return number{0, uint64(native.Uint32(b))}
	}
	return bigEndian(b)
}

// compare adds the condition that a value's first bytes are (or, with not, are
// not) want.
func (w *walker) compare(v *value, want []byte, not bool) {
	if v.known != nil {
		if len(want) > len(v.known) {
			w.unknown("-m cmp ...")
		} else if bytes.Equal(v.known[:len(want)], want) == not {
			w.never = true
		}
		return
	}
	if len(want) > v.size {
		w.unknown("-m cmp ...")
		return
	}
	keep := make([]byte, len(want))
	value := bytes.Clone(want)
	for i := range want {
		keep[i] = 0xff
		if v.mask != nil {
			keep[i] = v.mask[i]
		}
		if v.flip != nil {
			value[i] ^= v.flip[i]
		}
		if value[i]&^keep[i] != 0 && v.parts[0].field != mark { // it never is; a mark can say so itself
			w.never = w.never || !not
			return
		}
	}
	var found []bound
	at := 0
	for _, p := range v.parts {
		n := min(p.bytes, len(want)-at)
		if n <= 0 {
			break
		}
		k, x := keep[at:at+n], value[at:at+n]
		at += n
		if bytes.Count(k, []byte{0}) == n && p.field != index && p.field != mark {
			continue // nothing is asked of it
		}
		found = append(found, w.bound(v, p, k, x))
	}
	switch hidden := slices.ContainsFunc(found, func(b bound) bool { return b.field == opaque }); {
	case !not || len(found) == 1:
	case len(found) == 0:
		w.never = true
		return
	case hidden:
		w.unknown(w.guess(v))
		return
	default: // one of them is not: the first, or the first is and the second is not, …
		var list []tuple
		for i := range found {
			t := slices.Clone(found[:i+1])
			t[i].test.not = true
			list = append(list, t)
		}
		w.tuples = append(w.tuples, list)
		return
	}
	for _, b := range found {
		b.test.not = not
		if b.field == opaque {
			w.unknown(w.guess(v))
			continue
		}
		w.add(b.field, b.test)
	}
}

// guess is a guess at the iptables module that a condition came from.
func (w *walker) guess(v *value) string {
	word, _, _ := strings.Cut(v.text, " ")
	switch {
	case strings.HasPrefix(v.text, "tcp "):
		return "-m tcp ..."
	case strings.HasPrefix(v.text, "ip frag-off"):
		return "-f ..."
	case word == "ct":
		return "-m conntrack ..."
	}
	return "-m " + word + " ..."
}

// bound is the comparison of one part.
func (w *walker) bound(v *value, p part, keep, want []byte) bound {
	if p.field == index {
		// The loopback interface is number 1 in every namespace. Other numbers
		// come and go.
		if len(want) == 4 && native.Uint32(want) == 1 && bytes.Count(keep, []byte{0xff}) == 4 {
			return bound{input, test{block: block{ones(128).xor(ones(128 - 24)),
				bigEndian(append([]byte("lo"), make([]byte, 14)...))}}}
		}
		return bound{field: opaque}
	}
	if p.field == opaque {
		return bound{field: opaque}
	}
	if p.field == mark {
		if len(want) != 4 {
			return bound{field: opaque}
		}
		return bound{mark, test{block: block{v.number(keep), v.number(want)}}}
	}
	size := p.field.width(w.ipv6) / 8
	m, x := make([]byte, size), make([]byte, size)
	copy(m[p.from:], keep)
	copy(x[p.from:], want)
	return bound{p.field, test{block: block{bigEndian(m), bigEndian(x)}}}
}

// constant is how nft prints a value that is compared with v.
func (v *value) constant(b []byte) string {
	if len(v.parts) == 1 {
		n := v.number(b)
		switch f := v.parts[0].field; {
		case f == protocol && len(b) == 1:
			return protocolName(b[0])
		case (f == source || f == dest) && v.mask == nil:
			if a, ok := netip.AddrFromSlice(b); ok {
				return a.String()
			}
			if v.size < 4 || v.size > 4 && v.size < 16 { // a prefix in whole bytes
				full := make([]byte, 16)
				copy(full, b)
				if !v.long() {
					full = full[:4]
				}
				a, _ := netip.AddrFromSlice(full)
				return a.String() + "/" + strconv.Itoa(8*len(b))
			}
		case f == sourcePort || f == destPort:
			return strconv.FormatUint(n.lo, 10)
		case f == mark:
			return fmt.Sprintf("0x%08x", n.lo)
		case f == input:
			name, _, whole := strings.Cut(string(b), "\x00")
			if !whole && len(b) < 16 {
				name += "*"
			}
			return strconv.Quote(name)
		case f == index && len(b) == 4 && native.Uint32(b) == 1:
			return `"lo"`
		}
	}
	return fmt.Sprintf("0x%x", b)
}

func (v *value) long() bool { return strings.HasPrefix(v.text, "ip6") }

func protocolName(p uint8) string {
	s := strings.TrimPrefix(arguments(fwmarkProtocol(p)), " -p ")
	if s == "" {
		return "0"
	}
	return s
}

// payload is a value read from the packet's headers.
func (w *walker) payload(base, offset, size uint32) *value {
	if offset > 1<<16 || size == 0 || size > 64 {
		return unknownValue(16, "payload")
	}
	v := &value{size: int(size), text: fmt.Sprintf("@%d,%d,%d", base, 8*offset, 8*size)}
	type known struct {
		at, bytes int
		field     fieldID
		name      string
	}
	var header []known
	switch {
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && w.ipv6:
		header = []known{{8, 16, source, "ip6 saddr"}, {24, 16, dest, "ip6 daddr"}}
		if offset == 6 && size == 1 {
			v.text = "ip6 nexthdr"
		}
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER:
		header = []known{{1, 1, tos, "ip tos"}, {9, 1, protocol, "ip protocol"}, {12, 4, source, "ip saddr"}, {16, 4, dest, "ip daddr"}}
		if offset == 6 && size == 2 {
			v.text = "ip frag-off"
		}
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		l4 := "th"
		if t := w.tests[protocol]; len(t) == 1 && t[0].spans == nil && !t[0].not {
			switch p := t[0].value.lo; p {
			case protoTCP, protoUDP, protoSCTP:
				l4 = protocolName(uint8(p))
			}
		}
		header = []known{{0, 2, sourcePort, l4 + " sport"}, {2, 2, destPort, l4 + " dport"}}
		if l4 == "tcp" {
			header = append(header, known{13, 1, tcpFlags, "tcp flags"})
		}
	case base == unix.NFT_PAYLOAD_LL_HEADER:
		header = []known{{6, 6, etherSource, "ether saddr"}}
	}
	for at, end := int(offset), int(offset+size); at < end; {
		p := part{opaque, 0, 1}
		for _, k := range header {
			if at >= k.at && at < k.at+k.bytes {
				p = part{k.field, at - k.at, min(end, k.at+k.bytes) - at}
				if int(size) <= k.bytes {
					v.text = k.name
				}
			}
		}
		if n := len(v.parts); n > 0 && p.field == opaque && v.parts[n-1].field == opaque {
			v.parts[n-1].bytes++
		} else {
			v.parts = append(v.parts, p)
		}
		at += p.bytes
	}
	return v
}
