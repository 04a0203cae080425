package ipvsadm

import (
	"encoding/binary"
	"math"
	"net/netip"
	"strings"
)

// parseLong reads a decimal number from the start of s as C's strtol does:
// white space, a sign, digits. It saturates; rest is what follows, and is s
// itself when there is no number.
func parseLong(s string) (n int64, rest string, overflow bool) {
	t := strings.TrimLeft(s, " \t\n\v\f\r")
	negative := false
	if t != "" && (t[0] == '-' || t[0] == '+') {
		negative = t[0] == '-'
		t = t[1:]
	}
	digits := 0
	for digits < len(t) && '0' <= t[digits] && t[digits] <= '9' {
		d := int64(t[digits] - '0')
		if n > (math.MaxInt64-d)/10 {
			overflow = true
		} else {
			n = n*10 + d
		}
		digits++
	}
	switch {
	case digits == 0:
		return 0, s, false
	case overflow && negative:
		n = math.MinInt64
	case overflow:
		n = math.MaxInt64
	case negative:
		n = -n
	}
	return n, t[digits:], overflow
}

// parseNumber reads a number that is the whole of s and within the bounds.
func parseNumber(s string, low, high int64) (int64, bool) {
	n, rest, overflow := parseLong(s)
	if rest != "" || s == "" || overflow || n < low || n > high {
		return 0, false
	}
	return n, true
}

// parseAton reads an IPv4 address in the forms that C's inet_aton takes: one to
// four parts, each decimal, octal (0…) or hexadecimal (0x…), the last filling
// what is left of the address; anything may follow after white space.
func parseAton(s string) (netip.Addr, bool) {
	var parts [4]uint64
	n := 0
	for {
		if s == "" || s[0] < '0' || s[0] > '9' {
			return netip.Addr{}, false
		}
		v, rest, ok := parseUint32(s)
		if !ok {
			return netip.Addr{}, false
		}
		parts[n] = v
		n++
		s = rest
		if s == "" || s[0] != '.' {
			break
		}
		if n == len(parts) || v > 0xff {
			return netip.Addr{}, false
		}
		s = s[1:]
	}
	if s != "" && !strings.ContainsRune(" \t\n\v\f\r", rune(s[0])) {
		return netip.Addr{}, false
	}
	last := parts[n-1]
	if last > math.MaxUint32>>(8*(n-1)) {
		return netip.Addr{}, false
	}
	var word uint64
	for i, p := range parts[:n-1] {
		word |= p << (24 - 8*i)
	}
	return addr4(uint32(word | last)), true
}

// parseUint32 reads a number from the start of s, which is a digit, in C's
// notation.
func parseUint32(s string) (v uint64, rest string, ok bool) {
	base := uint64(10)
	if s[0] == '0' {
		base = 8
		if len(s) > 2 && (s[1] == 'x' || s[1] == 'X') && digit(s[2]) < 16 {
			base, s = 16, s[2:]
		}
	}
	for s != "" && digit(s[0]) < base {
		if v = v*base + digit(s[0]); v > math.MaxUint32 {
			return 0, "", false
		}
		s = s[1:]
	}
	return v, s, true
}

// digit is the value of a digit in any base up to 16, or 16.
func digit(c byte) uint64 {
	switch {
	case '0' <= c && c <= '9':
		return uint64(c - '0')
	case 'a' <= c && c <= 'f':
		return uint64(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return uint64(c-'A') + 10
	}
	return 16
}

func addr4(word uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, word)))
}

// parsePton6 reads an IPv6 address as inet_pton does: without a zone.
func parsePton6(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a, err == nil && a.Is6() && a.Zone() == ""
}

// formatAddr writes an address as inet_ntop does, which differs from netip in
// the IPv4-compatible addresses, ::a.b.c.d.
func formatAddr(a netip.Addr) string {
	if a.Is6() && !a.Is4In6() {
		b := a.As16()
		if [12]byte(b[:12]) == [12]byte{} && b[12]|b[13] != 0 {
			return "::" + netip.AddrFrom4([4]byte(b[12:])).String()
		}
	}
	return a.WithZone("").String()
}

// prefixMask is the mask of an IPv6 prefix length, 0 to 128.
func prefixMask(bits int) netip.Addr {
	var b [16]byte
	for i := range bits {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom16(b)
}

// prefixLength is the length of a mask's leading run of ones.
func prefixLength(mask netip.Addr) int {
	n := 0
	for _, b := range mask.AsSlice() {
		for bit := byte(0x80); bit != 0; bit >>= 1 {
			if b&bit == 0 {
				return n
			}
			n++
		}
	}
	return n
}
