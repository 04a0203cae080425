package conformance

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// maxNumber is the highest number of a packet: numbers travel in the IPv4
// identification field.
const maxNumber = 1<<16 - 1

// maxSize bounds the payload, so that a packet stays below 64 kB.
const maxSize = 65000

// Send is a batch of packets.
type Send struct {
	Packet        // the first of them, not yet numbered
	Count  int    // how many
	Vary   string // "port" or "ip": what goes up by one
}

// Packet is one packet that a client sends.
type Packet struct {
	Number   int    // within the scenario, from 1
	Proto    string // tcp, udp, sctp, icmp, esp or ah
	Src, Dst netip.AddrPort
	Flags    string // TCP flags or SCTP chunk types, as written
	TTL      int
	Size     int // bytes of payload, at least 4

	// Error makes it an ICMP error from the client, of this name, about an
	// answer to the packet that the rest describes.
	Error string
	// Bad is what is damaged: "" for nothing, "header" or "transport" for the
	// checksum there.
	Bad string
	// Call is the Call-ID of the SIP message that a UDP packet carries then.
	Call string
	// Fragments is in how many it comes, 0 for none; Reverse has the last of
	// them come first.
	Fragments int
	Reverse   bool
	// First is how many bytes the first of them has, 0 for as many as the others.
	First int
	// Options are the options in its IPv4 header, and Extensions the names of its IPv6
	// extension headers.
	Options    []byte
	Extensions []string

	options string // those that the answers repeat
}

// String is the packet as answers show it.
func (p Packet) String() string {
	s := fmt.Sprintf("#%d %s %v > %v", p.Number, p.Proto, p.Src, p.Dst)
	if p.Flags != "" {
		s += " " + p.Flags
	}
	return s + p.options
}

// protocols says for each protocol what its flags must be.
var protocols = map[string]func(flags string) error{
	"tcp":  func(f string) error { _, err := tcpFlags(f); return err },
	"sctp": func(f string) error { _, err := sctpChunks(f); return err },
	"udp":  noFlags,
	"icmp": noFlags,
	"esp":  noFlags,
	"ah":   noFlags,
}

func noFlags(f string) error {
	if f != "" {
		return fmt.Errorf("unexpected %q: only tcp and sctp have flags", f)
	}
	return nil
}

// option sets one KEY=VALUE of a send; shown options are repeated in answers.
type option struct {
	set   func(*Send, string) error
	shown bool
}

var options = map[string]option{
	"n":     {set: func(s *Send, v string) (err error) { s.Count, err = number(v, 1, maxNumber); return err }},
	"ttl":   {set: func(s *Send, v string) (err error) { s.TTL, err = number(v, 1, 255); return err }, shown: true},
	"size":  {set: func(s *Send, v string) (err error) { s.Size, err = number(v, 4, maxSize); return err }, shown: true},
	"frag":  {set: func(s *Send, v string) (err error) { s.Fragments, err = number(v, 2, 8); return err }, shown: true},
	"first": {set: func(s *Send, v string) (err error) { s.First, err = number(v, 8, 1024); return err }, shown: true},
	"opts":  {set: func(s *Send, v string) (err error) { s.Options, err = parseOptions(v); return err }, shown: true},
	"ext": {set: func(s *Send, v string) (err error) {
		s.Extensions, err = parseExtensions(v)
		return err
	}, shown: true},
	"order": {set: func(s *Send, v string) error { s.Reverse = true; return oneOf(v, "reverse") }, shown: true},
	"bad":   {set: func(s *Send, v string) error { s.Bad = v; return oneOf(v, "header", "transport") }, shown: true},
	"call":  {set: func(s *Send, v string) error { s.Call = v; return plainWord(v) }, shown: true},
	"error": {set: func(s *Send, v string) error {
		s.Error = v
		return oneOf(v, slices.Sorted(maps.Keys(icmpErrors))...)
	}, shown: true},
	"vary": {set: func(s *Send, v string) error {
		s.Vary = v
		return oneOf(v, "port", "ip")
	}},
}

func oneOf(v string, values ...string) error {
	if !slices.Contains(values, v) {
		return fmt.Errorf("%q: want %s", v, strings.Join(values, " or "))
	}
	return nil
}

func plainWord(v string) error {
	if len(v) == 0 || len(v) > 40 || strings.ContainsFunc(v,
		func(r rune) bool { return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9') }) {
		return fmt.Errorf("%q: want 1 to 40 small letters and digits", v)
	}
	return nil
}

func number(v string, low, high int) (int, error) {
	n, err := strconv.Atoi(v)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("%q: want a number from %d to %d", v, low, high)
	}
	return n, nil
}

func parseSend(words []string) (*Send, error) {
	if len(words) < 4 || words[2] != ">" {
		return nil, errors.New("want PROTO SRC:PORT > DST:PORT [FLAGS] [KEY=VALUE …]")
	}
	s := &Send{Count: 1, Vary: "port", Packet: Packet{Proto: words[0], TTL: 64, Size: 4}}
	check, ok := protocols[s.Proto]
	if !ok {
		return nil, fmt.Errorf("no such protocol %q: there are tcp, udp, sctp, icmp, esp, ah", s.Proto)
	}
	var err error
	if s.Src, err = netip.ParseAddrPort(words[1]); err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	if s.Dst, err = netip.ParseAddrPort(words[3]); err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	if s.Src.Addr().Is4() != s.Dst.Addr().Is4() {
		return nil, errors.New("source and destination must be of one family")
	}
	if s.Src.Addr().Zone() != "" || s.Dst.Addr().Zone() != "" {
		return nil, errors.New("addresses with zones are not supported")
	}
	rest := words[4:]
	if len(rest) > 0 && !strings.Contains(rest[0], "=") {
		s.Flags, rest = rest[0], rest[1:]
	}
	if err := check(s.Flags); err != nil {
		return nil, err
	}
	for _, w := range rest {
		if err := s.option(w); err != nil {
			return nil, err
		}
	}
	return s, errors.Join(s.fits(), s.sensible())
}

// sensible refuses what does not go together.
func (s *Send) sensible() error {
	switch {
	case s.Call != "" && s.Proto != "udp":
		return errors.New("call= wants udp")
	case s.Error != "" && (s.Proto == "icmp" || s.Fragments > 0 || s.Bad != ""):
		return errors.New("error= wants tcp, udp or sctp, whole and undamaged")
	case s.Bad == "header" && s.Src.Addr().Is6():
		return errors.New("bad=header wants IPv4: an IPv6 header has no checksum")
	case len(s.Options) > 0 && s.Src.Addr().Is6() || len(s.Extensions) > 0 && !s.Src.Addr().Is6():
		return errors.New("opts= wants IPv4, ext= IPv6")
	case len(s.Extensions) > 0 && (s.Bad != "" || s.Fragments > 0 || s.Error != ""):
		return errors.New("ext= wants a whole and undamaged packet, and no error=")
	case s.First > 0 && (s.Fragments == 0 || s.First%8 != 0 || s.First >= s.Size):
		return errors.New("first= wants frag=, and a multiple of 8 below size=")
	case s.Fragments > 0 && s.Size < 16*s.Fragments:
		return fmt.Errorf("frag=%d wants size=%d or more", s.Fragments, 16*s.Fragments)
	}
	return nil
}

func (s *Send) option(word string) error {
	key, value, ok := strings.Cut(word, "=")
	opt, known := options[key]
	if !ok || !known {
		return fmt.Errorf("no such option %q: there are n=, vary=, ttl=, size=, frag=, first=, order=, opts=, ext=, bad=, "+
			"call=, error=", word)
	}
	if err := opt.set(s, value); err != nil {
		return fmt.Errorf("%s=%w", key, err)
	}
	if opt.shown {
		s.options += " " + word
	}
	return nil
}

// fits refuses a batch that would leave the range of ports or addresses.
func (s *Send) fits() error {
	if s.Vary == "port" && int(s.Src.Port())+s.Count-1 > 65535 {
		return fmt.Errorf("source ports end at 65535: %d and n=%d are too many", s.Src.Port(), s.Count)
	}
	if s.Vary == "ip" && !s.source(s.Count-1).IsValid() {
		return fmt.Errorf("addresses end before %v and n=%d", s.Src.Addr(), s.Count)
	}
	return nil
}

// source is the address i after the first.
func (s *Send) source(i int) netip.Addr {
	b := slices.Clone(s.Src.Addr().AsSlice())
	for at, carry := len(b)-1, i; carry > 0; at-- {
		if at < 0 {
			return netip.Addr{}
		}
		carry += int(b[at])
		b[at] = byte(carry)
		carry >>= 8
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Packets are the packets of the batch; the first gets the number first.
func (s *Send) Packets(first int) []Packet {
	packets := make([]Packet, s.Count)
	for i := range packets {
		p := s.Packet
		p.Number = first + i
		if s.Vary == "ip" {
			p.Src = netip.AddrPortFrom(s.source(i), p.Src.Port())
		} else {
			p.Src = netip.AddrPortFrom(p.Src.Addr(), p.Src.Port()+uint16(i))
		}
		packets[i] = p
	}
	return packets
}
