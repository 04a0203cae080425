package fwmark

import (
	"math"
	"strconv"
	"strings"
)

// number reads the unsigned number that a text starts with, in C's notation
// (leading 0x: base 16, leading 0: base 8), and returns what follows it.
func number(s string, limit uint64) (v uint64, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	s = strings.TrimPrefix(s, "+")
	base, digits := uint64(10), 0
	if len(s) > 2 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X') && digit(s[2]) < 16 {
		base, s = 16, s[2:]
	} else if len(s) > 0 && s[0] == '0' {
		base = 8
	}
	for ; digits < len(s) && digit(s[digits]) < base; digits++ {
		if v = v*base + digit(s[digits]); v > math.MaxUint32 {
			return 0, "", false
		}
	}
	return v, s[digits:], digits > 0 && v <= limit
}

func digit(c byte) uint64 {
	switch {
	case c >= '0' && c <= '9':
		return uint64(c - '0')
	case c >= 'a' && c <= 'f':
		return uint64(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return uint64(c-'A') + 10
	}
	return 99
}

// whole reads a text that is nothing but a number.
func whole(s string, limit uint64) (uint64, bool) {
	v, rest, ok := number(s, limit)
	return v, ok && rest == ""
}

// marks reads VALUE[/MASK]; the mask is all ones if not given. module and
// option are for the error.
func marks(module, option, s string) (value, mask uint32, err error) {
	v, rest, ok := number(s, math.MaxUint32)
	m := uint64(math.MaxUint32)
	if ok && strings.HasPrefix(rest, "/") {
		m, rest, ok = number(rest[1:], math.MaxUint32)
	}
	if !ok {
		return 0, 0, wrong(module + ": bad integer value for option \"--" + option + "\", or out of range.")
	}
	if rest != "" {
		return 0, 0, wrong(module + ": trailing garbage after value for option \"--" + option + "\".")
	}
	return uint32(v), uint32(m), nil
}

func hex(v uint32) string { return "0x" + strconv.FormatUint(uint64(v), 16) }
