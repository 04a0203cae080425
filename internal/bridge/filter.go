package bridge

import (
	"maps"
	"math"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/ipvsnl"
)

// window is where a program's sockets of generic netlink are: so many descriptors from first
// on.
type window struct{ first int }

const windowSize = 48

// windowBelow is the window at the end of what a program may have as descriptors, but below
// 1,024, which is as far as select(2) reaches.
func windowBelow(limit uint64) window {
	return window{int(min(limit, 1024)) - windowSize}
}

// Where the filter finds what it looks at (struct seccomp_data). Arguments have 64 bits, of which
// the lower half says all.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

func lowerHalf(arg int) uint32 { return uint32(offArgs + 8*arg) }

// onWindow are the system calls about which the supervisor is asked where the first argument is
// in the window.
var onWindow = []int{unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_SENDMMSG, unix.SYS_WRITE, unix.SYS_WRITEV,
	unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_RECVMMSG, unix.SYS_READ, unix.SYS_READV}

// filter is the program's: ask about what may be for IPVS, with proc also about what names a file,
// allow everything else.
func filter(w window, proc bool) ([]bpf.RawInstruction, error) {
	ask, allow := bpf.RetConstant{Val: unix.SECCOMP_RET_USER_NOTIF}, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	load := func(off uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: off, Size: 4} }
	// A piece is a system call's: it skips what follows of it for any other number.
	list := []bpf.Instruction{load(offArch), bpf.JumpIf{Cond: bpf.JumpEqual, Val: arch, SkipTrue: 1}, allow}
	piece := func(number int, rest ...bpf.Instruction) {
		another := bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(number), SkipTrue: uint8(len(rest))}
		list = append(list, load(offNumber), another)
		list = append(list, rest...)
	}
	is := func(arg int, value uint32, skip uint8) []bpf.Instruction {
		return []bpf.Instruction{load(lowerHalf(arg)), bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: value, SkipTrue: skip}}
	}
	between := func(arg int, first, last uint32) []bpf.Instruction {
		return []bpf.Instruction{load(lowerHalf(arg)),
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: first, SkipTrue: 2},
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: last, SkipTrue: 1}, ask, allow}
	}
	piece(unix.SYS_SOCKET, append(append(is(0, unix.AF_NETLINK, 3), is(2, unix.NETLINK_GENERIC, 1)...), ask, allow)...)
	for _, number := range onWindow {
		piece(number, between(0, uint32(w.first), uint32(w.first+windowSize-1))...)
	}
	for _, number := range []int{unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT} {
		piece(number, append(is(1, unix.IPPROTO_IP, 4), between(2, ipvsnl.FirstOption, ipvsnl.LastOption)...)...)
	}
	if proc {
		for _, number := range slices.Sorted(maps.Keys(pathCalls)) {
			p := pathCalls[number]
			rest := []bpf.Instruction{ask, allow}
			if p.flags != 0 { // what a descriptor is needs no name
				rest = append([]bpf.Instruction{load(lowerHalf(p.flags)),
					bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.AT_EMPTY_PATH, SkipTrue: 1}}, rest...)
			}
			piece(number, rest...)
		}
	}
	list = append(list, allow)
	if len(list) > math.MaxUint16 {
		panic("bridge: the filter is too long")
	}
	return bpf.Assemble(list)
}
