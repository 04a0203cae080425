package hostmark

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/fwmark"
)

func fwmarkProtocol(p uint8) fwmark.Rule { return fwmark.Rule{Protocol: p} }

// bigEndianHost: byteorder expressions change nothing here.
var bigEndianHost = native.Uint16([]byte{0, 1}) == 1

// expression carries one expression of nftables into the rule
// (net/netfilter/nft_*.c, each one's eval).
func (w *walker) expression(e expression) {
	a := e.data
	switch e.name {
	case "meta":
		w.meta(a)
	case "payload":
		v := w.payload(be32(a[unix.NFTA_PAYLOAD_BASE]), be32(a[unix.NFTA_PAYLOAD_OFFSET]),
			be32(a[unix.NFTA_PAYLOAD_LEN]))
		if a[unix.NFTA_PAYLOAD_SREG] == nil {
			w.load(a[unix.NFTA_PAYLOAD_DREG], v)
			return
		}
		w.nft(v.text, "set", w.read(a[unix.NFTA_PAYLOAD_SREG]).text)
		for _, p := range v.parts {
			switch p.field {
			case opaque, etherSource:
			case tos:
				w.effect(effect{kind: retos})
			default:
				w.effect(effect{kind: rewrites})
			}
		}
	case "immediate":
		data := fieldsOf(a[unix.NFTA_IMMEDIATE_DATA])
		if v, ok := data[unix.NFTA_DATA_VERDICT]; ok {
			w.verdict(decodeVerdict(v))
			return
		}
		b := data[unix.NFTA_DATA_VALUE]
		if len(b) == 0 {
			w.load(a[unix.NFTA_IMMEDIATE_DREG], unknownValue(16, "?"))
			return
		}
		w.load(a[unix.NFTA_IMMEDIATE_DREG], &value{known: b, size: len(b), text: fmt.Sprintf("0x%x", b)})
	case "cmp":
		w.cmp(w.read(a[unix.NFTA_CMP_SREG]), be32(a[unix.NFTA_CMP_OP]), dataOf(a[unix.NFTA_CMP_DATA]))
	case "range":
		v := w.read(a[unix.NFTA_RANGE_SREG])
		from, to := dataOf(a[unix.NFTA_RANGE_FROM_DATA]), dataOf(a[unix.NFTA_RANGE_TO_DATA])
		not := be32(a[unix.NFTA_RANGE_OP]) != unix.NFT_RANGE_EQ
		w.nft(v.text)
		if not {
			w.nft("!=")
		}
		w.nft(v.constant(from) + "-" + v.constant(to))
		w.between(v, from, to, not)
	case "bitwise":
		w.bitwise(a)
	case "byteorder":
		w.byteorder(a)
	case "lookup":
		w.lookup(a)
	case "match":
		name := text(a[unix.NFTA_MATCH_NAME])
		w.nft(fmt.Sprintf("xt match %q", name))
		w.module(name, uint8(be32(a[unix.NFTA_MATCH_REV])), a[unix.NFTA_MATCH_INFO])
	case "target":
		name := text(a[unix.NFTA_TARGET_NAME])
		w.nft(fmt.Sprintf("xt target %q", name))
		w.target(name, uint8(be32(a[unix.NFTA_TARGET_REV])), a[unix.NFTA_TARGET_INFO])
	default:
		w.other(e.name, a)
	}
}

// other are expressions of which only the kind matters.
func (w *walker) other(name string, a map[uint16][]byte) {
	switch name {
	case "counter", "log", "last": // they only fill the line
		return
	case "ct", "fib", "rt", "socket", "numgen", "hash", "osf", "xfrm", "tunnel", "inner", "exthdr": // told by what is done with the register
	default:
		w.nft(name)
	}
	switch name {
	case "notrack", "dup":
	case "objref":
		const counter, helper, tunnel, expectation = 1, 3, 6, 9 // NFT_OBJECT_*
		t := be32(a[unix.NFTA_OBJREF_IMM_TYPE])
		if t != counter && t != helper && (t < tunnel || t > expectation) {
			w.unknown("-m objref ...")
		}
	case "ct":
		const dreg = unix.NFTA_CT_DREG
		key := be32(a[unix.NFTA_CT_KEY])
		name := "ct " + map[uint32]string{0: "state", 1: "direction", 2: "status", 3: "mark", 5: "expiration", 6: "helper", 14: "label", 18: "zone"}[key]
		if name == "ct " {
			name = fmt.Sprintf("ct key %d", key)
		}
		if a[dreg] == nil {
			w.nft(name, "set", w.read(a[unix.NFTA_CT_SREG]).text)
			return
		}
		w.unknown("-m conntrack ...")
		w.load(a[dreg], unknownValue(16, name))
	case "exthdr":
		if a[unix.NFTA_EXTHDR_SREG] == nil {
			w.unknown("-m exthdr ...")
			w.load(a[unix.NFTA_EXTHDR_DREG], unknownValue(16, name))
		}
	case "fib", "rt", "socket", "numgen", "hash", "osf", "xfrm", "tunnel", "inner":
		// The destination register's attribute is 1 in all but hash.
		w.unknown("-m " + name + " ...")
		reg := a[1]
		if name == "hash" {
			reg = a[2]
		}
		w.load(reg, unknownValue(64, name))
	case "limit", "quota", "connlimit", "dynset", "tproxy":
		w.unknown("-m " + name + " ...")
	case "reject", "synproxy":
		w.effect(effect{kind: drops})
	case "queue", "fwd", "nat", "masq", "redir":
		w.effect(effect{kind: accepts})
	default:
		w.unknown("-m " + name + " ...")
		w.effect(effect{kind: marksUnknown, mask: ^uint32(0)})
		w.effect(effect{kind: accepts})
		w.effect(effect{kind: rewrites})
	}
}

func dataOf(b []byte) []byte { return fieldsOf(b)[unix.NFTA_DATA_VALUE] }

func (w *walker) meta(a map[uint16][]byte) {
	key := be32(a[unix.NFTA_META_KEY])
	if s := a[unix.NFTA_META_SREG]; s != nil {
		v := w.read(s)
		if key != unix.NFT_META_MARK {
			w.nft(fmt.Sprintf("meta key %d set %s", key, v.text))
			return
		}
		w.setMark(v)
		return
	}
	var v *value
	switch key {
	case unix.NFT_META_L4PROTO:
		v = fieldValue(protocol, 1, "meta l4proto")
	case unix.NFT_META_NFPROTO:
		v = &value{known: []byte{unix.NFPROTO_IPV4}, size: 1, text: "meta nfproto"}
		if w.ipv6 {
			v.known = []byte{unix.NFPROTO_IPV6}
		}
	case unix.NFT_META_PROTOCOL:
		v = &value{known: []byte{0x08, 0x00}, size: 2, text: "meta protocol"}
		if w.ipv6 {
			v.known = []byte{0x86, 0xdd}
		}
	case unix.NFT_META_IIFTYPE: // Ethernet: ulvs takes packets from nothing else
		v = &value{known: native.AppendUint16(nil, unix.ARPHRD_ETHER), size: 2, text: "meta iiftype"}
	case unix.NFT_META_MARK:
		v = fieldValue(mark, 4, "meta mark")
		v.epoch = w.marked
	case unix.NFT_META_IIFNAME:
		v = fieldValue(input, 16, "iifname")
	case unix.NFT_META_IIF:
		v = fieldValue(index, 4, "iif")
	default:
		name, ok := map[uint32]string{
			unix.NFT_META_LEN: "length", unix.NFT_META_PRIORITY: "priority", unix.NFT_META_IIFTYPE: "iiftype",
			unix.NFT_META_PKTTYPE: "pkttype", unix.NFT_META_CPU: "cpu", unix.NFT_META_IIFGROUP: "iifgroup",
		}[key]
		if !ok {
			name = fmt.Sprintf("key %d", key)
		}
		v = unknownValue(16, "meta "+name)
	}
	w.load(a[unix.NFTA_META_DREG], v)
}

func (w *walker) setMark(v *value) {
	f, _ := (&value{parts: v.parts, size: v.size}).whole(w.ipv6)
	switch {
	case len(v.known) >= 4:
		n := native.Uint32(v.known)
		w.nft(fmt.Sprintf("meta mark set 0x%08x", n))
		w.mark(n, ^uint32(0))
	case v.known == nil && f == mark && !v.swapped:
		keep, flip := ^uint32(0), uint32(0)
		if v.mask != nil {
			keep = native.Uint32(v.mask)
		}
		if v.flip != nil {
			flip = native.Uint32(v.flip)
		}
		w.nft("meta mark set " + v.text)
		w.mark(flip, ^keep)
	default:
		w.nft("meta mark set " + v.text)
		w.effect(effect{kind: marksUnknown, mask: ^uint32(0)})
		w.marked++
	}
}

func (w *walker) cmp(v *value, op uint32, want []byte) {
	sign := map[uint32]string{unix.NFT_CMP_NEQ: "!=", unix.NFT_CMP_LT: "<", unix.NFT_CMP_LTE: "<=", unix.NFT_CMP_GT: ">",
		unix.NFT_CMP_GTE: ">="}[op]
	constant := v.constant(want)
	switch {
	case v.text == "meta nfproto" && len(want) == 1:
		constant = map[byte]string{unix.NFPROTO_IPV4: "ipv4", unix.NFPROTO_IPV6: "ipv6"}[want[0]]
	case v.mask != nil && sign == "":
		sign = "=="
	}
	from := v.text + " >="
	switch n := len(w.line); {
	case op == unix.NFT_CMP_LTE && n > 1 && w.line[n-2] == from:
		w.line = append(w.line[:n-2], v.text, w.line[n-1]+"-"+constant)
	case op == unix.NFT_CMP_NEQ && strings.HasPrefix(v.text, "ct state & ") && len(v.mask) == 4:
		w.nft("ct state", states(native.Uint32(v.mask)))
	case sign != "":
		w.nft(v.text+" "+sign, constant)
	default:
		w.nft(v.text, constant)
	}
	lowest, highest := make([]byte, len(want)), bytes.Repeat([]byte{0xff}, len(want))
	switch op {
	case unix.NFT_CMP_EQ, unix.NFT_CMP_NEQ:
		w.compare(v, want, op == unix.NFT_CMP_NEQ)
	case unix.NFT_CMP_LT: // not from want on
		w.between(v, want, highest, true)
	case unix.NFT_CMP_GTE:
		w.between(v, want, highest, false)
	case unix.NFT_CMP_GT:
		w.between(v, lowest, want, true)
	case unix.NFT_CMP_LTE:
		w.between(v, lowest, want, false)
	default:
		w.unknown("-m cmp ...")
	}
}

// states are the names of connection tracking's states.
func states(bits uint32) string {
	var list []string
	for i, name := range []string{"invalid", "established", "related", "new"} {
		if bits&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	if bits&64 != 0 {
		list = append(list, "untracked")
	}
	return strings.Join(list, ",")
}

// ordered is the field that a value is, if its bytes are in the order in which
// the kernel compares.
func (w *walker) ordered(v *value, size int) (fieldID, bool) {
	f, ok := v.whole(w.ipv6)
	return f, ok && size == v.size && (f != mark || v.swapped || bigEndianHost)
}

// between adds the condition that a value is in a range, both ends included.
func (w *walker) between(v *value, from, to []byte, not bool) {
	f, ok := w.ordered(v, len(from))
	if !ok || len(to) != len(from) {
		w.unknown(w.guess(v))
		return
	}
	s := span{bigEndian(from), bigEndian(to)}
	if s.first.compare(s.last) > 0 {
		w.never = w.never || !not
		return
	}
	w.add(f, test{spans: []span{s}, not: not})
}

func (w *walker) bitwise(a map[uint16][]byte) {
	v := w.read(a[unix.NFTA_BITWISE_SREG])
	mask, flip := dataOf(a[unix.NFTA_BITWISE_MASK]), dataOf(a[unix.NFTA_BITWISE_XOR])
	const op = 6 // NFTA_BITWISE_OP; 0 is mask and xor
	n := int(be32(a[unix.NFTA_BITWISE_LEN]))
	if v.known == nil && v.parts[0].field == opaque && n > 0 && n <= 64 {
		v = unknownValue(n, v.text)
	}
	if be32(a[op]) != 0 || n != v.size || len(mask) != n || len(flip) != n {
		w.load(a[unix.NFTA_BITWISE_DREG], unknownValue(max(n, 4), v.text+" bitwise"))
		return
	}
	out := *v
	out.mask, out.flip = bytes.Clone(mask), bytes.Clone(flip)
	for i := range mask {
		if v.mask != nil {
			out.mask[i] &= v.mask[i]
		}
		if v.flip != nil {
			out.flip[i] ^= v.flip[i] & mask[i]
		}
	}
	if v.known != nil {
		out.known, out.mask, out.flip = make([]byte, n), nil, nil
		for i := range mask {
			out.known[i] = v.known[i]&mask[i] ^ flip[i]
		}
	}
	print := func(b []byte) string {
		if v.known == nil && len(v.parts) == 1 && v.parts[0].field == mark {
			return fmt.Sprintf("0x%08x", v.number(b).lo)
		}
		return fmt.Sprintf("0x%x", b)
	}
	if bytes.Count(mask, []byte{0xff}) != n {
		out.text += " & " + print(mask)
	}
	if bytes.Count(flip, []byte{0}) != n {
		out.text += " ^ " + print(flip)
	}
	w.load(a[unix.NFTA_BITWISE_DREG], &out)
}

func (w *walker) byteorder(a map[uint16][]byte) {
	v := w.read(a[unix.NFTA_BYTEORDER_SREG])
	out := *v
	switch {
	case bigEndianHost:
	case v.size != 4 || be32(a[unix.NFTA_BYTEORDER_SIZE]) != 4 || be32(a[unix.NFTA_BYTEORDER_LEN]) != 4,
		v.known == nil && (len(v.parts) != 1 || v.parts[0].field != mark):
		out = *unknownValue(v.size, v.text)
	default:
		for _, b := range []*[]byte{&out.known, &out.mask, &out.flip} {
			if *b != nil {
				*b = bytes.Clone(*b)
				slices.Reverse(*b)
			}
		}
		out.swapped = !v.swapped
	}
	w.load(a[unix.NFTA_BYTEORDER_DREG], &out)
}

// hide leaves out what nft does not print: conditions that the next one means
// anyway.
func hide(line string) string {
	for _, p := range []string{"tcp", "udp", "sctp"} {
		line = strings.ReplaceAll(line, "meta l4proto "+p+" "+p+" ", p+" ")
	}
	line = strings.ReplaceAll(line, "meta nfproto ipv4 ip ", "ip ")
	return strings.ReplaceAll(line, "meta nfproto ipv6 ip6 ", "ip6 ")
}
