package preselect

import (
	"sync/atomic"
	"unsafe"
)

// The layout of the memory, which programs compile in: a record a service, by its number, and
// beside the records a pool, in which each service that needs one has its sequence.
//
//	  0  turns   8  the first pick that is not there yet 32 | the next pick 32; of a cycle, Cycle and
//	                the version | the last pick
//	  8  serial   4  the service's, of those that have had the number
//	 12  by       4  0: closed
//	 16  version  4  how often that has changed
//	 20  length   4  of a cycle, the pick before it included
//	 24  wrap     4  the pick that follows on a cycle's last
//	 28  at       4  where its sequence is in the pool, in bytes, a multiple of Unit
//	 32  zero     8  which programs do not know
//	 40  ring     4  where the last ring was when it was closed
//	 64  keep    40
//	104  put      8
//
// A sequence is one of these:
//
//	picks    8 each  the real server's number 32 | the scheduler's own 32
//	buckets  4 each  the real server's number, 0: none
//	servers 16 each  the real server's number 32 | the next one 32, as bytes behind the first,
//	                 LastCompared: none | weight 32 | 0
const (
	// Services is how many services there is room for, by number, 0 included; those
	// with higher numbers are Go's. Picks is a ring's size, a power of two, of which
	// one is always kept.
	Services = 1 << 16
	Picks    = 1 << 10

	Stride = 128

	OffPosition = 0
	OffSerial   = 8
	OffBy       = 12
	OffVersion  = 16
	OffLength   = 20
	OffWrap     = 24
	OffAt       = 28
	OffZero     = 32
	OffKeep     = 64
	OffPut      = 104

	// Cycle is set in the position of a cycle.
	Cycle = 1 << 63

	// Pool is how many bytes of sequences there are, a power of two: a Unit for each of Services
	// eight times over, or a Largest for two thousand. By AtMask programs see that a
	// sequence begins in there: it may go on for Largest.
	Pool    = 32 << 20
	Unit    = 64
	Largest = 4 * Buckets
	AtMask  = Pool - Unit

	// Buckets is how many there is room for.
	Buckets    = 1 << 12
	BucketSize = 4

	// MostCompared is how many real servers are compared at most, and LastCompared what the last of
	// them has for the next one.
	MostCompared = 128
	ComparedSize = 16
	LastCompared = ComparedSize * MostCompared
	OffNumber    = 0
	OffNext      = 4
	OffWeight    = 8

	// Golden, SipKey and SipBuckets are package sched's, of ByHash and BySip: the factor of
	// a hash of eight bits, SipHash's key, and how many buckets there are then.
	Golden     = 0x61c88647
	SipKey     = 2654435761
	SipBuckets = 4093
)

// record is what is decided for one service, but for its sequence.
type record struct {
	position uint64 // the first choice that is not there yet 32 | the next choice 32
	serial   uint32
	by       uint32
	version  uint32
	length   uint32
	wrap     uint32
	at       uint32
	_        [2]uint32
	ring     uint32
	_        [5]uint32
	keep     [5]uint64
	put      uint64
	_        [2]uint64
}

// compared is a real server that is compared.
type compared struct {
	dest, next uint32
	weight     int32
	_          uint32
}

// sequence returns where a service's sequence is, whatever another process may have written there.
func (m *Memory) sequence(r *record) unsafe.Pointer {
	return unsafe.Pointer(&m.pool[atomic.LoadUint32(&r.at)&AtMask])
}

// pick is the place of a pick, by its number.
func (m *Memory) pick(r *record, n uint32) *uint64 {
	return (*uint64)(unsafe.Add(m.sequence(r), 8*(n%Picks)))
}

func (m *Memory) buckets(r *record) *[Buckets]uint32 {
	return (*[Buckets]uint32)(m.sequence(r))
}

func (m *Memory) compared(r *record) *[MostCompared]compared {
	return (*[MostCompared]compared)(m.sequence(r))
}

var (
	_ = [1]struct{}{}[unsafe.Sizeof(record{})-Stride]
	_ = [1]struct{}{}[unsafe.Offsetof(record{}.serial)-OffSerial]
	_ = [1]struct{}{}[unsafe.Offsetof(record{}.by)-OffBy]
	_ = [1]struct{}{}[unsafe.Offsetof(record{}.version)-OffVersion]
	_ = [1]struct{}{}[unsafe.Offsetof(record{}.length)-OffLength]
	_ = [1]struct{}{}[unsafe.Offsetof(record{}.wrap)-OffWrap]
	_ = [1]struct{}{}[unsafe.Offsetof(record{}.at)-OffAt]
	_ = [1]struct{}{}[unsafe.Offsetof(record{}.keep)-OffKeep]
	_ = [1]struct{}{}[unsafe.Offsetof(record{}.put)-OffPut]
	_ = [1]struct{}{}[unsafe.Sizeof(compared{})-ComparedSize]
	_ = [1]struct{}{}[unsafe.Offsetof(compared{}.dest)-OffNumber]
	_ = [1]struct{}{}[unsafe.Offsetof(compared{}.next)-OffNext]
	_ = [1]struct{}{}[unsafe.Offsetof(compared{}.weight)-OffWeight]
)
