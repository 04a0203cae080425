package accel

import "unsafe"

// Where the counts of a Crossing are, for programs.
const (
	OffHanded = 0
	OffLeft   = 4

	CrossingSize = 8
)

var (
	_ = [1]struct{}{}[unsafe.Offsetof(Crossing{}.Handed)-OffHanded]
	_ = [1]struct{}{}[unsafe.Offsetof(Crossing{}.Left)-OffLeft]
	_ = [1]struct{}{}[unsafe.Sizeof(Crossing{})-CrossingSize]
)
