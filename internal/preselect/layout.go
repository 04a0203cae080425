package preselect

import "unsafe"

// The layout of a service's memory, which programs compile in.
//
//	  0  turns   8  the first pick that is not there yet 32 | the next pick 32; of a cycle, Cycle and
//	                the version | the last pick
//	  8  serial   4  the service's, of those that have had the number
//	 12  by       4  0: closed
//	 16  version  4  how often that has changed
//	 20  length   4  of a cycle, the pick before it included
//	 24  wrap     4  the pick that follows on a cycle's last
//	 32  zero     8  which programs do not know
//	 64  keep    40
//	104  put      8
//	128  picks      the real server's number 32 | the scheduler's own 32
//	128  buckets    the real server's number 16, 0: none, in the place of picks
//	128  servers    weight 32 | the next one 16, as bytes behind the first, LastCompared: none |
//	                number 16, in the place of picks
const (
	// Services is how many services there is room for, by number, 0 included; those
	// with higher numbers are Go's. Picks is a ring's size, a power of two, of which
	// one is always kept.
	Services = 1 << 10
	Picks    = 1 << 10

	Stride = 128 + 8*Picks

	OffPosition = 0
	OffSerial   = 8
	OffBy       = 12
	OffVersion  = 16
	OffLength   = 20
	OffWrap     = 24
	OffZero     = 32
	OffKeep     = 64
	OffPut      = 104
	OffPicks    = 128

	// Cycle is set in the position of a cycle.
	Cycle = 1 << 63

	// Buckets is how many there is room for.
	Buckets = 4 * Picks

	// MostCompared is how many real servers are compared at most, and LastCompared what the last of
	// them has for the next one.
	MostCompared = 128
	LastCompared = 8 * MostCompared

	// Golden, SipKey and SipBuckets are package sched's, of ByHash and BySip: the factor of
	// a hash of eight bits, SipHash's key, and how many buckets there are then.
	Golden     = 0x61c88647
	SipKey     = 2654435761
	SipBuckets = 4093
)

// buckets are in the place of the picks.
func (s *Service) buckets() *[Buckets]uint16 { return (*[Buckets]uint16)(unsafe.Pointer(&s.picks)) }

var (
	_ = [1]struct{}{}[unsafe.Sizeof(Service{})-Stride]
	_ = [1]struct{}{}[unsafe.Offsetof(Service{}.serial)-OffSerial]
	_ = [1]struct{}{}[unsafe.Offsetof(Service{}.by)-OffBy]
	_ = [1]struct{}{}[unsafe.Offsetof(Service{}.version)-OffVersion]
	_ = [1]struct{}{}[unsafe.Offsetof(Service{}.length)-OffLength]
	_ = [1]struct{}{}[unsafe.Offsetof(Service{}.wrap)-OffWrap]
	_ = [1]struct{}{}[unsafe.Offsetof(Service{}.keep)-OffKeep]
	_ = [1]struct{}{}[unsafe.Offsetof(Service{}.put)-OffPut]
	_ = [1]struct{}{}[unsafe.Offsetof(Service{}.picks)-OffPicks]
)
