package timerwheel

import "unsafe"

// records finds the Link of a record by arithmetic: the wheel cannot know the
// owner's type, and a call through a function value for each link costs more
// than all the rest.
type records struct {
	base   unsafe.Pointer // the Link of record 0
	stride uintptr
	n      uint32
}

func newRecords[R any](recs []R, link func(*R) *Link) records {
	if len(recs) == 0 {
		return records{}
	}
	return records{
		base:   unsafe.Pointer(link(&recs[0])),
		stride: unsafe.Sizeof(recs[0]),
		n:      uint32(len(recs)),
	}
}

// at panics on an index beyond the records, as a slice does.
func (r *records) at(i uint32) *Link {
	if i >= r.n {
		panic("timerwheel: index out of range")
	}
	return (*Link)(unsafe.Add(r.base, uintptr(i)*r.stride))
}
