package afpacket

import (
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// receiveFilter lets everything in but frames to other hosts, which reach us when the
// interface is promiscuous or a bridge's; of that what opens connections, or all the rest.
// So each frame that is ours is let in by one of both.
func receiveFilter(extra dataplane.MAC, opening bool) []bpf.Instruction {
	return slices.Concat(ours(extra), tapFilter(opening))
}

// tapFilter lets in of all frames what opens connections, or all the rest.
func tapFilter(opening bool) []bpf.Instruction {
	const all = 0x7fffffff
	opens, others := bpf.RetConstant{Val: 0}, bpf.RetConstant{Val: all}
	if opening {
		opens, others = others, opens
	}
	return classify(opens, others)
}

// ours ends with 0 for frames to other hosts.
func ours(extra dataplane.MAC) []bpf.Instruction {
	const packetOtherHost = unix.PACKET_OTHERHOST
	none := bpf.RetConstant{Val: 0}
	if extra == (dataplane.MAC{}) {
		return []bpf.Instruction{
			bpf.LoadExtension{Num: bpf.ExtType},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: packetOtherHost, SkipTrue: 1},
			none,
		}
	}
	high := uint32(extra[0])<<24 | uint32(extra[1])<<16 | uint32(extra[2])<<8 | uint32(extra[3])
	low := uint32(extra[4])<<8 | uint32(extra[5])
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: packetOtherHost, SkipTrue: 5},
		bpf.LoadAbsolute{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: high, SkipTrue: 2},
		bpf.LoadAbsolute{Off: 4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: low, SkipTrue: 1},
		none,
	}
}

const (
	// shortest has all that classify looks at: Ethernet, IP and TCP up to its flags.
	shortest = macLen + ipv4Len + tcpFlags + 1
	// mostSYN is how long a SYN may be, so that it fits a slot with what lies in front of
	// it. With data (TCP Fast Open) it may be longer where the MTU is.
	mostSYN  = slotSize - 128
	ipv4Len  = 20
	tcpFlags = 13
	sctpType = 12
	// extensions is behind how many extension headers of IPv6 a SYN is still known.
	extensions = 4
	mostTags   = 2 // besides the one that the kernel takes out
	// etherTypeOldQinQ is what some switches took before 802.1ad.
	etherTypeOldQinQ = 0x9100
)

// classify ends with opens where a frame holds what may open a connection by its look: a
// SYN without RST, also one that acknowledges another, as in active FTP
// (net/netfilter/ipvs/ip_vs_proto_tcp.c, tcp_conn_schedule), and SCTP's INIT. It ends with
// others where it does not, or where that cannot be seen. A load behind a frame's end would
// end either program with 0, so all are checked before.
//
// X is where the header starts that is looked at next, and A or M[0] its protocol.
func classify(opens, others bpf.RetConstant) []bpf.Instruction {
	unless := func(cond bpf.JumpTest, val uint32) []bpf.Instruction { // others
		return []bpf.Instruction{bpf.JumpIf{Cond: cond, Val: val, SkipTrue: 1}, others}
	}
	// has needs n bytes from X on. n is at most shortest.
	has := func(n uint32) []bpf.Instruction {
		return []bpf.Instruction{
			bpf.LoadExtension{Num: bpf.ExtLen},
			bpf.ALUOpConstant{Op: bpf.ALUOpSub, Val: n},
			bpf.JumpIfX{Cond: bpf.JumpGreaterOrEqual, SkipTrue: 1},
			others,
		}
	}
	load := func(off uint32) bpf.Instruction { return bpf.LoadIndirect{Off: off, Size: 1} }
	proto := func(off uint32) []bpf.Instruction {
		return []bpf.Instruction{load(off), bpf.StoreScratch{Src: bpf.RegA, N: 0}}
	}
	by := func(n uint32) []bpf.Instruction { return []bpf.Instruction{bpf.LoadConstant{Dst: bpf.RegA, Val: n}} }
	// advance moves X by A and loads the protocol in A.
	advance := []bpf.Instruction{bpf.ALUOpX{Op: bpf.ALUOpAdd}, bpf.TAX{}, bpf.LoadScratch{Dst: bpf.RegA, N: 0}}

	tcp := slices.Concat(has(tcpFlags+1),
		[]bpf.Instruction{load(tcpFlags), bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 2 | 4}},
		unless(bpf.JumpEqual, 2), []bpf.Instruction{opens})
	sctp := slices.Concat(has(sctpType+1), []bpf.Instruction{load(sctpType)},
		unless(bpf.JumpEqual, 1), []bpf.Instruction{opens})
	transport := slices.Concat(when(unix.IPPROTO_TCP, tcp), when(unix.IPPROTO_SCTP, sctp), []bpf.Instruction{others})

	v4 := slices.Concat(has(ipv4Len),
		[]bpf.Instruction{bpf.LoadIndirect{Off: 6, Size: 2}, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0x1fff}},
		unless(bpf.JumpEqual, 0), proto(9),
		[]bpf.Instruction{
			load(0),
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf},
			bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 2},
		}, advance, transport)

	extension := slices.Concat(has(8), proto(0), []bpf.Instruction{
		load(1),
		bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 3},
	}, advance)
	fragment := slices.Concat(has(8),
		[]bpf.Instruction{bpf.LoadIndirect{Off: 2, Size: 2}, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xfff8}},
		unless(bpf.JumpEqual, 0), proto(0), by(8), advance)
	v6 := slices.Concat(has(ipv6Len), proto(6), by(ipv6Len), advance)
	for range extensions {
		for _, kind := range []uint32{unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS} {
			v6 = append(v6, when(kind, extension)...)
		}
		v6 = append(v6, when(unix.IPPROTO_FRAGMENT, fragment)...)
	}
	v6 = append(v6, transport...)

	return slices.Concat([]bpf.Instruction{bpf.LoadExtension{Num: bpf.ExtLen}},
		unless(bpf.JumpGreaterOrEqual, shortest), unless(bpf.JumpLessOrEqual, mostSYN),
		plain(opens, others), network(0), when(etherTypeIPv4, v4), when(etherTypeIPv6, v6), []bpf.Instruction{others})
}

// when has a block for where A is a value.
func when(val uint32, block []bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: val, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(block))},
	}, block...)
}

// plain decides about IPv4 and IPv6 without tags, options, fragments and extension headers,
// and goes on for others. It knows where things are: the kernel translates loads from a
// fixed offset to a few instructions, and others to a call (net/core/filter.c,
// convert_bpf_ld_abs).
func plain(opens, others bpf.RetConstant) []bpf.Instruction {
	const flagsLen = 5
	flags := func(tcp uint32) []bpf.Instruction {
		return []bpf.Instruction{
			bpf.LoadAbsolute{Off: tcp + tcpFlags, Size: 1},
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 2 | 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: 2, SkipTrue: 1},
			others,
			opens,
		}
	}
	load := func(off uint32, size int) bpf.Instruction { return bpf.LoadAbsolute{Off: off, Size: size} }
	v4 := append([]bpf.Instruction{
		load(macLen+9, 1),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_SCTP, SkipTrue: 5 + flagsLen},
		others,
		load(macLen, 1),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x45, SkipTrue: 2 + flagsLen},
		load(macLen+6, 2),
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: flagsLen},
	}, flags(macLen+ipv4Len)...)
	v6 := append([]bpf.Instruction{
		load(macLen+6, 1),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 1},
		others,
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 2 + flagsLen},
		bpf.LoadExtension{Num: bpf.ExtLen},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: macLen + ipv6Len + tcpFlags + 1, SkipTrue: flagsLen},
	}, flags(macLen+ipv6Len)...)
	etherType := []bpf.Instruction{load(macLen-2, 2)}
	return slices.Concat(etherType, when(etherTypeIPv4, v4), etherType, when(etherTypeIPv6, v6))
}

// network has where the network header starts in X, and its type in A. The kernel keeps the
// first tag beside the frame, and n have been found in it.
func network(n uint32) []bpf.Instruction {
	at := []bpf.Instruction{
		bpf.LoadConstant{Dst: bpf.RegX, Val: macLen + n*tagLen},
		bpf.LoadAbsolute{Off: macLen - 2 + n*tagLen, Size: 2},
	}
	if n == mostTags {
		return at
	}
	behind := network(n + 1)
	return slices.Concat(at, []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherTypeVLAN, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherTypeQinQ, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherTypeOldQinQ, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(behind))},
	}, behind)
}
