package afpacket

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// builder adds rules to one chain. Its first error stays.
type builder struct {
	conn  *nftables.Conn
	table *nftables.Table
	chain *nftables.Chain
	name  string // the interface
	sets  *setNumbers
	made  []string // chains beside the interface's own
	times int      // how often the tables were made
	err   error
}

// setNumbers tells the sets of one batch apart.
type setNumbers struct{ last uint32 }

type exprs []expr.Any

func join(parts ...exprs) exprs { return slices.Concat(parts...) }

func (b *builder) add(e ...expr.Any) {
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: b.chain, Exprs: e})
}

// setSize is how many elements go into one set: a netlink attribute holds
// 64 KiB.
const setSize = 500

// drop adds rules that drop a packet when match holds and what it left in the
// registers from reg on is among keys.
func (b *builder) drop(t nftables.SetDatatype, keys [][]byte, reg uint32, match ...exprs) {
	for part := range slices.Chunk(unique(keys), setSize) {
		b.add(append(join(match...), b.lookup(t, part, reg), &expr.Verdict{Kind: expr.VerdictDrop})...)
	}
}

// unique sorts keys and removes what is there twice, which a set refuses.
func unique(keys [][]byte) [][]byte {
	keys = slices.Clone(keys)
	slices.SortFunc(keys, slices.Compare)
	return slices.CompactFunc(keys, func(a, b []byte) bool { return slices.Equal(a, b) })
}

// lookup returns a comparison where there is only one key, which costs every packet 300
// instructions less than a set (Linux 6.1).
func (b *builder) lookup(t nftables.SetDatatype, keys [][]byte, reg uint32) expr.Any {
	const comparable = 16 // bytes
	if len(keys) == 1 && len(keys[0]) <= comparable {
		return equals(reg, keys[0])
	}
	return b.lookupSet(&nftables.Set{KeyType: t}, elements(keys), reg)
}

// lookupSet makes an anonymous set for one rule. The library's own numbering
// of sets is one variable for the whole process, without a lock.
func (b *builder) lookupSet(set *nftables.Set, elements []nftables.SetElement, reg uint32) expr.Any {
	b.sets.last++
	set.Table, set.Name, set.ID = b.table, "__set%d", b.sets.last
	set.Anonymous, set.Constant = true, true
	if err := b.conn.AddSet(set, elements); err != nil && b.err == nil {
		b.err = fmt.Errorf("cannot make a set of %s: %w", set.KeyType.Name, err)
	}
	return &expr.Lookup{SourceRegister: reg, SetName: set.Name, SetID: set.ID}
}

func (b *builder) setMark(mark uint32) {
	b.add(&expr.Immediate{Register: 1, Data: hostOrder(mark)},
		&expr.Meta{Key: metaMark, Register: 1, SourceRegister: true})
}

const (
	metaPktType = expr.MetaKeyPKTTYPE
	metaL4Proto = expr.MetaKeyL4PROTO
	metaMark    = expr.MetaKeyMARK
)

var accept = &expr.Verdict{Kind: expr.VerdictAccept}

func meta(k expr.MetaKey, reg uint32) expr.Any { return &expr.Meta{Key: k, Register: reg} }

func compare(not bool, reg uint32, data []byte) expr.Any {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	return &expr.Cmp{Op: op, Register: reg, Data: data}
}

func equals(reg uint32, data []byte) expr.Any  { return compare(false, reg, data) }
func differs(reg uint32, data []byte) expr.Any { return compare(true, reg, data) }

// transport loads from the transport header. In a later fragment there is
// none, and the rule ends.
func transport(offset, size, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: size}
}

// ipFamily says where things are in an IP header.
type ipFamily struct {
	is4       bool
	etherType uint16
	src, dst  uint32
	size      uint32
}

var (
	ipv4 = ipFamily{is4: true, etherType: unix.ETH_P_IP, src: 12, dst: 16, size: 4}
	ipv6 = ipFamily{etherType: unix.ETH_P_IPV6, src: 8, dst: 24, size: 16}
)

// is holds for packets of the family.
func (f *ipFamily) is() exprs {
	return exprs{meta(expr.MetaKeyPROTOCOL, 1), equals(1, netOrder(f.etherType))}
}

func (f *ipFamily) load(offset, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size}
}

// registers are 32 bits wide from 8 on; a concatenation uses adjacent ones.
func (f *ipFamily) registers() (addr, proto, port uint32) {
	return 8, 8 + f.size/4, 9 + f.size/4
}

func (f *ipFamily) addrType() nftables.SetDatatype {
	if f.is4 {
		return nftables.TypeIPAddr
	}
	return nftables.TypeIP6Addr
}

func (f *ipFamily) addrProto() nftables.SetDatatype {
	return nftables.MustConcatSetType(f.addrType(), nftables.TypeInetProto)
}

func (f *ipFamily) addrProtoPort() nftables.SetDatatype {
	return nftables.MustConcatSetType(f.addrType(), nftables.TypeInetProto, nftables.TypeInetService)
}

// laterFragment holds for all fragments but the first.
func (f *ipFamily) laterFragment() exprs {
	load := expr.Any(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 6, Len: 2})
	mask := []byte{0x1f, 0xff}
	if !f.is4 {
		load = &expr.Exthdr{DestRegister: 1, Type: unix.IPPROTO_FRAGMENT, Offset: 2, Len: 2, Op: expr.ExthdrOpIpv6}
		mask = []byte{0xff, 0xf8}
	}
	return exprs{
		load,
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: mask, Xor: []byte{0, 0}},
		differs(1, []byte{0, 0}),
	}
}

func netOrder(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// hostOrder returns how marks are in registers.
func hostOrder(v uint32) []byte { return native.AppendUint32(nil, v) }

// merge sorts ranges and joins those that overlap or touch.
func merge(ranges []dataplane.PortRange) []dataplane.PortRange {
	sorted := slices.SortedFunc(slices.Values(ranges),
		func(a, b dataplane.PortRange) int { return cmp.Compare(a.First, b.First) })
	out := sorted[:0]
	for _, r := range sorted {
		if n := len(out); n > 0 && int(r.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}
