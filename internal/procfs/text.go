package procfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/ulvs/ulvs"
)

// address is one as both connection files have it (%pI6 and %08X).
func address(a netip.Addr) string {
	if a.Is6() {
		return a.StringExpanded()
	}
	return fmt.Sprintf("%X", a.AsSlice())
}

// netmask is the word that the kernel keeps of a service's: an address of IPv4, the other way
// round, or the length of a prefix of IPv6, which it prints as if it were one.
func netmask(s *ulvs.ServiceStatus) uint32 {
	mask := s.Persistence.Netmask
	if !s.Is6() {
		if !mask.IsValid() {
			return 0xffffffff
		}
		b := mask.As4()
		return binary.BigEndian.Uint32(b[:])
	}
	length := uint32(128)
	if mask.IsValid() {
		length = 0
		for _, b := range mask.As16() {
			for ; b != 0; b <<= 1 {
				length++
			}
		}
	}
	raw := binary.NativeEndian.AppendUint32(nil, length)
	return binary.BigEndian.Uint32(raw)
}

// number is the first number of a text, with blanks around it, as the kernel reads it: with a sign,
// of base 16 behind 0x, and of base 8 behind 0 (proc_get_long, simple_strtoull).
func number(text string) (n int, ok bool) {
	const longest = 21
	word := strings.TrimLeft(text, " \t\n\v\f\r")
	if i := strings.IndexAny(word, " \t\n"); i >= 0 {
		word = word[:i]
	}
	digits, negative := strings.CutPrefix(word, "-")
	base := 10
	switch lower := strings.ToLower(digits); {
	case strings.HasPrefix(lower, "0x"):
		base, digits = 16, digits[2:]
	case len(digits) > 1 && digits[0] == '0':
		base = 8
	}
	size, err := strconv.ParseUint(digits, base, 32)
	n = int(size)
	if negative {
		n = -n
	}
	return n, err == nil && len(word) <= longest && int(int32(n)) == n
}

const (
	statsTitle = "   Total Incoming Outgoing         Incoming         Outgoing\n"
	ratesTitle = " Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n"
)

func counters(s ulvs.Stats) string {
	return fmt.Sprintf("%8X %8X %8X %16X %16X\n", s.Conns, s.InPkts, s.OutPkts, s.InBytes, s.OutBytes)
}

func rates(r ulvs.Rate) string {
	return fmt.Sprintf("%8X %8X %8X %16X %16X\n", r.CPS, r.InPPS, r.OutPPS, r.InBPS, r.OutBPS)
}

// stats is ip_vs_stats_show.
func stats(w io.Writer, from Source) error {
	total, err := from.Total()
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(w, statsTitle, "   Conns  Packets  Packets            Bytes            Bytes\n", counters(total.Stats), "\n",
		ratesTitle, rates(total.Rate))
	return err
}

// statsPerCPU is ip_vs_stats_percpu_show: all is in CPU 0.
func statsPerCPU(w io.Writer, from Source) error {
	total, err := from.Total()
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(w, "    ", statsTitle, "CPU    Conns  Packets  Packets            Bytes            Bytes\n",
		"  0 ", counters(total.Stats), "  ~ ", counters(total.Stats), "\n    ", ratesTitle, "    ", rates(total.Rate))
	return err
}
