package afpacket

import (
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// markRule adds the rules for one mark rule: none when it cannot match here,
// several when either port may match. act is what it does.
func (b *builder) markRule(f *ipFamily, r *dataplane.MarkRule, act exprs) {
	// The chain belongs to one interface, so this is known beforehand.
	if r.In != "" && matchesInterface(r.In, b.name) == r.NotIn {
		return
	}
	var match exprs
	if r.Proto != 0 {
		match = append(match, meta(metaL4Proto, 1), compare(r.NotProto, 1, []byte{r.Proto}))
	}
	match = append(match, f.address(f.src, r.Src)...)
	match = append(match, f.address(f.dst, r.Dst)...)
	match = append(match, f.packetMatches(r)...)
	match = append(match, b.addrTypes(r)...)
	if len(r.Ports) > 0 && (r.Proto == 0 || r.NotProto) {
		match = join(match, exprs{meta(metaL4Proto, 1), b.lookup(nftables.TypeInetProto, protocolsWithPorts, 1)})
	}
	for _, m := range r.Marks {
		match = append(match, meta(metaMark, 1),
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: hostOrder(m.Mask), Xor: hostOrder(0)},
			compare(m.Not, 1, hostOrder(m.Value)))
	}
	b.byPorts(match, r.Ports, act)
}

// packetMatches are the conditions on a packet beside protocol, addresses, ports and
// mark. The chain's interface has Ethernet headers, or the plane could not take it.
func (f *ipFamily) packetMatches(r *dataplane.MarkRule) (out exprs) {
	for _, m := range r.MACs {
		out = append(out, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6},
			compare(m.Not, 1, m.Addr[:]))
	}
	for _, m := range r.TOS {
		mask, value := []byte{m.Mask}, []byte{m.Value}
		load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 1, Len: 1}
		if !f.is4 { // across two bytes
			load.Offset, load.Len = 0, 2
			mask, value = netOrder(uint16(m.Mask)<<4), netOrder(uint16(m.Value)<<4)
		}
		out = append(out, load,
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: load.Len, Mask: mask, Xor: make([]byte, load.Len)},
			compare(m.Not, 1, value))
	}
	for _, m := range r.Flags {
		out = append(out, transport(13, 1, 1),
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{m.Mask}, Xor: []byte{0}},
			compare(m.Not, 1, []byte{m.Value}))
	}
	for _, side := range []struct {
		offset uint32
		ranges []dataplane.AddrRange
	}{{f.src, r.SrcRanges}, {f.dst, r.DstRanges}} {
		for _, m := range side.ranges {
			op := expr.CmpOpEq
			if m.Not {
				op = expr.CmpOpNeq
			}
			out = append(out, f.load(side.offset, 1),
				&expr.Range{Op: op, Register: 1, FromData: m.First.AsSlice(), ToData: m.Last.AsSlice()})
		}
	}
	return out
}

// addrTypes are the conditions on the types of addresses.
func (b *builder) addrTypes(r *dataplane.MarkRule) (out exprs) {
	for _, side := range []struct {
		load  *expr.Fib
		types []dataplane.AddrTypes
	}{
		{&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagSADDR: true}, r.SrcTypes},
		{&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true}, r.DstTypes},
	} {
		for _, m := range side.types {
			var keys [][]byte
			for i := range uint32(16) {
				if m.Set>>i&1 != 0 {
					keys = append(keys, hostOrder(i))
				}
			}
			out = append(out, side.load)
			if !m.Not { // a type is a number in host order, as a mark is
				out = append(out, b.lookup(nftables.TypeMark, keys, 1))
				continue
			}
			for _, k := range keys {
				out = append(out, differs(1, k))
			}
		}
	}
	return out
}

// byPorts adds the rules that do change when match and all ports hold. For
// "either port" there are two, which exclude one another: changing the mark
// twice would be something else.
func (b *builder) byPorts(match exprs, ports []dataplane.PortMatch, change exprs) {
	const source, dest = 0, 2 // offsets
	if len(ports) == 0 {
		b.add(join(match, change)...)
		return
	}
	m, rest := ports[0], ports[1:]
	with := func(more ...exprs) { b.byPorts(join(append([]exprs{match}, more...)...), rest, change) }
	not := dataplane.PortMatch{Ranges: m.Ranges, Not: true}
	switch {
	case len(m.Ranges) == 0 && !m.Not:
		// No port is in no range.
	case m.Side == dataplane.SourcePort:
		with(b.port(source, m))
	case m.Side == dataplane.DestPort:
		with(b.port(dest, m))
	case m.Not: // neither of them
		with(b.port(source, m), b.port(dest, m))
	default:
		with(b.port(source, m))
		with(b.port(source, not), b.port(dest, m))
	}
}

// protocolsWithPorts have their ports in the first four bytes. In the others
// those bytes mean something else; iptables allows no port condition there.
var protocolsWithPorts = [][]byte{{unix.IPPROTO_TCP}, {unix.IPPROTO_UDP}, {unix.IPPROTO_DCCP}, {unix.IPPROTO_SCTP}, {unix.IPPROTO_UDPLITE}}

// port returns a condition on the port at offset. Without a transport header, in a
// later fragment of IPv4, loading it fails and the rule does not match, negated
// or not; so does xt_tcpudp's. For those of IPv6 see laterMarks.
func (b *builder) port(offset uint32, m dataplane.PortMatch) exprs {
	out := exprs{transport(offset, 2, 1)}
	if m.Not {
		for _, p := range m.Ranges {
			out = append(out, inRange(expr.CmpOpNeq, p))
		}
		return out
	}
	if len(m.Ranges) == 1 {
		return append(out, inRange(expr.CmpOpEq, m.Ranges[0]))
	}
	return append(out, b.lookupPorts(m.Ranges, 1))
}

func inRange(op expr.CmpOp, p dataplane.PortRange) expr.Any {
	return &expr.Range{Op: op, Register: 1, FromData: netOrder(p.First), ToData: netOrder(p.Last)}
}

// address returns a condition on an address.
func (f *ipFamily) address(offset uint32, m dataplane.AddrMatch) exprs {
	if !m.Addr.IsValid() {
		return nil
	}
	return exprs{
		f.load(offset, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.size, Mask: m.Mask.AsSlice(),
			Xor: make([]byte, f.size)},
		compare(m.Not, 1, m.Addr.AsSlice()),
	}
}

// matchesInterface compares as iptables does: a trailing + stands for any
// rest (ip_packet_match by ifname_compare_aligned, net/ipv4/netfilter/ip_tables.c).
func matchesInterface(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "+"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

// lookupPorts finds a port in ranges, merged and sorted.
func (b *builder) lookupPorts(ranges []dataplane.PortRange, reg uint32) expr.Any {
	var elements []nftables.SetElement
	for _, r := range merge(ranges) {
		elements = append(elements, nftables.SetElement{Key: netOrder(r.First)})
		if r.Last < 65535 { // else open-ended
			elements = append(elements, nftables.SetElement{Key: netOrder(r.Last + 1), IntervalEnd: true})
		}
	}
	return b.lookupSet(&nftables.Set{Interval: true, KeyType: nftables.TypeInetService}, elements, reg)
}
