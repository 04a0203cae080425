package hostmark

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/ulvs/ulvs/fwmark"
)

// This file reads the modules of iptables that rules carry as binary data
// (include/uapi/linux/netfilter/xt_*.h), in iptables-nft and legacy alike.
// Data may be longer than the structure: it is aligned.

var native = binary.NativeEndian

// module adds the condition of an iptables match.
func (c *condition) module(name string, revision uint8, data []byte) {
	m, ok := decodeMatch(name, revision, data)
	if !ok {
		m, ok = decodeAddresses(name, revision, data, c.ipv6)
	}
	if !ok {
		c.unknown("-m " + name + " ...")
		return
	}
	c.slots = append(c.slots, slot{match: m})
}

func decodeMatch(name string, revision uint8, b []byte) (m fwmark.Match, ok bool) {
	u16 := func(at int) uint16 { return native.Uint16(b[at:]) }
	portRange := func(at int, not bool) fwmark.PortRange {
		r := fwmark.PortRange{First: u16(at), Last: u16(at + 2), Not: not}
		if r.Given = not || r.First != 0 || r.Last != 65535; !r.Given {
			return fwmark.PortRange{}
		}
		return r
	}
	const notSource, notDest = 1, 2
	switch {
	case name == "comment" && revision == 0 && len(b) >= 256:
		comment, _, _ := bytes.Cut(b[:256], []byte{0})
		return fwmark.Match{Kind: fwmark.MatchComment, Comment: string(comment)}, true

	case name == "tcp" && revision == 0 && len(b) >= 12:
		// Source and destination, --tcp-option, mask and flags of --tcp-flags.
		const notFlags = 4
		not := b[11]
		ok = b[8] == 0 && not&^(notSource|notDest|notFlags) == 0 && (b[9] != 0 || b[10] == 0)
		return fwmark.Match{Kind: fwmark.MatchPorts, Source: portRange(0, not&notSource != 0),
			Dest:  portRange(4, not&notDest != 0),
			Flags: fwmark.TCPFlags{Mask: b[9], Set: b[10], Not: not&notFlags != 0}}, ok

	case name == "udp" && revision == 0 && len(b) >= 9:
		not := b[8]
		return fwmark.Match{Kind: fwmark.MatchPorts, Source: portRange(0, not&notSource != 0),
			Dest: portRange(4, not&notDest != 0)}, not&^(notSource|notDest) == 0

	case name == "sctp" && revision == 0 && len(b) >= 292:
		// Destination, source, chunks; flags say which of them count.
		const sources, dests = 1, 2
		flags, not := native.Uint32(b[284:]), native.Uint32(b[288:])
		m = fwmark.Match{Kind: fwmark.MatchPorts}
		if flags&dests != 0 {
			m.Dest = fwmark.PortRange{First: u16(0), Last: u16(2), Given: true, Not: not&dests != 0}
		}
		if flags&sources != 0 {
			m.Source = fwmark.PortRange{First: u16(4), Last: u16(6), Given: true, Not: not&sources != 0}
		}
		return m, flags&^(sources|dests) == 0 && not&^(sources|dests) == 0

	case name == "multiport" && revision == 1 && len(b) >= 48:
		// Side, count, 15 ports, 15 flags that say: up to the next, not.
		m = fwmark.Match{Kind: fwmark.MatchMultiport, Side: fwmark.Side(b[0]) + fwmark.SourceSide, Not: b[47] != 0}
		count := int(b[1])
		if b[0] > 2 || count > 15 {
			return m, false
		}
		for i := 0; i < count; i++ {
			r := fwmark.PortRange{First: u16(2 + 2*i), Given: true}
			r.Last = r.First
			if b[32+i] != 0 {
				if i++; i == count {
					return m, false
				}
				r.Last = u16(2 + 2*i)
			}
			m.Ports = append(m.Ports, r)
		}
		return m, count > 0

	case name == "mark" && revision == 1 && len(b) >= 9:
		return fwmark.Match{Kind: fwmark.MatchMark, Value: native.Uint32(b), Mask: native.Uint32(b[4:]),
			Not: b[8] != 0}, true
	}
	return decodeMore(name, revision, b)
}

// decodeMore reads the modules that look at other things than ports and marks.
func decodeMore(name string, revision uint8, b []byte) (m fwmark.Match, ok bool) {
	flag := func(b []byte) bool { return native.Uint32(b) != 0 }
	switch {
	case name == "mac" && revision == 0 && len(b) >= 12:
		return fwmark.Match{Kind: fwmark.MatchMAC, MAC: [6]byte(b), Not: flag(b[8:])}, true
	case (name == "icmp" || name == "icmp6") && revision == 0 && len(b) >= 4:
		return fwmark.Match{Kind: fwmark.MatchICMP, Type: b[0], FirstCode: b[1], LastCode: b[2], Not: b[3] != 0}, true
	case name == "tos" && revision == 1 && len(b) >= 3: // mask, value
		return fwmark.Match{Kind: fwmark.MatchTOS, Mask: uint32(b[0]), Value: uint32(b[1]), Not: b[2] != 0}, true
	case name == "dscp" && revision == 0 && len(b) >= 2:
		return fwmark.Match{Kind: fwmark.MatchDSCP, Value: uint32(b[0]), Not: b[1] != 0}, b[0] < 64
	}
	return m, false
}

// decodeAddresses reads the modules that look at addresses.
func decodeAddresses(name string, revision uint8, b []byte, ipv6 bool) (m fwmark.Match, ok bool) {
	switch {
	case name == "iprange" && revision == 1 && len(b) >= 65:
		const source, dest, notSource, notDest = 0x01, 0x02, 0x10, 0x20
		m.Kind = fwmark.MatchIPRange
		addr := func(at int) netip.Addr {
			if ipv6 {
				return netip.AddrFrom16([16]byte(b[at:]))
			}
			return netip.AddrFrom4([4]byte(b[at:]))
		}
		if b[64]&source != 0 {
			m.SourceRange = fwmark.AddrRange{First: addr(0), Last: addr(16), Not: b[64]&notSource != 0}
		}
		if b[64]&dest != 0 {
			m.DestRange = fwmark.AddrRange{First: addr(32), Last: addr(48), Not: b[64]&notDest != 0}
		}
		return m, b[64]&(source|dest) != 0
	case name == "addrtype" && revision == 1 && len(b) >= 8:
		const notSource, notDest, limited = 1, 2, 12
		flags := native.Uint32(b[4:])
		m.Kind = fwmark.MatchAddrType
		m.SourceTypes = fwmark.AddrTypes{Set: native.Uint16(b), Not: flags&notSource != 0}
		m.DestTypes = fwmark.AddrTypes{Set: native.Uint16(b[2:]), Not: flags&notDest != 0}
		return m, flags&limited == 0
	}
	return m, false
}

// harmless are targets that neither set a mark nor end the way through the
// chain, whatever their data.
var harmless = map[string]bool{
	"LOG": true, "NFLOG": true, "ULOG": true, "AUDIT": true, "TRACE": true, "LED": true, "IDLETIMER": true,
	"TOS": true, "DSCP": true, "TTL": true, "HL": true, "ECN": true, "TCPMSS": true, "TCPOPTSTRIP": true,
	"CLASSIFY": true, "CHECKSUM": true, "TEE": true, "CT": true, "NOTRACK": true, "RATEEST": true,
	"SECMARK": true, "CONNSECMARK": true, "NFACCT": true, "ACCOUNT": true,
}

// target is what a target of iptables does.
func (w *walker) target(name string, revision uint8, b []byte) {
	switch {
	case harmless[name]:
		w.words("-j", name)
		if name == "TOS" || name == "DSCP" || name == "ECN" {
			w.effect(effect{kind: retos})
		}
	case name == "MARK" && revision == 2 && len(b) >= 8:
		value, mask := native.Uint32(b), native.Uint32(b[4:])
		w.words("-j", "MARK", "--set-xmark", fmt.Sprintf("0x%x/0x%x", value, mask))
		w.mark(value, mask)
	case name == "CONNMARK" && (revision == 1 && len(b) >= 13 || revision == 2 && len(b) >= 15):
		// Mark, mask of the connection's, of the packet's, shifts in revision
		// 2, and what to do: set, save, restore.
		const restore = 2
		if b[10+2*revision] == restore {
			w.words("-j", "CONNMARK", "--restore-mark", "--nfmask", fmt.Sprintf("0x%x", native.Uint32(b[8:])), "--ctmask", fmt.Sprintf("0x%x", native.Uint32(b[4:])))
			w.effect(effect{kind: marksUnknown, mask: native.Uint32(b[8:])})
			return
		}
		w.words("-j", name, "...")
	case name == "SET" && revision <= 3 && (revision < 3 || len(b) >= 10 && native.Uint16(b[8:]) == 0xffff):
		w.words("-j", name, "...") // --map-set is not given
	case name == "NFQUEUE":
		w.words("-j", name, "...")
		w.effect(effect{kind: accepts})
	default:
		w.words("-j", name, "...")
		w.effect(effect{kind: marksUnknown, mask: ^uint32(0)})
		w.effect(effect{kind: accepts})
		w.effect(effect{kind: rewrites})
	}
}
