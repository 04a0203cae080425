package preselect

import "unsafe"

// The layout of a service's memory, which programs compile in.
//
//	  0  turns   8  the first pick that is not there yet 32 | the next pick 32
//	  8  key    20
//	 28  by      4  0: closed
//	 64  keep   40
//	128  picks      the real server's number 32 | the scheduler's own 32
const (
	// Services is how many services there is room for, by number, 0 included; those
	// with higher numbers are Go's. Picks is a ring's size, a power of two, of which
	// one is always kept.
	Services = 1 << 10
	Picks    = 1 << 10

	Stride = 128 + 8*Picks

	OffPosition = 0
	OffKey      = 8
	OffBy       = 28
	OffKeep     = 64
	OffPicks    = 128
)

var (
	_ = [1]struct{}{}[unsafe.Sizeof(Service{})-Stride]
	_ = [1]struct{}{}[unsafe.Offsetof(Service{}.key)-OffKey]
	_ = [1]struct{}{}[unsafe.Offsetof(Service{}.by)-OffBy]
	_ = [1]struct{}{}[unsafe.Offsetof(Service{}.keep)-OffKeep]
	_ = [1]struct{}{}[unsafe.Offsetof(Service{}.picks)-OffPicks]
)
