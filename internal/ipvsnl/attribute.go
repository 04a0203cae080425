package ipvsnl

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// kind is what an attribute holds (include/net/netlink.h, NLA_*).
type kind uint8

const (
	none kind = iota // not known: whatever it holds
	u8
	u16
	u32
	nested
	bytesUpTo
	text // ends with a zero byte
)

// rule is what the kernel asks of an attribute; max is a text's or a binary's length.
type rule struct {
	kind kind
	max  int
}

const (
	attrHeader = 4
	// typeMask leaves an attribute's flags away (NLA_TYPE_MASK).
	typeMask = 0x3fff
)

// parse finds a message's attributes by their types, as the kernel does where it is lenient
// (lib/nlattr.c, __nla_validate_parse with NL_VALIDATE_LIBERAL): types that it does not know
// and what follows the last whole attribute are passed over, and of two the second counts. One
// that is not there is nil. The error is an errno.
func parse(b []byte, rules []rule) (found [][]byte, err error) {
	found = make([][]byte, len(rules))
	for len(b) >= attrHeader {
		length, typ := int(order.Uint16(b)), int(order.Uint16(b[2:]))&typeMask
		if length < attrHeader || length > len(b) {
			break
		}
		if typ > 0 && typ < len(rules) {
			value := b[attrHeader:length]
			if err := rules[typ].check(value); err != nil {
				return nil, err
			}
			found[typ] = value
		}
		b = b[min(align(length), len(b)):]
	}
	return found, nil
}

// check is validate_nla.
func (r rule) check(value []byte) error {
	n, least := len(value), 0
	switch r.kind {
	case u8:
		least = 1
	case u16:
		least = 2
	case u32:
		least = 4
	case nested:
		if n > 0 {
			least = attrHeader
		}
	case bytesUpTo:
		if n > r.max {
			return unix.ERANGE
		}
	case text:
		end := bytes.IndexByte(value[:min(n, r.max+1)], 0)
		if end < 0 {
			return unix.EINVAL
		}
		if n -= 1; value[n] != 0 {
			n++
		}
		if n > r.max {
			return unix.ERANGE
		}
	}
	if n < least {
		return unix.ERANGE
	}
	return nil
}

// order is this machine's byte order, which all is in but for ports and IPv4's netmask.
var order = binary.NativeEndian

// align rounds up to where the next message, or attribute, begins.
func align(n int) int { return (n + 3) &^ 3 }

// textOf is the text before the first zero byte.
func textOf(value []byte) string {
	before, _, _ := bytes.Cut(value, []byte{0})
	return string(before)
}
