package shtab

import (
	"fmt"
	"unsafe"
)

// The layout of a table's memory. XDP programs compile these offsets in; accel.Layout goes
// with it.
//
//	0             header (one page)
//	HeaderSize    slots: home slots that keys hash to, in pairs, then the overflow
//
// A slot is one cache line of 64 bytes:
//
//	 0  word   8  tag 16, of which the highest bit is set | owner's value 48;
//	               without a tag: not valid. Published last.
//	 8  key   40  as packet.Flow packs it
//	48  next   4  index+1 of the next slot of the chain; 0: none
//	52  stamp  4  when last used, in ticks
//	56  state  4  the owner's
//	60  count  4  the owner's
const (
	HeaderSize = 4096
	SlotSize   = 64

	OffWord  = 0
	OffKey   = 8
	OffNext  = 48
	OffStamp = 52
	OffState = 56
	OffCount = 60
)

// header is the start of a table's memory. What a second process, or an XDP
// program, needs in order to look up keys is all here.
type header struct {
	magic uint64
	slot  uint32 // SlotSize
	max   uint32 // entries at most
	home  uint32 // slots that keys hash to
	slots uint32 // all
	hz    uint32 // ticks in a second
	_     uint32
	seed  Seed
}

const magic = 0x7673_6c75_6261_7431 // "1tabulsv"

type slot struct {
	word  uint64
	key   Key
	next  uint32
	stamp uint32
	state uint32
	count uint32
}

// A CPU's rings (Rings). Each side's position has a line of its own.
//
//	 0     fillAt           4  the programs' position in the fill ring
//	52     stamp, count    12  of what has no entry, where a slot has them
//	64     completionAt     4  their position in the completion ring
//	68     answered         4  how many entries they have found answered, as the owner means it
//	128    fill         16384  cells of slots that may be used
//	       completion   16384  cells of slots that were used, or that have news
const (
	RingCells   = 1 << 12
	RingsStride = 2*SlotSize + 2*RingCells*4

	OffFillAt       = 0
	OffCompletionAt = SlotSize
	OffAnswered     = OffCompletionAt + 4
	OffFill         = 2 * SlotSize
	OffCompletion   = OffFill + RingCells*4

	// ChangedCell is set in a cell of the completion ring whose slot was not used, but has an
	// entry whose state a program has changed.
	ChangedCell = 1 << 31
)

type cpuRings struct {
	fillAt       uint32
	_            [SlotSize/4 - 1]uint32 // among it stamp and count
	completionAt uint32
	answered     uint32
	_            [SlotSize/4 - 2]uint32
	fill         [RingCells]uint32
	completion   [RingCells]uint32
}

// layOver lays a table over a block. The block must start on a cache line and
// live as long as the table.
func layOver(block []byte, slots uint32) (*header, []slot, error) {
	if need := HeaderSize + int(slots)*SlotSize; len(block) < need {
		return nil, nil, fmt.Errorf("memory of %d bytes is too small: %d slots need %d", len(block), slots, need)
	}
	p := unsafe.Pointer(unsafe.SliceData(block))
	if uintptr(p)%SlotSize != 0 {
		return nil, nil, fmt.Errorf("memory has to start on a cache line of %d bytes", SlotSize)
	}
	h := (*header)(p)
	return h, unsafe.Slice((*slot)(unsafe.Add(p, HeaderSize)), slots), nil
}

// Compile-time proof of the offsets above.
var (
	_ = [1]struct{}{}[unsafe.Sizeof(slot{})-SlotSize]
	_ = [1]struct{}{}[unsafe.Offsetof(slot{}.key)-OffKey]
	_ = [1]struct{}{}[unsafe.Offsetof(slot{}.next)-OffNext]
	_ = [1]struct{}{}[unsafe.Offsetof(slot{}.stamp)-OffStamp]
	_ = [1]struct{}{}[unsafe.Offsetof(slot{}.state)-OffState]
	_ = [1]struct{}{}[unsafe.Offsetof(slot{}.count)-OffCount]
	_ = [1]struct{}{}[unsafe.Sizeof(cpuRings{})-RingsStride]
	_ = [1]struct{}{}[unsafe.Offsetof(cpuRings{}.completionAt)-OffCompletionAt]
	_ = [1]struct{}{}[unsafe.Offsetof(cpuRings{}.answered)-OffAnswered]
	_ = [1]struct{}{}[unsafe.Offsetof(cpuRings{}.fill)-OffFill]
	_ = [1]struct{}{}[unsafe.Offsetof(cpuRings{}.completion)-OffCompletion]
)

// offset returns how many bytes of b lie before the first address that is a multiple of
// size, a power of two.
func offset(b []byte, size uintptr) int {
	return int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (size - 1))
}

// sizeOf makes no R, which may be large.
func sizeOf[R any]() int { return int(unsafe.Sizeof(*(*R)(nil))) }

// records lays a slice over a block that is large enough.
func records[R any](block []byte, n int) []R {
	return unsafe.Slice((*R)(unsafe.Pointer(unsafe.SliceData(block))), n)
}
