package fwmark

import (
	"net/netip"
	"strconv"
	"strings"
)

// networks reads the argument of -s or -d: one address with an optional mask,
// or several with commas between.
func networks(arg string, not, ipv6 bool) ([]Network, error) {
	list := strings.Split(arg, ",")
	if not && len(list) > 1 {
		return nil, wrong("! not allowed with multiple source or destination IP addresses")
	}
	nets := make([]Network, len(list))
	for i, s := range list {
		n, err := network(strings.TrimLeft(s, " "), ipv6)
		if err != nil {
			return nil, err
		}
		if n.Not = not; n.Any() {
			if not {
				return nil, wrong("`! " + s + "' would never match")
			}
			n = Network{}
		}
		nets[i] = n
	}
	return nets, nil
}

func network(s string, ipv6 bool) (Network, error) {
	host, bits := s, ""
	slash := strings.LastIndexByte(s, '/')
	if slash >= 0 {
		host, bits = s[:slash], s[slash+1:]
	}
	width := 32
	parse, parseMask := address4, mask4
	if ipv6 {
		width, parse, parseMask = 128, address6, address6
	}
	mask := prefix(width, width)
	if slash >= 0 {
		if n, ok := whole(bits, uint64(width)); ok {
			mask = prefix(int(n), width)
		} else if mask, ok = parseMask(bits); !ok {
			return Network{}, wrong("invalid mask `" + bits + "' specified")
		}
	}
	addr, ok := parse(host)
	if !ok {
		text := "host/network `" + host + "' not found"
		if named(host) {
			text += " (ulvs does not resolve host names: give the address)"
		}
		return Network{}, wrong(text)
	}
	if mask.IsUnspecified() {
		return Network{}, nil
	}
	return Network{Addr: masked(addr, mask), Mask: mask}, nil
}

// named tells a host's name from a mistyped address.
func named(s string) bool {
	return !strings.Contains(s, ":") && strings.ContainsFunc(s, func(c rune) bool {
		return c|0x20 >= 'a' && c|0x20 <= 'z'
	})
}

// address4 reads an IPv4 address: one to four numbers in C's notation. Missing
// ones are zeros at the end; only if that fails the last number counts for
// all that is missing, as in 10.65535 or 0x0a000001, because iptables asks the
// resolver then (libxtables, xtables_ipparse_any).
func address4(s string) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var b [4]byte
	for i, p := range parts {
		last := i == len(parts)-1
		limit := uint64(255)
		if last {
			limit = 1<<(8*(4-i)) - 1
		}
		if p == "" || digit(p[0]) > 9 {
			return netip.Addr{}, false
		}
		v, ok := whole(p, limit)
		if !ok {
			return netip.Addr{}, false
		}
		if v <= 255 {
			b[i] = byte(v)
			continue
		}
		for j := 3; j >= i; j-- {
			b[j] = byte(v)
			v >>= 8
		}
	}
	return netip.AddrFrom4(b), true
}

// mask4 reads a dotted mask: four numbers.
func mask4(s string) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) != 4 {
		return netip.Addr{}, false
	}
	var b [4]byte
	for i, p := range parts {
		v, ok := whole(p, 255)
		if !ok {
			return netip.Addr{}, false
		}
		b[i] = byte(v)
	}
	return netip.AddrFrom4(b), true
}

func address6(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a, err == nil && a.Is6() && a.Zone() == ""
}

// prefix is the mask of a prefix, width bits wide.
func prefix(bits, width int) netip.Addr {
	var b [16]byte
	for i := range bits {
		b[i/8] |= 0x80 >> (i % 8)
	}
	if width == 32 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16(b)
}

func masked(a, mask netip.Addr) netip.Addr {
	b, m := a.AsSlice(), mask.AsSlice()
	for i := range b {
		b[i] &= m[i]
	}
	a, _ = netip.AddrFromSlice(b)
	return a
}

// prefixBits is the length of a contiguous mask.
func prefixBits(mask netip.Addr) (int, bool) {
	n := 0
	for n < mask.BitLen() && mask.AsSlice()[n/8]&(0x80>>(n%8)) != 0 {
		n++
	}
	return n, mask == prefix(n, mask.BitLen())
}

// String is the network as iptables-save prints it: "10.0.0.0/8",
// "10.0.0.0/255.0.255.0", "2001:db8::1/128"; "" for the zero value. Not does
// not show.
func (n Network) String() string {
	if n.Any() {
		return ""
	}
	if bits, ok := prefixBits(n.Mask); ok {
		return printed(n.Addr) + "/" + strconv.Itoa(bits)
	}
	return printed(n.Addr) + "/" + printed(n.Mask)
}

// printed is an address as inet_ntop prints it, which shows IPv4-compatible
// IPv6 addresses in dotted form, as netip does not.
func printed(a netip.Addr) string {
	if a.Is6() {
		b := a.As16()
		if [12]byte(b[:12]) == [12]byte{} && (b[12] != 0 || b[13] != 0) {
			return "::" + netip.AddrFrom4([4]byte(b[12:])).String()
		}
	}
	return a.String()
}
