package packet

import (
	"encoding/binary"
	"net/netip"
)

// Refusal says what the host's stack has against a packet's options, for which it drops
// the packet before IPVS sees it. Zero is nothing.
type Refusal uint8

const (
	Accepted Refusal = iota
	// SourceRouted: it says by which way it wants to go (net/ipv4/ip_input.c,
	// ip_rcv_options, with accept_source_route off, as it is by default).
	SourceRouted
	// BadOption: the sender is told so, by AppendParameterProblem.
	BadOption
	// SilentOption: the sender is not told.
	SilentOption
)

// IPv4 options (RFC 791, section 3.1; RFC 2113; CIPSO).
const (
	optionEnd         = 0
	optionNop         = 1
	optionRecordRoute = 7
	optionTimestamp   = 68
	optionLooseRoute  = 131
	optionCIPSO       = 134
	optionStrictRoute = 137
	optionRouterAlert = 148
)

// What a timestamp option wants, in the lower half of its fourth byte.
const (
	timesOnly       = 0
	timesAndAddrs   = 1
	timesOfAddrs    = 3
	timesWantMask   = 15
	timesLostFactor = 16 // how many had no room: the upper half
)

// optionsSeen are the options that may be there once.
type optionsSeen struct{ route, record, times bool }

// readOptions reads the options of an IPv4 header as the host does (net/ipv4/ip_options.c,
// __ip_options_compile), but for what Record does. Each but two is
//
//	type 1, length of all 1, often: pointer to the next slot, from 1 on 1
func (p *Packet) readOptions(o []byte) {
	const ownHeader = 20
	var seen optionsSeen
	for i := 0; i < len(o); {
		switch o[i] {
		case optionEnd:
			for _, b := range o[i:] {
				p.Records = p.Records || b != optionEnd
			}
			i = len(o)
			continue
		case optionNop:
			i++
			continue
		}
		if len(o)-i < 2 || o[i+1] < 2 || int(o[i+1]) > len(o)-i {
			p.refuse(ownHeader + i)
			return
		}
		option := o[i : i+int(o[i+1])]
		if at := p.readOption(option, &seen); at >= 0 {
			p.refuse(ownHeader + i + at)
			if seen.route {
				p.Refused = SourceRouted // the kernel's answer goes by that route
			}
			return
		}
		i += len(option)
	}
	if seen.route {
		p.Refused = SourceRouted
	}
}

func (p *Packet) refuse(pointer int) {
	p.Refused, p.Problem, p.Pointer = BadOption, 0, uint16(pointer)
}

// readOption returns where in an option the fault is, or -1. A security label's domain is
// one that nobody knows: the host's labels are not looked at (cipso_v4_validate).
func (p *Packet) readOption(o []byte, seen *optionsSeen) int {
	once := func(flag *bool) bool {
		was := *flag
		*flag = true
		return was
	}
	switch o[0] {
	case optionLooseRoute, optionStrictRoute:
		switch {
		case len(o) < 3:
			return 1
		case o[2] < 4:
			return 2
		case once(&seen.route):
			return 0
		}
	case optionRecordRoute:
		switch {
		case once(&seen.record):
			return 0
		case len(o) < 3:
			return 1
		case o[2] < 4, int(o[2]) <= len(o) && int(o[2])+3 > len(o):
			return 2
		}
		p.Records = true
	case optionTimestamp:
		if once(&seen.times) {
			return 0
		}
		p.Records = true
		return timestampFault(o)
	case optionRouterAlert:
		if len(o) < 4 {
			return 1
		}
	case optionCIPSO:
		if len(o) < 8 {
			return 1
		}
		return 2
	}
	return -1
}

func timestampFault(o []byte) int {
	if len(o) < 4 {
		return 1
	}
	at, want := int(o[2]), o[3]&timesWantMask
	addressed := want == timesAndAddrs || want == timesOfAddrs
	switch {
	case at < 5, at <= len(o) && at+3 > len(o), at <= len(o) && addressed && at+7 > len(o):
		return 2
	case at > len(o) && want != timesOfAddrs && o[3]/timesLostFactor == 15:
		return 3
	}
	return -1
}

// Record writes into the options of an IPv4 packet what a host that takes it writes there:
// the address that it was sent to, and the time of day in milliseconds of UTC, where they
// are asked for; behind the end of the options, zeros (__ip_options_compile). own reports
// addresses of the host. It is for packets with Records, and keeps the header's checksum
// right.
func Record(frame []byte, p *Packet, timeOfDay uint32, own func(netip.Addr) bool) {
	const header = 20
	h := frame[p.L3:p.L4]
	if p.Is6 || len(h) <= header {
		return
	}
	addr := [4]byte(h[16:20])
	for o := h[header:]; len(o) > 0; {
		if o[0] == optionEnd {
			clear(o)
			break
		}
		if o[0] == optionNop {
			o = o[1:]
			continue
		}
		option := o[:o[1]]
		switch o[0] {
		case optionRecordRoute:
			if at := int(option[2]); at <= len(option) {
				copy(option[at-1:], addr[:])
				option[2] += 4
			}
		case optionTimestamp:
			recordTime(option, addr, timeOfDay, own)
		}
		o = o[len(option):]
	}
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], Checksum(h))
}

func recordTime(o []byte, addr [4]byte, timeOfDay uint32, own func(netip.Addr) bool) {
	at, want := int(o[2]), o[3]&timesWantMask
	if at > len(o) {
		if want != timesOfAddrs {
			o[3] += timesLostFactor
		}
		return
	}
	slot := o[at-1:]
	switch want {
	case timesOnly:
		binary.BigEndian.PutUint32(slot, timeOfDay)
		o[2] += 4
	case timesAndAddrs:
		copy(slot, addr[:])
		binary.BigEndian.PutUint32(slot[4:], timeOfDay)
		o[2] += 8
	case timesOfAddrs:
		if next := netip.AddrFrom4([4]byte(slot)); next == netip.AddrFrom4(addr) || own(next) {
			binary.BigEndian.PutUint32(slot[4:], timeOfDay)
			o[2] += 8
		}
	}
}

// IPv6 hop-by-hop options (RFC 8200, section 4.2; RFC 2711; RFC 9486; RFC 2675; RFC 5570).
const (
	hopPad1        = 0
	hopPadN        = 1
	hopRouterAlert = 5
	hopCALIPSO     = 7
	hopIOAM        = 0x31
	hopJumbo       = 0xc2

	// maxHopOptions is net.ipv6.max_hbh_opts_number, as it is by default.
	maxHopOptions = 8
	maxPadding    = 7
)

// readHopOptions reads the first hop-by-hop header of a packet as the host does
// (net/ipv6/exthdrs.c, ip6_parse_tlv, ipv6_parse_hopopts). h is the packet, whose first
// extension header it is, as it is there.
func (p *Packet) readHopOptions(h []byte) {
	const ownHeader = 40
	end := ownHeader + 8 + int(h[ownHeader+1])*8
	padding, options := 0, 0
	for at := ownHeader + 2; at < end; {
		if h[at] == hopPad1 {
			if padding++; padding > maxPadding {
				p.Refused = SilentOption
				return
			}
			at++
			continue
		}
		if end-at < 2 || int(h[at+1])+2 > end-at {
			p.Refused = SilentOption
			return
		}
		option := h[at : at+2+int(h[at+1])]
		if option[0] == hopPadN {
			padding += len(option)
			dirty := false
			for _, b := range option[2:] {
				dirty = dirty || b != 0
			}
			if dirty || padding > maxPadding {
				p.Refused = SilentOption
				return
			}
		} else {
			padding = 0
			if options++; options > maxHopOptions {
				p.Refused = SilentOption
				return
			}
			if p.readHopOption(option, at); p.Refused != Accepted {
				return
			}
		}
		at += len(option)
	}
}

// readHopOption: what is not known says by the first two bits of its type what is to be
// done about that (ip6_tlvopt_unknown). Security labels and traces as with IPv4's.
func (p *Packet) readHopOption(o []byte, at int) {
	const unknownOption = 2
	size := len(o) - 2
	silent := false
	switch o[0] {
	case hopRouterAlert:
		silent = size != 2
	case hopIOAM:
		silent = at&3 != 0
	case hopCALIPSO:
		silent = true
	case hopJumbo:
		if silent = size != 4 || at&3 != 2; silent {
			break
		}
		// The packet has a length of its own, or it would have ended before this.
		p.Refused, p.Problem, p.Pointer = BadOption, 0, uint16(at)
		if binary.BigEndian.Uint32(o[2:]) <= maxDatagram {
			p.Pointer += 2
		}
	default:
		switch o[0] >> 6 {
		case 1:
			silent = true
		case 2, 3:
			p.Refused, p.Problem, p.Pointer = BadOption, unknownOption, uint16(at)
		}
	}
	if silent {
		p.Refused = SilentOption
	}
}
