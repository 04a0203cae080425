package conformance

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ipOptions are IPv4 options by name, as they lie in the header: whole words. The
// addresses are those of the default network.
var ipOptions = map[string]string{
	"nop":      "01010101",
	"end":      "00ffffff",                    // rubbish behind the end
	"rr":       "07070400000000" + "00",       // record route, room for one
	"rrfull":   "0707080a090909" + "00",       // no room left
	"ts":       "440c0500" + zeros(8),         // timestamps, room for two
	"tsaddr":   "440c0501" + zeros(8),         // address and timestamp
	"tsown":    "440c0503c0a80a65" + zeros(4), // the timestamp of 192.168.10.101
	"tsother":  "440c05030a090909" + zeros(4), // that of 10.9.9.9
	"tsover":   "44040500",                    // no room: one more that had none
	"tsfull":   "440405f0",                    // that count is full
	"alert":    "94040000",
	"unknown":  "1e041234",
	"secret":   "820b" + zeros(9) + "00",
	"lsrr":     "8307040a090909" + "00", // source routes by way of 10.9.9.9
	"ssrr":     "8907040a090909" + "00",
	"lsrrdone": "8307080a090909" + "00", // at its end
	"twice":    "8307080a0909098307080a090909" + "0000",
	"short":    "01010107", // no room for a length
	"long":     "1e08" + zeros(2),
	"tiny":     "07020000",
	"pointer":  "0707030a090909" + "00",
	"cipso":    "8606" + zeros(4) + "0000",
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func zeros(n int) string { return strings.Repeat("00", n) }

// extensions are IPv6 extension headers by name, but for their first byte, the next
// header's number; and their own numbers.
var extensions = map[string]struct {
	number byte
	rest   string
}{
	"hbh":     {0, "00010400000000"},
	"dst":     {60, "00010400000000"},
	"rh":      {43, "00000000000000"}, // a routing header at its end
	"ah":      {51, "0400000000000100000001" + zeros(12)},
	"atomic":  {44, "00000000000007"},    // a fragment that is the whole
	"skip":    {0, "001e0400000000"},     // an unknown option, to be skipped,
	"drop":    {0, "005e0400000000"},     // to be dropped for,
	"problem": {0, "009e0400000000"},     // to be told of,
	"far":     {0, "00de0400000000"},     // unless to a group
	"dirty":   {0, "00010400000100"},     // padding that is none
	"over":    {0, "00010900000000"},     // an option that reaches beyond
	"alert6":  {0, "00050200000100"},     // router alert
	"badra":   {0, "00050100010000"},     // of a wrong length
	"calipso": {0, "01070c" + zeros(12)}, // of a domain that nobody knows
	"padding": {0, "01" + zeros(14)},     // more than seven bytes of it
	"own":     {60, "009e0400000000"},    // a destination option: nobody's but the server's
}

// parseOptions reads names of IPv4 options, or what they are in hexadecimal.
func parseOptions(v string) ([]byte, error) {
	var all []byte
	for name := range strings.SplitSeq(v, ",") {
		text, known := ipOptions[name]
		if digits, isHex := strings.CutPrefix(name, "0x"); isHex {
			text, known = digits, true
		}
		b, err := hex.DecodeString(text)
		if !known || err != nil {
			return nil, fmt.Errorf("%q: want 0x and hexadecimal digits, or of %v", name,
				sortedKeys(ipOptions))
		}
		all = append(all, b...)
	}
	if len(all) == 0 || len(all)%4 != 0 || len(all) > 40 {
		return nil, fmt.Errorf("%q: %d bytes of options: want whole words, 4 to 40 bytes", v, len(all))
	}
	return all, nil
}

func parseExtensions(v string) ([]string, error) {
	names := strings.Split(v, ",")
	for _, name := range names {
		if _, known := extensions[name]; !known {
			return nil, fmt.Errorf("%q: want some of %v", name, sortedKeys(extensions))
		}
	}
	return names, nil
}

// withHeaders puts a packet's IPv4 options or IPv6 extension headers into its datagram.
func withHeaders(d []byte, p Packet) ([]byte, error) {
	switch {
	case len(p.Options) > 0:
		const header = 20
		d = slices.Concat(d[:header], p.Options, d[header:])
		d[0] = 0x40 | byte(header+len(p.Options))/4
		binary.BigEndian.PutUint16(d[2:], uint16(len(d)))
		d[10], d[11] = 0, 0
		binary.BigEndian.PutUint16(d[10:], checksum(d[:header+len(p.Options)]))
	case len(p.Extensions) > 0:
		const header = 40
		next := d[6]
		var chain []byte
		for _, name := range slices.Backward(p.Extensions) {
			e := extensions[name]
			rest, err := hex.DecodeString(e.rest)
			if err != nil || (1+len(rest))%4 != 0 {
				return nil, errors.New("extension header " + name + " is no whole one")
			}
			chain = slices.Concat([]byte{next}, rest, chain)
			next = e.number
		}
		d = slices.Concat(d[:header], chain, d[header:])
		d[6] = next
		binary.BigEndian.PutUint16(d[4:], uint16(len(d)-header))
	}
	return d, nil
}

// optionsOf returns the IPv4 options of a datagram, with the times in them as zeros
// but for one that stands for all that are set.
func optionsOf(d []byte) []byte {
	if d[0]>>4 != 4 {
		return nil
	}
	o := slices.Clone(d[20 : int(d[0]&15)*4])
	const timestamp, onlyTimes = 0x44, 0
	if len(o) < 12 || o[0] != timestamp {
		return o
	}
	step, at := 8, 8
	if o[3]&15 == onlyTimes {
		step, at = 4, 4
	}
	for ; at+4 <= min(len(o), int(o[1])); at += step {
		if binary.BigEndian.Uint32(o[at:]) != 0 {
			copy(o[at:], "time")
		}
	}
	return o
}
